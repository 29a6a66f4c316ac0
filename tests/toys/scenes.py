"""Trainings through commands that take the least: few of the built-in scenes, at half their side."""

from functools import partial
from pathlib import Path

import pytest

from experiments.data import scenes
from experiments.data.dataset import Dataset
from experiments.data.load import load

TINY = {
    **{"dataset": "scenes", "image_size": "16", "epochs": "1", "gallery_size": "2", "threads": "1"},
    **{"test_flip": "false", "cam_layers": "layer3", "cam_methods": "gradcam"},
}
SIZES = {"train": 200, "val": 60, "test": 60}


def put_scenes(folder: Path) -> Dataset:
    """Puts the first images of each split into `folder`/data, where commands that start there look; returns them."""
    few = partial(scenes.generate, sizes=SIZES)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scenes, "generate", few)
        return load("scenes", data_dir=str(folder / "data"), image_size=16, background_bias=0.5, train_images="all")
