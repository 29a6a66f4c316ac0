"""A table of image files: a CSV file with the columns path and label, and perhaps split and group."""

import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ..errors import did_you_mean, visible
from ..system.files import open_file, user_path
from .dataset import DataError, Dataset, Request
from .folder import mask_of
from .photos import OTHER_NAMES, PARTS, Listing, PhotoFile, photographs

_DELIMITERS = ",;\t"


class Row(NamedTuple):
    """A line of the file; `group` is empty if it has no such column."""

    path: str
    label: str
    part: str
    group: str


def load_csv(request: Request) -> Dataset:
    """The images that a CSV file lists, read as those of a folder are.

    Raises:
        DataError: as `listed`, or an image cannot be used.
    """
    return photographs(listed(request), request)


def listed(request: Request) -> Listing:
    """The image files that a CSV file lists.

    The first line names the columns: `path`, relative to the folder of the file, `label`, the name of the class, and
    perhaps `split`, with train, val or test in each row. Without it, val and test are split off. With a column `group`,
    such as the background, the images of a label with one value of it are a group. Other columns are ignored. The
    folder of the file may contain masks, as with `folder:`.

    Raises:
        DataError: the file does not have this form.
    """
    file = user_path(request.path)
    rows = _rows(file)
    names = {row.label for row in rows}
    if len(names) < 2:
        raise DataError(f"{file} has {len(names)} different labels: it needs two or more")
    classes = sorted(names, key=lambda name: (0, int(name), name) if name.isdecimal() else (1, 0, name))
    if "train" not in {row.part for row in rows}:
        raise DataError(f"{file} has no row with split train: add some")
    root, labels, groups = file.parent, {name: label for label, name in enumerate(classes)}, _groups(rows)
    numbers = {group: number for number, group in enumerate(groups)}
    files = [
        PhotoFile(path := root / user_path(text), labels[label], part, mask_of(path, root), numbers[label, group])
        for text, label, part, group in rows
    ]
    named = tuple(map(visible, groups.values())) if rows[0].group else ()
    return Listing(f"csv:{visible(file.stem)}", str(file), visible(str(file)), tuple(classes), files, groups=named)


def _groups(rows: Sequence[Row]) -> dict[tuple[str, str], str]:
    """The name of each group, by label and value of the column: the value alone where it belongs to one label."""
    pairs = sorted({(row.label, row.group) for row in rows})
    labels = Counter(group for _, group in pairs)
    return {(label, group): group if labels[group] == 1 else f"{label}, {group}" for label, group in pairs}


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
    for name in ("path", "label"):
        if header.count(name) != 1:
            must = "its first line must name path, label, perhaps split and group"
            raise DataError(f"{file} has no column {name!r}{did_you_mean(name, header)}: {must}")
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
        for name in ("path", "label", *(["group"] if "group" in header else [])):
            if not row[name]:
                raise DataError(f"{file}, line {number}: has no {name}")
        yield number, Row(row["path"], row["label"], part, row.get("group", ""))


def _checked(file: Path, rows: Sequence[tuple[int, Row]]) -> list[Row]:
    seen: dict[str, int] = {}
    for number, row in rows:
        if before := seen.get(row.path):
            raise DataError(f"{file}, line {number}: {row.path} is in line {before} too; keep one of them")
        seen[row.path] = number
    return [row for _, row in rows]
