"""The options of a training that have no effect because of its other options."""

from typing import Any

from .base import NONE
from .parts import WITH, is_foreign

GEOMETRY = (
    "hflip",
    "hflip_mode",
    "affine_p",
    "shift",
    "scale",
    "rotate",
    "crop_padding",
    "random_resized_crop",
    "border",
)
COLOUR = ("hsv_p", "hue", "saturation", "value", "grayscale", "gaussian_noise")
POLICIES = ("trivial_augment", "rand_augment", "auto_augment", "augmix")


def idle(settings: Any) -> dict[str, tuple[str, str]]:
    """These options of `TrainSettings`, each with the reason and with an option that gives it an effect."""
    found = _of_optimisation(settings) | _of_parts(settings)
    if settings.augmentation != NONE:
        why = (f"augmentation is {settings.augmentation}", "augmentation=none")
        found |= dict.fromkeys((*GEOMETRY, *COLOUR, *POLICIES), why)
    if settings.augment_path == "batch" and not settings.image_by_image:
        found["augment_workers"] = ("whole batches are transformed", "trivial_augment=true")
    return found


def _of_parts(settings: Any) -> dict[str, tuple[str, str]]:
    idle = {}
    for name in type(settings).model_fields:
        if name.startswith("cutout_") and not settings.cutout:
            idle[name] = ("cutout is false", "cutout=true")
    if not settings.hflip:
        idle["hflip_mode"] = ("hflip is 0", "hflip=0.5")
    for name in ("shift", "scale", "rotate"):
        if not settings.affine_p:
            idle[name] = ("affine_p is 0", "affine_p=0.5")
    for name in ("hue", "saturation", "value"):
        if not settings.hsv_p:
            idle[name] = ("hsv_p is 0", "hsv_p=0.5")
    if not settings.padding and not settings.affine_p:
        idle["border"] = ("crop_padding and affine_p are 0", "crop_padding=4")
    if settings.dataset not in ("auto", "scenes"):
        idle["background_bias"] = (f"dataset is {settings.dataset}", "dataset=scenes")
    if not settings.dataset.startswith(("folder:", "csv:")):
        idle |= dict.fromkeys(("on_bad", "centre_crop"), (f"dataset is {settings.dataset}", "dataset=folder:PATH"))
    if is_foreign(settings.model):
        idle["dropout"] = (f"model is {settings.model}", "model=resnet18")
    if not settings.model.startswith("torchvision:"):
        idle["small_stem"] = (f"model is {settings.model}", "model=torchvision:resnet18")
    if settings.dataset == "scenes":
        idle["interpolation"] = ("the scenes are drawn at any size", "dataset=cifar10")
    return idle


def _of_optimisation(settings: Any) -> dict[str, tuple[str, str]]:
    idle = {}
    needs = {
        "lr_steps": ("schedule", ("step",)),
        "lr_gamma": ("schedule", ("step",)),
        "lr_warmup": ("schedule", ("cosine", "onecycle")),
        "momentum_swing": ("schedule", ("onecycle",)),
        **{name: ("optimizer", optimisers) for name, optimisers in WITH.items()},
    }
    for name, (option, values) in needs.items():
        if (value := getattr(settings, option)) not in values:
            idle[name] = (f"{option} is {value}", f"{option}={values[0]}")
    if settings.schedule == "onecycle" and "momentum" in idle:
        idle["momentum_swing"] = idle["momentum"]
    if settings.freeze == "backbone" and settings.lr_head != NONE:
        idle["lr"] = ("freeze is backbone and lr_head is the rate of the rest", "freeze=none")
    return idle
