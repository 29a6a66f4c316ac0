"""The built-in scenes as a data set: drawn once, then read from a file."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..system.files import Damaged, sealed, unsealed, user_path
from . import scene_numbers, scene_rendering
from .dataset import DataError, Dataset, Progress, Request, Split, assembled


def load_scenes(request: Request) -> Dataset:
    """The scenes, generated once per setting and then read from `data_dir`.

    In `test_shifted` no image has the texture of its class. `other` is the same split, so it has both names.
    """
    from filelock import FileLock

    background_bias, size, progress = request.background_bias, request.size, request.progress
    if not 0 <= background_bias <= 1:
        raise DataError(f"background_bias {background_bias} is out of range: 0 to 1")
    setting = f"version {scene_rendering.VERSION}, seed {scene_rendering.SEED}, background_bias {background_bias!r}, "
    setting += f"image_size {size}"
    key = f"v{scene_rendering.VERSION}-seed{scene_rendering.SEED}-bias{background_bias!r}-size{size}"
    path = user_path(request.data_dir) / f"scenes-{key}.npz"
    source = f"generated: scenes, {setting}"
    try:
        if (dataset := _read_scenes(path, source, progress)) is not None:
            return dataset
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            if (dataset := _read_scenes(path, source, lambda line: None)) is not None:  # another process was faster
                return dataset
            progress(f"drawing the built-in scenes ({setting}) into {path}")
            drawn = scene_rendering.generate(background_bias=background_bias, image_size=size)
            dataset = _scenes_dataset(
                {name: Split(scene.images, scene.labels, scene.masks) for name, scene in drawn.items()}, source
            )
            _write_scenes(path, dataset)
    except OSError as error:
        raise DataError(f"the scenes cannot be stored in {path.parent} ({error}); give another data_dir") from error
    return dataset


def _scenes_dataset(splits: dict[str, Split], source: str) -> Dataset:
    return assembled("scenes", scene_numbers.SHAPES, {**splits, "test_shifted": splits["other"]}, source)


def _write_scenes(path: Path, dataset: Dataset) -> None:
    arrays: dict[str, np.ndarray] = {}
    for name, split in dataset.splits.items():
        if name != "test_shifted":
            assert split.masks is not None
            arrays |= {f"{name}.images": split.images, f"{name}.labels": split.labels}
            arrays[f"{name}.masks"] = np.packbits(split.masks, axis=2)
    with sealed(path) as file:
        np.savez(file, allow_pickle=False, **arrays)


def _read_scenes(path: Path, source: str, progress: Progress) -> Dataset | None:
    """The cached scenes; None if there are none, or if the file is damaged."""
    if not path.is_file():
        return None
    try:
        with unsealed(path) as file, np.load(file, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
    except Damaged as error:
        progress(f"{path} is damaged ({error}) and is made again")
        return None
    return _scenes_dataset(_scene_splits(arrays), source)


def _scene_splits(arrays: Mapping[str, np.ndarray]) -> dict[str, Split]:
    splits = {}
    for name in (key.removesuffix(".images") for key in arrays if key.endswith(".images")):
        images = arrays[f"{name}.images"]
        masks = np.unpackbits(arrays[f"{name}.masks"], axis=2, count=images.shape[2]).astype(bool)
        splits[name] = Split(images, arrays[f"{name}.labels"], masks)
    return splits
