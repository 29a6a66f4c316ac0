"""Named settings, each with its source and the accuracy to expect.

A recipe decides every option of `config.TrainSettings` that is marked as decided by the recipe; a value given by hand
wins over it. Numbers in `reported` are the source's; numbers in `measured` were measured with this suite.
"""

from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, get_args

RecipeName = Literal["fast", "resnet18"]


@dataclass(frozen=True)
class Recipe:
    """Values for the options a recipe decides, and where they come from."""

    summary: str
    source: str
    reported: str
    measured: str
    values: MappingProxyType[str, object]


# The hole of DeVries & Taylor 2017 (arXiv 1708.04552) for CIFAR-10: one 16-pixel square on every image, its centre
# anywhere in the image, filled with the mean. Recipes start from it, so that cutout=true means the published thing.
PUBLISHED_CUTOUT = {
    "cutout": False,
    "cutout_holes": 1,
    "cutout_size": "16",
    "cutout_p": 1.0,
    "cutout_fill": "mean",
    "cutout_placement": "published",
}

RECIPES: dict[RecipeName, Recipe] = {
    "fast": Recipe(
        summary="small net, one-cycle, a minute or two on two CPU cores",
        source="ours; one-cycle after Smith & Topin 2019 (arXiv 1708.07120)",
        reported="none",
        measured="see README, section Measured",
        values=MappingProxyType(
            {
                "model": "fastnet",
                "epochs": 6,
                "batch_size": 128,
                "lr": 0.3,
                "momentum": 0.9,
                "nesterov": True,
                "weight_decay": 5e-4,
                "schedule": "onecycle",
                "lr_warmup": 0.25,
                "lr_steps": "none",
                "lr_gamma": 1.0,
                "label_smoothing": 0.1,
                "dropout": 0.0,
                "l1": 0.0,
                "l2_norm": 0.0,
                "hflip": 0.5,
                "crop_padding": 2,
                "track_test": False,
                **PUBLISHED_CUTOUT,
            }
        ),
    ),
    "resnet18": Recipe(
        summary="ResNet-18 with cosine annealing; hours on a CPU, minutes on a GPU",
        source="kuangliu/pytorch-cifar, main.py (as of 2024), issue 149 for the accuracy",
        reported="95.67 %, the best test epoch of one run on all 50,000 images; here it trains on 45,000",
        measured="not yet run to its end with this suite",
        values=MappingProxyType(
            {
                "model": "resnet18",
                "epochs": 200,
                "batch_size": 128,
                "lr": 0.1,
                "momentum": 0.9,
                "nesterov": False,
                "weight_decay": 5e-4,
                "schedule": "cosine",
                "lr_warmup": 0.0,
                "lr_steps": "none",
                "lr_gamma": 1.0,
                "label_smoothing": 0.0,
                "dropout": 0.0,
                "l1": 0.0,
                "l2_norm": 0.0,
                "hflip": 0.5,
                "crop_padding": 4,
                "track_test": True,
                **PUBLISHED_CUTOUT,
            }
        ),
    ),
}

assert tuple(RECIPES) == get_args(RecipeName)
