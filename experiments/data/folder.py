"""A folder of pictures: reads the images, crops them to squares, and splits them into train, val and test."""

import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, UInt8

from ..errors import visible
from ..system.files import user_path
from .dataset import VAL_SHARE, DataError, Dataset, Request, Split, assembled
from .images import ENDINGS, ending_of, image_in, warnings_named

if TYPE_CHECKING:
    from PIL import Image as PillowImage

TEST_SHARE = 0.2
"""Share of the images of each class that becomes test, if a data set has no test."""

_ORIENTATION = 0x0112  # EXIF tag; values from 5 on swap width and height


_File = tuple[Path, int, Path | None]
"""One image file, its class and, if there are masks, the file of its mask."""


@dataclass(frozen=True)
class _Photo:
    """One image after reading, with the SHA-256 of its file."""

    sha256: str
    label: int
    image: UInt8[np.ndarray, "h w 3"]
    mask: Bool[np.ndarray, "h w"] | None


def load_folder(request: Request) -> Dataset:
    """Images of a folder, resized and cropped to the middle square; a missing val or test is split off train.

    PATH contains train, val and test, each with one folder per class; or only train; or the class folders themselves.
    PATH/masks may contain a mask for every image, as PNG at the same relative path. Pixels that are not black are
    object.
    """
    root = user_path(request.path)
    if not root.is_dir():
        raise DataError(f"folder {root} does not exist: dataset=folder:PATH needs a folder with one folder per class")
    parts = _parts(root)
    classes = _classes(root, parts)
    pictures: dict[str, list[_Photo]] = {}
    skipped = 0
    for name, part in parts.items():
        files, others = _image_files(root, part, classes)
        skipped += others
        with warnings_named(request.progress), ThreadPoolExecutor() as pool:  # decoding releases Python's lock
            pictures[name] = list(pool.map(lambda file: _read_picture(file, request.size), files))
    pictures = _with_missing_parts(pictures, classes, root)
    shown = tuple(map(visible, classes))
    if twice := sorted({name for name in shown if shown.count(name) > 1}):
        raise DataError(f"folder {root} has two classes that are both shown as {twice[0]!r}: rename one of them")
    splits = {name: _stacked(pictures[name]) for name in ("train", "val", "test")}
    counts = ", ".join(f"{name} {len(split)}" for name, split in splits.items())
    request.progress(f"{root}: {len(classes)} classes, {counts} images; {skipped} other files skipped")
    return assembled(f"folder:{visible(root.resolve().name)}", shown, splits, visible(str(root)))


def _subfolders(folder: Path) -> list[Path]:
    """The folders in a folder, sorted. A link that leads nowhere is an error, because it was meant as something."""
    entries = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
    for path in entries:
        if path.is_symlink() and not path.exists():
            raise DataError(f"{path} is a link that leads nowhere: repair or remove it")
    return [path for path in entries if path.is_dir()]


def _parts(root: Path) -> dict[str, Path]:
    """The existing folders train, val and test; or the folder itself, if it contains the class folders."""
    found = {path.name: path for path in _subfolders(root) if path.name != "masks"}
    named: dict[str, Path] = {name: found.pop(name) for name in ("train", "val", "test") if name in found}
    if not named:
        return {"train": root}
    if "train" not in named:
        raise DataError(f"folder {root} has {' and '.join(named)} but no train: add train")
    if found:
        names = ", ".join(map(repr, found))
        raise DataError(f"folder {root} has {names} next to train: only train, val, test and masks are allowed there")
    return named


def _classes(root: Path, parts: Mapping[str, Path]) -> tuple[str, ...]:
    """The sorted names of the folders in train; DataError unless the other parts have the same folders."""
    names = {part: {path.name for path in _subfolders(folder)} for part, folder in parts.items()}
    if parts["train"] == root:
        names["train"].discard("masks")
    if (count := len(names["train"])) < 2:
        raise DataError(f"folder {parts['train']} has {count} class folders: it needs two or more, named by class")
    for part in names:
        if missing := sorted(names["train"] - names[part]):
            raise DataError(f"folder {parts[part]} has no class {missing[0]!r}, but {parts['train']} has it")
        if extra := sorted(names[part] - names["train"]):
            raise DataError(f"folder {parts[part]} has the class {extra[0]!r}, but {parts['train']} does not")
    return tuple(sorted(names["train"]))


