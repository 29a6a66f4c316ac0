"""Recipes: named settings with their source and the accuracy to expect. A recipe can also be read from a file.

A recipe decides every option of `TrainSettings` that is marked `BY_RECIPE`; options given by hand override it. Numbers
in `reported` come from the source; numbers in `measured` were measured with this suite. If a source leaves a value
open, it is chosen here and marked "ours" in a comment or in `source`.
"""

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from ..errors import did_you_mean
from ..system.files import open_file, user_path

Values = Mapping[str, bool | int | float | str]


class RecipeError(ValueError):
    """The recipe does not exist, or the file is not a recipe; the message is one line."""


@dataclass(frozen=True)
class Recipe:
    """Values for the options that a recipe decides, and their source."""

    summary: str
    source: str
    reported: str
    measured: str
    values: Values


# The hole of DeVries & Taylor 2017 (arXiv 1708.04552) for CIFAR-10: one square of 16 of 32 pixels on every image, its
# centre anywhere in the image, filled with the mean. All recipes contain it, so cutout=true gives the published hole.
PUBLISHED_CUTOUT: Values = {
    "cutout": False,
    "cutout_holes": 1,
    "cutout_size": "0.5",
    "cutout_p": 1.0,
    "cutout_fill": "mean",
    "cutout_placement": "published",
}


AUGMENTATIONS_OFF: Values = {
    "augmentation": "none",
    "random_resized_crop": 0.0,
    "grayscale": 0.0,
    "gaussian_noise": 0.0,
    "trivial_augment": False,
    "rand_augment": 0,
    "auto_augment": "none",
    "augmix": 0,
    "random_erasing": 0.0,
    "mixup": 0.0,
    "cutmix": 0.0,
}


# Values with which an option changes nothing: those of recipe files that do not mention it, which older versions wrote.
OFF: Values = {
    "image_size": "auto",
    "weights": "none",
    "small_stem": False,
    "normalise": "auto",
    "lr_head": "none",
    "optimizer_args": "none",
    "grad_clip": 0.0,
    "accumulate": 1,
    "freeze": "none",
    "ema": 0.0,
    "class_weights": "none",
    **AUGMENTATIONS_OFF,
}


# Plain SGD on flipped images. Whatever a recipe does not mention is off.
PLAIN: Values = {
    "model": "resnet18",
    "dropout": 0.0,
    "epochs": 20,
    "batch_size": 128,
    "lr": 0.1,
    "optimizer": "sgd",
    "momentum": 0.9,
    "momentum_swing": 0.0,
    "nesterov": False,
    "weight_decay": 0.0,
    "schedule": "constant",
    "lr_warmup": 0.0,
    "lr_steps": "none",
    "lr_gamma": 1.0,
    "label_smoothing": 0.0,
    "l1": 0.0,
    "l2_norm": 0.0,
    "sides": "none",
    "test_flip": False,
    "track_test": False,
    "holdout": True,
    "hflip": 0.5,
    "hflip_mode": "random",
    "affine_p": 0.0,
    "shift": 0.0,
    "scale": 0.0,
    "rotate": 0.0,
    "crop_padding": "0",
    "border": "black",
    "hsv_p": 0.0,
    "hue": 0,
    "saturation": 0,
    "value": 0,
    **PUBLISHED_CUTOUT,
    **OFF,
}


# Published accuracies were measured on the test images after every epoch, with all 50,000 other images for training.
AS_PUBLISHED: Values = {"holdout": False, "track_test": True}


# Our changes to airbench94_muon.py: narrower, smaller batches with a matching learning rate, small images first.
AIRBENCH: Values = {
    **PLAIN,
    "model": "fastnet",
    "epochs": 8,
    "batch_size": 500,
    "lr": 0.12,
    "optimizer": "muon",
    "momentum": 0.6,
    "nesterov": True,
    "weight_decay": 1e-3,
    "schedule": "linear",
    "label_smoothing": 0.2,
    "sides": "20,24,32",
    "test_flip": True,
    "hflip_mode": "alternating",
    "crop_padding": "0.0625",
    "border": "reflect",
}


DEVRIES_TAYLOR: Values = {
    **PLAIN,
    **AS_PUBLISHED,
    "epochs": 200,
    "nesterov": True,
    "weight_decay": 5e-4,
    "schedule": "step",
    "lr_steps": "60,120,160",
    "lr_gamma": 0.2,
    "crop_padding": "0.125",
}


def _recipe(summary: str, source: str, reported: str, measured: str, values: Values) -> Recipe:
    return Recipe(summary, source, reported, measured, MappingProxyType(dict(values)))


