"""A folder of pictures: finds the images of each class and their parts, train, val and test."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from ..errors import visible
from ..system.files import user_path
from .dataset import DataError, Dataset, Request
from .images import ENDINGS, ending_of
from .photos import OTHER_NAMES, PARTS, Listing, PhotoFile, photographs

_NOT_MEANT = {"thumbs.db", "desktop.ini", "__macosx"}  # left by other programs, as all hidden files are


def load_folder(request: Request) -> Dataset:
    """Images of a folder, resized and cropped to the middle square; a missing val or test is split off train.

    Raises:
        DataError: as `listed`, or a file in the folder cannot be used.
    """
    return photographs(listed(request), request)


def listed(request: Request) -> Listing:
    """The image files of a folder.

    PATH contains train, val and test, each with one folder per class; or only train; or the class folders themselves.
    Images may lie in folders inside a class folder. PATH/masks may contain a mask for every image, as PNG at the same
    relative path.

    Raises:
        DataError: the folder does not have this form.
    """
    root = user_path(request.path)
    if not root.is_dir():
        raise DataError(f"folder {root} does not exist: dataset=folder:PATH needs a folder with one folder per class")
    folders = _part_folders(root)
    for name in (folder.name for part, folder in folders.items() if folder.name in OTHER_NAMES):
        request.progress(f"{root}: {name} is read as val")
    classes = _classes(root, folders)
    files: list[PhotoFile] = []
    others = 0
    for part, folder in folders.items():
        for label, name in enumerate(classes):
            images, skipped = _images(folder / name)
            files += [PhotoFile(path, label, part, mask_of(path, root)) for path in images]
            others += skipped
    name = f"folder:{visible(root.resolve().name)}"
    return Listing(name, f"folder {root}", visible(str(root)), classes, files, others)


def mask_of(image: Path, root: Path) -> Path | None:
    """Where the mask of the image must be; None if the folder has no masks."""
    masks = root / "masks"
    is_inside = image.is_relative_to(root) and ".." not in image.parts
    place = image.relative_to(root) if is_inside else Path(image.name)
    return masks / place.with_suffix(".png") if masks.is_dir() else None


def _entries(folder: Path) -> list[Path]:
    """What a folder contains, sorted, without hidden files. A link that leads nowhere was meant as something."""
    entries = [p for p in sorted(folder.iterdir()) if not p.name.startswith(".") and p.name.lower() not in _NOT_MEANT]
    for path in entries:
        if path.is_symlink() and not path.exists():
            raise DataError(f"{path} is a link that leads nowhere: repair or remove it")
    return entries


def _part_folders(root: Path) -> dict[str, Path]:
    """The existing folders of train, val and test; or the folder itself, if it contains the class folders."""
    found = {path.name: path for path in _entries(root) if path.is_dir() and path.name != "masks"}
    named: dict[str, Path] = {}
    for name in [*PARTS, *(OTHER_NAMES if "train" in found else ())]:
        part = OTHER_NAMES.get(name, name)
        if name in found and part in named:
            raise DataError(f"folder {root} has both {named[part].name} and {name}: both are val; keep one of them")
        if name in found:
            named[part] = found.pop(name)
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
    names = {part: {path.name for path in _entries(folder) if path.is_dir()} for part, folder in parts.items()}
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


def _images(folder: Path) -> tuple[list[Path], int]:
    """The images of a class, in order, and the number of other files."""
    files = list(_files_below(folder, frozenset()))
    images = [path for path in files if ending_of(path) in ENDINGS]  # one that is no image is an error when it is read
    if not images:
        what = f"has no image among its {len(files)} files" if files else "is empty"
        raise DataError(f"folder {folder} {what}: put at least one image of the class in it")
    return images, len(files) - len(images)


def _files_below(folder: Path, above: frozenset[Path]) -> Iterator[Path]:
    """All files in the folder and in the folders inside it, in order. Links are followed."""
    if (place := folder.resolve()) in above:
        raise DataError(f"{folder} is a link to a folder that contains it: remove the link")
    for path in _entries(folder):
        if not path.is_dir():
            yield path
        elif path.name == "masks":
            raise DataError(f"{path} is inside a class: put masks into the folder masks beside the classes or train")
        else:
            yield from _files_below(path, above | {place})