def _image_files(root: Path, part: Path, classes: tuple[str, ...]) -> tuple[list[_File], int]:
    """The images of a part, ordered by class and name, and the number of other files."""
    has_masks = (root / "masks").is_dir()
    files: list[_File] = []
    skipped = 0
    for label, name in enumerate(classes):
        entries = sorted((part / name).iterdir())
        # What is meant as an image; if it is none, reading it is an error.
        images = [p for p in entries if ending_of(p) in ENDINGS and not p.name.startswith(".") and not p.is_dir()]
        if not images:
            what = f"has no image among its {len(entries)} entries" if entries else "is empty"
            raise DataError(f"folder {part / name} {what}: put at least one image of the class directly in it")
        skipped += len(entries) - len(images)
        masks = [root / "masks" / path.relative_to(root).with_suffix(".png") if has_masks else None for path in images]
        files += [(path, label, mask) for path, mask in zip(images, masks, strict=True)]
    return files, skipped


def _read_picture(file: _File, size: int) -> _Photo:
    from PIL import Image, ImageOps

    path, label, mask_path = file
    with image_in(path) as (image, content):
        upright_size = image.size[::-1] if image.getexif().get(_ORIENTATION, 1) >= 5 else image.size
        image.draft(None, (2 * size, 2 * size))  # a large JPEG is then decoded at a smaller size
        pixels = np.array(ImageOps.fit(_to_rgb(image), (size, size), Image.Resampling.BICUBIC))
    mask = None if mask_path is None else _read_mask(mask_path, path, upright_size, size)
    return _Photo(hashlib.sha256(content).hexdigest(), label, pixels, mask)


def _to_rgb(image: "PillowImage.Image") -> "PillowImage.Image":
    """Upright 8-bit RGB: scales down 16 bits, puts transparent images on white, converts CMYK and palettes."""
    from PIL import Image, ImageOps

    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        pixels = np.asarray(image)
        if pixels.min() < 0 or pixels.max() > 65535:
            raise ValueError(f"its pixels reach from {pixels.min()} to {pixels.max()}; save it with 8 or 16 bits")
        return Image.fromarray(np.rint(pixels / 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers without a known range; save it with 8 or 16 bits")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")


def _read_mask(path: Path, image: Path, image_size: tuple[int, int], size: int) -> Bool[np.ndarray, "size size"]:
    """True where the mask is not black, cropped like its image; resized with nearest neighbours."""
    from PIL import Image, ImageOps

    if not path.is_file():
        raise DataError(f"image {image} has no mask: the folder has masks, but {path} is missing; add it")
    with image_in(path) as (mask, _):
        values = np.asarray(mask if mask.mode in ("1", "L", "F") or mask.mode[0] == "I" else mask.convert("RGB"))
    if mask.size != image_size:
        sizes = f"{mask.size[0]} x {mask.size[1]} pixels, its image {image_size[0]} x {image_size[1]}"
        raise DataError(f"mask {path} has another size than {image}: {sizes}")
    is_object = values != 0 if values.ndim == 2 else (values != 0).any(axis=2)
    return np.array(ImageOps.fit(Image.fromarray(is_object), (size, size), Image.Resampling.NEAREST))


def _with_missing_parts(
    pictures: dict[str, list[_Photo]], classes: tuple[str, ...], root: Path
) -> dict[str, list[_Photo]]:
    """Splits test and val off train if they are missing; copies of one file stay in one split."""
    wanted = {name: share for name, share in (("test", TEST_SHARE), ("val", VAL_SHARE)) if name not in pictures}
    if not wanted:
        return pictures
    parts: dict[str, list[_Photo]] = {**pictures, "train": [], **{name: [] for name in wanted}}
    for label, name in enumerate(classes):
        of_class = [picture for picture in pictures["train"] if picture.label == label]
        part_of = _parts_by_hash(sorted({picture.sha256 for picture in of_class}), wanted)
        if "train" not in part_of.values():
            missing = " and ".join(wanted)
            raise DataError(
                f"folder {root}: class {name!r} has {len(part_of)} different images, too few to split off {missing}; "
                f"give {len(wanted) + 1} or more, or add folders {missing}"
            )
        for picture in of_class:
            parts[part_of[picture.sha256]].append(picture)
    return parts


def _parts_by_hash(hashes: list[str], wanted: Mapping[str, float]) -> dict[str, str]:
    """The part of each hash: the first ones go to the wanted parts, at least one to each, the rest to train."""
    parts = [name for name, share in wanted.items() for _ in range(max(1, round(share * len(hashes))))]
    parts += ["train"] * (len(hashes) - len(parts))
    return dict(zip(hashes, parts, strict=False))


def _stacked(pictures: list[_Photo]) -> Split:
    """The pictures ordered by class and then by the hash of the file, so file names do not matter."""
    ordered = sorted(pictures, key=lambda picture: (picture.label, picture.sha256))
    masks = [picture.mask for picture in ordered if picture.mask is not None]
    return Split(
        images=np.stack([picture.image for picture in ordered]),
        labels=np.array([picture.label for picture in ordered], np.int64),
        masks=np.stack(masks) if masks else None,
    )