RECIPES: dict[str, Recipe] = {
    "fast": _recipe(
        summary="small net with Muon, about two minutes of training on two CPU cores",
        source="ours, after K. Jordan's airbench94_muon (arXiv 2404.00498, github.com/KellerJordan/cifar10-airbench)",
        reported="none",
        measured="90.59 ± 0.08 % test accuracy, 3 seeds; 2.5 minutes on two CPU cores",
        values=AIRBENCH,
    ),
    "fast_94": _recipe(
        summary="the net of fast in airbench's wider size; 10 epochs, all images at full size",
        source="ours, after K. Jordan's airbench94_muon, which trains 8 epochs at batch 2,000",
        reported="94.01 %, mean of 200 runs, with test-time flips and shifts",
        measured="94.26 % with mirror images, 93.64 % without, one seed; 14 minutes on two CPU cores",
        values={**AIRBENCH, **AS_PUBLISHED, "model": "fastnet_wide", "epochs": 10, "sides": "none"},
    ),
    "resnet18": _recipe(
        summary="ResNet-18 with cosine annealing; many hours on a CPU, minutes on a GPU",
        source="kuangliu/pytorch-cifar, main.py (as of 2024), issue 149 for the accuracy",
        reported="95.67 %, the best test epoch of one run",
        measured="not run in full",
        values={
            **PLAIN,
            **AS_PUBLISHED,
            "epochs": 200,
            "weight_decay": 5e-4,
            "schedule": "cosine",
            "crop_padding": "0.125",
        },
    ),
    "resnet18_steplr": _recipe(
        summary="ResNet-18, StepLR, 20 epochs, one random hole in half of the images",
        source="a published course project; ours: momentum, the step at epoch 15 by 0.1, every "
        "limit and probability, padding of 4 pixels, black borders, the hole of 16 pixels filled with the mean",
        reported="88.95 % in epoch 20",
        measured="89.58 % after the last epoch, which is the best; one seed; 1.8 hours on two CPU cores, with breaks",
        values={
            **PLAIN,
            **AS_PUBLISHED,
            "epochs": 20,
            "batch_size": 64,
            "lr": 0.01,
            "schedule": "step",
            "lr_steps": "15",
            "lr_gamma": 0.1,
            # The default limits of albumentations' ShiftScaleRotate.
            "affine_p": 0.5,
            "shift": 0.0625,
            "scale": 0.1,
            "rotate": 45.0,
            "crop_padding": "0.125",
            "cutout": True,
            "cutout_p": 0.5,
            "cutout_placement": "inside",
        },
    ),
    "resnet18_onecycle": _recipe(
        summary="ResNet-18, OneCycleLR, 35 epochs, dropout, L1 and L2",
        source="a published course project; OneCycleLR with PyTorch's defaults, which move the momentum of 0.9 between "
        "0.95 and 0.85; ours: one 2-norm of all parameters together, changes of hue and colour, mirrored borders (the "
        "default of albumentations before version 2), dropout only before the classifier",
        reported="92.14 % in epoch 33",
        measured="not run in full; 90.55 % in 15 epochs, one seed; 245 s per epoch on two CPU cores",
        values={
            **PLAIN,
            **AS_PUBLISHED,
            "epochs": 35,
            "batch_size": 64,
            "lr": 0.01,
            "schedule": "onecycle",
            "lr_warmup": 0.3,
            "momentum_swing": 0.05,
            "dropout": 0.15,
            "l1": 1e-6,
            "l2_norm": 1e-3,
            "affine_p": 0.5,
            "rotate": 15.0,
            "border": "reflect",
            # The default limits of albumentations' HueSaturationValue.
            "hsv_p": 0.25,
            "hue": 20,
            "saturation": 30,
            "value": 20,
            "cutout": True,
            "cutout_size": "0.125-0.5",
            "cutout_p": 0.75,
            "cutout_placement": "inside",
        },
    ),
    "resnet18_cutout": _recipe(
        summary="ResNet-18 with Cutout, 200 epochs; many hours on a CPU",
        source="DeVries & Taylor 2017 (arXiv 1708.04552) and uoguelph-mlrg/Cutout, train.py",
        reported="96.01 %, mean of 5 runs",
        measured="not run in full",
        values={**DEVRIES_TAYLOR, "cutout": True},
    ),
    "resnet18_no_cutout": _recipe(
        summary="as resnet18_cutout, but without Cutout",
        source="DeVries & Taylor 2017 (arXiv 1708.04552) and uoguelph-mlrg/Cutout, train.py",
        reported="95.28 %, mean of 5 runs",
        measured="not run in full",
        values=DEVRIES_TAYLOR,
    ),
    "finetune": _recipe(
        summary="ResNet-50 with torchvision's weights, for data of your own; a GPU, or few images",
        source="ours: AdamW, cosine with warm-up, and ten times the rate for the new classifier",
        reported="none",
        measured="not run in full",
        values={
            **PLAIN,
            "model": "torchvision:resnet50",
            "weights": "DEFAULT",
            "epochs": 10,
            "batch_size": 32,
            "lr": 1e-4,
            "lr_head": 1e-3,
            "optimizer": "adamw",
            "weight_decay": 0.05,
            "schedule": "cosine",
            "lr_warmup": 0.1,
            "label_smoothing": 0.1,
            "random_resized_crop": 0.35,
        },
    ),
    "scratch_224": _recipe(
        summary="ResNet-50 from random weights, images of 224 pixels; made for ImageNet and GPUs",
        source="torchvision, references/classification (as of 2024), its batch of 8 GPUs in one; ours: images are "
        "evaluated whole, not their centre",
        reported="76.13 % on ImageNet",
        measured="not run in full",
        values={
            **PLAIN,
            "image_size": 224,
            "model": "torchvision:resnet50",
            "normalise": "imagenet",
            "epochs": 90,
            "batch_size": 256,
            "weight_decay": 1e-4,
            "schedule": "step",
            "lr_steps": "30,60",
            "lr_gamma": 0.1,
            "random_resized_crop": 0.08,
        },
    ),
}


