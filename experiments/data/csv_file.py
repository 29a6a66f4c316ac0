"""A table of image files: a CSV file with the columns path and label, and split if the parts are given."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..errors import did_you_mean, visible
from ..system.files import open_file, user_path
from .dataset import DataError, Dataset, Request
from .folder import mask_of
from .photos import OTHER_NAMES, PARTS, Listing, PhotoFile, photographs

COLUMNS = ("path", "label", "split")
_DELIMITERS = ",;\t"

Row = tuple[str, str, str]  # path, label, part


def load_csv(request: Request) -> Dataset:
    """The images that a CSV file lists, read as those of a folder are.

    Raises:
        DataError: as `listed`, or an image cannot be used.
    """
    return photographs(listed(request), request)


def listed(request: Request) -> Listing:
    """The image files that a CSV file lists.

    The first line names the columns: `path`, relative to the folder of the file, `label`, the name of the class, and
    perhaps `split`, with train, val or test in each row. Without it, val and test are split off. Other columns are
    ignored. The folder of the file may contain masks, as with `folder:`.

    Raises:
        DataError: the file does not have this form.
    """
    file = user_path(request.path)
    rows = _rows(file)
    names = {label for _, label, _ in rows}
    if len(names) < 2:
        raise DataError(f"{file} has {len(names)} different labels: it needs two or more")
    classes = sorted(names, key=lambda name: (0, int(name), name) if name.isdecimal() else (1, 0, name))
    if "train" not in {part for _, _, part in rows}:
        raise DataError(f"{file} has no row with split train: add some")
    root, labels = file.parent, {name: label for label, name in enumerate(classes)}
    files = [
        PhotoFile(path := root / user_path(text), labels[label], part, mask_of(path, root))
        for text, label, part in rows
    ]
    return Listing(f"csv:{visible(file.stem)}", str(file), visible(str(file)), tuple(classes), files)


def _rows(file: Path) -> list[Row]:
    try:
        with open_file(file) as content:
            text = content.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not UTF-8 text (byte {error.start}): save it as CSV with UTF-8") from error
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error.strerror or error}): dataset=csv:FILE needs a file") from error
    lines = text.splitlines()
    delimiter = next((mark for mark in _DELIMITERS if lines and mark in lines[0]), ",")
    try:
        first, *others = list(csv.reader(lines, delimiter=delimiter, strict=True)) or [[]]
    except csv.Error as error:
        raise DataError(f"{file} is no CSV file ({error})") from error
    return _checked(file, list(_read(file, [name.strip().lower() for name in first], others)))


def _read(file: Path, header: Sequence[str], lines: Sequence[Sequence[str]]) -> Iterator[tuple[int, Row]]:
    for name in COLUMNS[:2]:
        if header.count(name) != 1:
            hint = did_you_mean(name, header)
            raise DataError(f"{file} has no column {name!r}{hint}: its first line must name path, label, perhaps split")
    for number, line in enumerate(lines, 2):
        if not any(cell.strip() for cell in line):
            continue
        if len(line) != len(header):
            raise DataError(f"{file}, line {number}: has {len(line)} values, the first line has {len(header)}")
        row = dict(zip(header, map(str.strip, line), strict=True))
        part = row.get("split", "train").lower()
        part = OTHER_NAMES.get(part, part)
        if part not in PARTS:
            raise DataError(f"{file}, line {number}: split {row['split']!r} must be {', '.join(PARTS)}")
        if not row["path"] or not row["label"]:
            raise DataError(f"{file}, line {number}: has no {'label' if row['path'] else 'path'}")
        yield number, (row["path"], row["label"], part)


def _checked(file: Path, rows: Sequence[tuple[int, Row]]) -> list[Row]:
    seen: dict[str, int] = {}
    for number, (path, _, _) in rows:
        if before := seen.get(path):
            raise DataError(f"{file}, line {number}: {path} is in line {before} too; keep one of them")
        seen[path] = number
    return [row for _, row in rows]
