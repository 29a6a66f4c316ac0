"""Makes a data set of image files: reads images and masks, crops them to squares, and splits off what is missing."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, UInt8

from ..errors import visible
from ..system.files import user_path
from ..system.processes import cores
from .cache import Rows, cached, scratch, splits_in
from .dataset import VAL_SHARE, DataError, Dataset, Request, assembled
from .images import image_in, warnings_named

if TYPE_CHECKING:
    from PIL import Image as PillowImage

PARTS = ("train", "val", "test")
OTHER_NAMES = {"valid": "val", "validation": "val", "dev": "val"}
TEST_SHARE = 0.2
"""Share of the images of each class that becomes test, if a data set has no test."""

IN_MEMORY = 64 << 20
"""Bytes of decoded images up to which they are decoded in each run and kept in memory, without a file."""

_SAMPLE = 200  # images of which `median_side` is taken
_ORIENTATION = 0x0112  # EXIF tag; values from 5 on swap width and height
_SOFT_LEVELS = 16  # a mask with more different values has soft edges; one with fewer has a number for each class


@dataclass(frozen=True)
class PhotoFile:
    """One image file, its class, its part of the data set and, if there are any, the file of its mask and its group."""

    path: Path
    label: int
    part: str
    mask: Path | None
    group: int = 0


@dataclass(frozen=True)
class _Photo:
    """One image after reading: its row in the decoded images, and the SHA-256 of its file."""

    row: int
    sha256: str
    label: int
    part: str


@dataclass(frozen=True)
class Listing:
    """The image files of a data set. `place` is what messages call it, such as `folder pets`."""

    name: str
    place: str
    source: str
    classes: tuple[str, ...]
    files: Sequence[PhotoFile]
    others: int = 0
    groups: tuple[str, ...] = ()


def photographs(listing: Listing, request: Request) -> Dataset:
    """The images of the listing as squares of `request.size` pixels; a missing val or test is split off train.

    Raises:
        DataError: a file cannot be read and `request.skip_bad` is false, or a part has no image of a class.
    """
    shown = tuple(map(visible, listing.classes))
    if twice := [name for name, count in Counter(shown).items() if count > 1]:
        raise DataError(f"{listing.place} has two classes that are both shown as {twice[0]!r}: rename one of them")
    pixels = len(listing.files) * request.size**2 * (4 if _has_masks(listing) else 3)
    if pixels <= IN_MEMORY:
        arrays = {name: rows.taken() for name, rows in _decoded(listing, request, None).items()}
    else:
        arrays = _cached(listing, request, pixels)
    splits, left_out = splits_in(arrays), tuple(map(str, arrays["left_out"]))
    counts = ", ".join(f"{name} {len(split)}" for name, split in splits.items())
    request.progress(
        f"{listing.source}: {len(shown)} classes, {counts} images; {listing.others} other files skipped"
        + (f"; {len(left_out)} files left out, because they cannot be used" if left_out else "")
    )
    for line in [*(f"left out: {line}" for line in left_out[:5]), *map(str, arrays["said"])]:
        request.progress(line)
    return assembled(listing.name, shown, splits, listing.source, left_out, listing.groups)


def _has_masks(listing: Listing) -> bool:
    return all(file.mask is not None for file in listing.files)


def _cached(listing: Listing, request: Request, pixels: int) -> dict[str, np.ndarray]:
    """The decoded images from their file in `data_dir`, which is made first if a file of the listing has changed."""
    how = [request.size, request.interpolation, request.centre_crop, request.holdout]
    key = hashlib.sha256(
        repr([how, request.skip_bad, listing.groups, *map(_stamp, listing.files)]).encode()
    ).hexdigest()
    place = hashlib.sha256(repr([listing.source, *how]).encode()).hexdigest()[:12]
    path = user_path(request.data_dir).resolve() / f"photos-{place}.npz"

    def decoded() -> dict[str, Rows]:
        request.progress(f"decoding {len(listing.files):,} images once into {path} ({pixels / 1e9:.1f} GB)")
        return _decoded(listing, request, path.parent)

    try:
        return cached(path, key, decoded, request.progress)
    except OSError as error:
        raise DataError(f"the images cannot be stored in {path.parent} ({error}); give another data_dir") from error


def _stamp(file: PhotoFile) -> object:
    """What changes if the file, its mask or its place in the data set does."""
    found = [path.stat() for path in (file.path, file.mask) if path and path.is_file()]
    return file, [(stat.st_size, stat.st_mtime_ns) for stat in found]


def _decoded(listing: Listing, request: Request, folder: Path | None) -> dict[str, Rows]:
    """The images of each part, decoded in memory, or into a file in the folder; `splits_in` knows their names."""
    n, side, masked = len(listing.files), request.size, _has_masks(listing)
    shape = (n, side * side * (4 if masked else 3))
    store = np.empty(shape, np.uint8) if folder is None else scratch(folder, shape)
    images = store[:, : 3 * side * side].reshape(n, side, side, 3)
    masks = store[:, 3 * side * side :].reshape(n, side, side).view(bool) if masked else None
    photos, left_out = _read(listing.files, request, images, masks)
    photos = _with_missing_parts(photos, {file.part for file in listing.files}, listing)
    _check_classes(photos, listing)
    said: list[str] = []
    if masks is not None:
        _check_masks(masks, [photo.row for photo in photos], listing, said)
    arrays = _in_parts(photos, images, masks, listing, request, said)
    texts = {name: np.array(lines, np.str_) for name, lines in (("left_out", left_out), ("said", said))}
    return arrays | {name: Rows(array, range(len(array))) for name, array in texts.items()}


def _read(
    files: Sequence[PhotoFile], request: Request, images: np.ndarray, masks: np.ndarray | None
) -> tuple[list[_Photo], tuple[str, ...]]:
    """Reads the files into the rows of `images` and `masks`: the photos, and a line for each that cannot be used."""

    def read(row: int) -> _Photo | str:
        try:
            sha, images[row], mask = _read_photo(files[row], request)
        except DataError as error:
            return str(error)
        if masks is not None and mask is not None:
            masks[row] = mask
        return _Photo(row, sha, files[row].label, files[row].part)

    found: list[_Photo | str] = []
    # Decoding releases Python's lock.
    with warnings_named(request.progress), request.bar(len(files)) as bar, ThreadPoolExecutor(cores()) as pool:
        for photo in pool.map(read, range(len(files))):
            found.append(photo)
            bar.advance()
    bad = tuple(text for text in found if isinstance(text, str))
    if bad and not request.skip_bad:
        more = f" ({len(bad) - 1} more files cannot be used either)" if len(bad) > 1 else ""
        raise DataError(f"{bad[0]}{more}; or leave such files out with on_bad=skip")
    return [photo for photo in found if isinstance(photo, _Photo)], bad


def _check_classes(photos: Sequence[_Photo], listing: Listing) -> None:
    there = {(photo.part, photo.label) for photo in photos}
    for part in PARTS:
        for label, name in enumerate(listing.classes):
            if (part, label) not in there:
                raise DataError(f"{listing.place}: {part} has no image of class {name!r}; add one")


def _in_parts(
    photos: Sequence[_Photo],
    images: np.ndarray,
    masks: np.ndarray | None,
    listing: Listing,
    request: Request,
    said: list[str],
) -> dict[str, Rows]:
    """The photos of each part, ordered by class and then by the hash of the file, so file names do not matter."""
    parts = {part: (part,) for part in PARTS} if request.holdout else {"train": ("train", "val"), "test": ("test",)}
    ordered = sorted(photos, key=lambda photo: (photo.label, photo.sha256))
    arrays, seen = {}, {}
    for part, members in parts.items():
        chosen = [photo for member in members for photo in ordered if photo.part == member]
        rows = [photo.row for photo in chosen]
        arrays[f"{part}.images"] = Rows(images, rows)
        arrays[f"{part}.labels"] = Rows(np.array([file.label for file in listing.files], np.int64), rows)
        if listing.groups:
            arrays[f"{part}.groups"] = Rows(np.array([file.group for file in listing.files], np.int64), rows)
        if masks is not None:
            arrays[f"{part}.masks"] = Rows(masks, rows)
        seen[part] = {photo.sha256 for photo in chosen}
    for part in list(parts)[1:]:
        if copies := len(seen["train"] & seen[part]):
            said.append(f"{listing.source}: {copies} images are in train and in {part}; {part} looks too good")
    return arrays


# ------------------------------------------------------------------------------------------------------------ images


def median_side(files: Sequence[PhotoFile]) -> int:
    """The median short side in pixels of a sample of the images, those left out that cannot be read; 32 without any."""
    sides = []
    for file in files[:: -(-len(files) // _SAMPLE)]:
        with suppress(DataError), image_in(file.path) as (image, _):
            sides.append(min(image.size))
    return sorted(sides)[len(sides) // 2] if sides else 32


def _read_photo(file: PhotoFile, request: Request) -> tuple[str, np.ndarray, np.ndarray | None]:
    """The SHA-256 of the file, its image and its mask."""
    from PIL import Image

    with image_in(file.path) as (image, content):
        upright_size = image.size[::-1] if image.getexif().get(_ORIENTATION, 1) >= 5 else image.size
        needed = round(2 * request.size / request.centre_crop)
        image.draft(None, (needed, needed))  # a large JPEG is then decoded at a smaller size
        pixels = _square(_to_rgb(image), request, Image.Resampling[request.interpolation.upper()])
    mask = None if file.mask is None else _read_mask(file.mask, file.path, upright_size, request)
    return hashlib.sha256(content).hexdigest(), pixels, mask


def _square(image: "PillowImage.Image", request: Request, method: int) -> np.ndarray:
    """The square in the middle, resized; at once, so that no size between is rounded to whole pixels."""
    from PIL import ImageOps

    cut = (1 - request.centre_crop) / 2
    return np.array(ImageOps.fit(image, (request.size, request.size), method, bleed=cut))


def _to_rgb(image: "PillowImage.Image") -> "PillowImage.Image":
    """Upright 8-bit RGB: scales down 16 bits, puts transparent images on white, converts CMYK and palettes."""
    from PIL import Image, ImageOps

    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        return Image.fromarray(_eight_bits(np.asarray(image))).convert("RGB")
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers without a known range; save it with 8 or 16 bits")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")


def _eight_bits(pixels: np.ndarray) -> UInt8[np.ndarray, "h w"]:
    if pixels.min() < 0 or pixels.max() > 65535:
        raise ValueError(f"its pixels reach from {pixels.min()} to {pixels.max()}; save it with 8 or 16 bits")
    return np.rint(pixels / 257).astype(np.uint8)


# ------------------------------------------------------------------------------------------------------------- masks


def _read_mask(path: Path, image: Path, image_size: tuple[int, int], request: Request) -> Bool[np.ndarray, "h w"]:
    """True where the mask is object, cropped like its image; resized with nearest neighbours."""
    from PIL import Image, ImageOps

    if not path.is_file():
        raise DataError(f"image {image} has no mask: {path} is missing; add it")
    with image_in(path) as (mask, _):
        upright = ImageOps.exif_transpose(mask)
        is_object = _object_in(upright)
    if upright.size != image_size:
        sizes = f"{upright.size[0]} x {upright.size[1]} pixels, its image {image_size[0]} x {image_size[1]}"
        raise DataError(f"mask {path} has another size than {image}: {sizes}")
    return _square(Image.fromarray(is_object), request, Image.Resampling.NEAREST)


def _object_in(mask: "PillowImage.Image") -> Bool[np.ndarray, "h w"]:
    """What is opaque, if some of it is transparent; else what is not black, or brighter than half if edges are soft."""
    if mask.has_transparency_data:
        alpha = np.asarray(mask.convert("RGBA"))[..., 3]
        if alpha.min() < alpha.max():
            return np.asarray(alpha > 127)
    values = np.asarray(mask if mask.mode in ("1", "L", "F") or mask.mode[0] == "I" else mask.convert("RGB"))
    values = values if values.ndim == 2 else values.max(axis=2)
    has_soft_edges = values.dtype != bool and len(np.unique(values)) > _SOFT_LEVELS
    return np.asarray(values > values.max() / 2 if has_soft_edges else values != 0)


def _check_masks(masks: Bool[np.ndarray, "n h w"], rows: Sequence[int], listing: Listing, said: list[str]) -> None:
    """Checks the masks; if the border of the images is object and their middle is not, turns them round in place."""
    share = np.array([masks[row].mean() for row in rows])
    empty, full = int((share == 0).sum()), int((share == 1).sum())
    if 2 * (empty + full) > len(rows):
        raise DataError(
            f"{listing.place}: of {len(rows)} masks {full} are all object and {empty} have none, so it is not clear "
            "what is object; make the background of masks black (0) or transparent"
        )
    border, middle = np.mean([_border_and_middle(masks[row]) for row in rows], axis=0)
    if border > 0.5 > middle:
        np.logical_not(masks, out=masks)
        said.append(f"{listing.source}: masks are white at the border, so what is black is taken as object")
    elif empty or full:
        said.append(f"{listing.source}: {empty} masks have no object, {full} are all object")


def _border_and_middle(mask: Bool[np.ndarray, "h w"]) -> tuple[float, float]:
    """The share of object among the outermost pixels, and in the middle quarter."""
    border = np.ones(mask.shape, bool)
    border[1:-1, 1:-1] = False
    quarter = len(mask) // 4
    return float(mask[border].mean()), float(mask[quarter:-quarter, quarter:-quarter].mean())


# ------------------------------------------------------------------------------------------------------------- parts


def _with_missing_parts(photos: list[_Photo], given: set[str], listing: Listing) -> list[_Photo]:
    """Splits test and val off train if they are missing; copies of one file stay in one part."""
    wanted = {name: share for name, share in (("test", TEST_SHARE), ("val", VAL_SHARE)) if name not in given}
    if not wanted:
        return photos
    part_of: dict[tuple[int, str], str] = {}
    for label, name in enumerate(listing.classes):
        hashes = sorted({photo.sha256 for photo in photos if (photo.label, photo.part) == (label, "train")})
        if len(hashes) <= len(wanted):
            missing = " and ".join(wanted)
            raise DataError(
                f"{listing.place}: class {name!r} has {len(hashes)} different images, too few to split off {missing}; "
                f"give {len(wanted) + 1} or more, or add {missing}"
            )
        part_of |= {(label, sha): part for sha, part in _parts_by_hash(hashes, wanted).items()}
    return [
        replace(photo, part=part_of[photo.label, photo.sha256]) if photo.part == "train" else photo for photo in photos
    ]


def _parts_by_hash(hashes: list[str], wanted: Mapping[str, float]) -> dict[str, str]:
    """The part of each hash: the first ones go to the wanted parts, at least one to each, the rest to train."""
    parts = [name for name, share in wanted.items() for _ in range(max(1, round(share * len(hashes))))]
    parts += ["train"] * (len(hashes) - len(parts))
    return dict(zip(hashes, parts, strict=False))