def find(name: str) -> Recipe:
    """The recipe with this name, or the recipe in this file if `name` ends in .toml.

    Raises:
        RecipeError: no such recipe; or the file is missing, is not TOML or contains something that no recipe has.
    """
    if name.endswith(".toml"):
        return read(user_path(name))
    if name not in RECIPES:
        raise RecipeError(f"must be one of {', '.join(RECIPES)}, or a FILE.toml{did_you_mean(name, list(RECIPES))}")
    return RECIPES[name]


def read(path: Path) -> Recipe:
    """The recipe in a TOML file: `summary`, `source`, `reported`, all optional; `base`, the recipe to start from; and
    a table `settings` with the options that differ from it. Without `base`, the file must decide every option.

    Raises:
        RecipeError: the file is missing, is not TOML or contains something that no recipe has. The settings check the
        values.
    """
    try:
        with open_file(path) as file:
            content = tomllib.loads(file.read().decode("utf-8-sig"))  # some editors write a mark before the text
    except (OSError, ValueError, RecursionError) as error:  # no file, no TOML, numbers too long, lists too deep
        why = error.strerror if isinstance(error, OSError) else error
        raise RecipeError(f"cannot be read as a recipe ({why})") from error
    texts = {name: str(content.pop(name, "")) for name in ("base", "summary", "source", "reported")}
    given = content.pop("settings", {})
    if not isinstance(given, dict):
        raise RecipeError("settings must be a table: write the options below a line [settings]")
    if content:
        cure = "; write options below the line [settings]" if content.keys() & PLAIN.keys() else ""
        parts = "base, summary, source, reported, [settings]"
        raise RecipeError(f"{', '.join(content)}: not part of a recipe file, which has {parts}{cure}")
    if unknown := [name for name in given if name not in PLAIN]:
        raise RecipeError(f"{unknown[0]!r} is not an option of a recipe{did_you_mean(unknown[0], list(PLAIN))}")
    if not texts["base"] and (missing := [name for name in PLAIN if name not in {*OFF, *given}]):
        raise RecipeError(f'does not decide {", ".join(missing)}; add them, or base = "fast" to start from a recipe')
    if texts["base"] and texts["base"] not in RECIPES:
        raise RecipeError(
            f"base {texts['base']!r} must be one of {', '.join(RECIPES)}{did_you_mean(texts['base'], list(RECIPES))}"
        )
    if wrong := [name for name, value in given.items() if isinstance(value, bool) != isinstance(PLAIN[name], bool)]:
        what = "true or false" if isinstance(PLAIN[wrong[0]], bool) else "a number or a text, not true or false"
        raise RecipeError(f"{wrong[0]} = {json.dumps(given[wrong[0]], default=str)} must be {what}")
    base = RECIPES[texts["base"]].values if texts["base"] else OFF
    if "epochs" in given and "lr_steps" not in given and texts["base"]:
        base = with_steps_for(given["epochs"], base)
    return _recipe(texts["summary"] or path.stem, texts["source"], texts["reported"], "", {**base, **given})


def side_of(values: Values) -> int:
    """The side of the images, in pixels, for which a recipe's batch was chosen."""
    usual = 32 if values["weights"] == "none" else 224
    return usual if values["image_size"] == "auto" else int(values["image_size"])


def with_steps_for(epochs: object, values: Values) -> Values:
    """The values of a recipe, with its lr_steps moved in proportion to another number of epochs.

    Unchanged if there are no steps to move, or if a value is wrong, which is reported elsewhere.
    """
    try:
        length = int(str(epochs))
        parts = [int(part) * length / int(values["epochs"]) for part in str(values["lr_steps"]).split(",")]
    except (ValueError, ArithmeticError):  # lr_steps is none, too
        return values
    if values["schedule"] != "step" or length < 1:
        return values
    steps = [step for step in sorted({max(1, round(part)) for part in parts}) if step < length]
    if not steps:
        return {**values, "schedule": "constant", "lr_steps": "none"}
    return {**values, "lr_steps": ",".join(map(str, steps))}


def as_toml(summary: str, values: Values) -> str:
    """A recipe file that decides every option; `read` reads it back to the same values."""
    head = [f"summary = {_toml(summary)}", "", "[settings]"]
    return "\n".join([*head, *(f"{name} = {_toml(values[name])}" for name in PLAIN), ""])


def _toml(value: bool | int | float | str) -> str:
    # Numbers, booleans and strings are written the same way in JSON and in TOML, except for one control character.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
