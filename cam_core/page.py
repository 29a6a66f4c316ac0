"""Pages of pictures: tiles in rows and columns, with labels, captions and a bar; nothing overlaps or is cut off."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from jaxtyping import UInt8

from cam_core.overlay import enlarge
from cam_core.text import font, legible, written

Verdict = Literal["right", "wrong", "none"]

FAINT = (95, 99, 104)
# Symbol and colour, which colour-blind readers can tell apart; both are dark enough for text on white.
MARKS: dict[str, tuple[str, tuple[int, int, int]]] = {
    "right": ("✓", (0, 114, 86)),
    "wrong": ("✗", (190, 40, 30)),
}
CAPTION, LABEL, TITLE = 13, 14, 20  # text sizes in pixels
FRAME, GAP, ROW_GAP, MARGIN = 4, 10, 16, 16
NARROWEST_CELL, WIDEST_ROW_LABEL, NARROWEST_TITLE = 104, 150, 320


@dataclass(frozen=True)
class Tile:
    """One picture of a page, the text under it, and a verdict, right or wrong.

    The verdict is drawn as a coloured frame and as a tick or a cross before the caption, never only as a colour.
    """

    image: UInt8[np.ndarray, "h w 3"]
    caption: str = ""
    verdict: Verdict = "none"


def grid(
    rows: Sequence[Sequence[Tile]],
    *,
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
    title: str = "",
    footer: str = "",
    bar: UInt8[np.ndarray, "bar_h bar_w 3"] | None = None,
    tile_size: int = 160,
) -> UInt8[np.ndarray, "page_h page_w 3"]:
    """A page of tiles in rows and columns, dark text on white, RGB.

    Tiles are enlarged pixel by pixel by the largest whole factor that fits `tile_size` pixels; larger tiles are shrunk.
    Texts are broken into lines, and the page grows with them. `bar` (see `colour_bar`) is drawn to the right. Rows may
    have different lengths. Raises ValueError for a page without tiles, or if the number of labels is wrong.
    """
    blocks = list(_blocks(rows, row_labels, column_labels, title, footer, bar, tile_size))
    page_height = MARGIN + max(block.y + len(block.pixels) for block in blocks)
    page_width = MARGIN + max(block.x + block.pixels.shape[1] for block in blocks)
    page = np.full((page_height, page_width, 3), 255, np.uint8)
    for block in blocks:
        height, width = block.pixels.shape[:2]
        page[block.y : block.y + height, block.x : block.x + width] = block.pixels
    return page


@dataclass(frozen=True)
class _Block:
    """Pixels and the position of their top left corner on the page."""

    x: int
    y: int
    pixels: UInt8[np.ndarray, "h w 3"]


def _blocks(
    rows: Sequence[Sequence[Tile]],
    row_labels: Sequence[str],
    column_labels: Sequence[str],
    title: str,
    footer: str,
    bar: np.ndarray | None,
    tile_size: int,
) -> Iterator[_Block]:
    """Everything on the page, from top to bottom; no two blocks overlap."""
    _check_page(rows, row_labels, column_labels, tile_size)
    columns = max(len(column_labels), *(len(row) for row in rows))
    pictures = [[_framed(tile, tile_size) for tile in row] for row in rows]
    cell = max(NARROWEST_CELL, *(picture.shape[1] for row in pictures for picture in row))
    labels = _row_labels(row_labels)
    left = MARGIN + max((label.shape[1] + GAP for label in labels), default=0)
    width = max(left - MARGIN + columns * (cell + GAP) - GAP, NARROWEST_TITLE)

    y = MARGIN
    if title:
        heading = written(title, width, TITLE, bold=True, align=0.0)
        yield _Block(MARGIN, y, heading)
        y += len(heading) + GAP
    heads = [written(label, cell, LABEL, bold=True) for label in column_labels]
    tallest = max((len(head) for head in heads), default=0)
    for column, head in enumerate(heads):
        yield _Block(left + column * (cell + GAP), y + tallest - len(head), head)
    y += tallest + (GAP // 2 if heads else 0)
    if bar is not None:
        yield _Block(MARGIN + width + 2 * GAP, y, bar)

    for index, row in enumerate(rows):
        label = labels[index] if labels else None
        blocks = list(_row_blocks(row, pictures[index], label, left, y, cell))
        yield from blocks
        y = max(block.y + len(block.pixels) for block in blocks) + ROW_GAP
    if footer:
        yield _Block(MARGIN, y, written(footer, width, CAPTION, align=0.0, colour=FAINT))


def _row_blocks(
    row: Sequence[Tile], pictures: Sequence[np.ndarray], label: np.ndarray | None, left: int, top: int, cell: int
) -> Iterator[_Block]:
    """One row: the label at the middle of the pictures' height, and the captions below the pictures."""
    height = max(len(picture) for picture in pictures)
    if label is not None:
        yield _Block(MARGIN, top + max(0, height - len(label)) // 2, label)
    for column, (tile, picture) in enumerate(zip(row, pictures, strict=True)):
        x = left + column * (cell + GAP)
        yield _Block(x + (cell - picture.shape[1]) // 2, top + (height - len(picture)) // 2, picture)
        if tile.caption or tile.verdict != "none":
            yield _Block(x, top + height, written(tile.caption, cell, CAPTION, mark=MARKS.get(tile.verdict)))


def _check_page(
    rows: Sequence[Sequence[Tile]], row_labels: Sequence[str], column_labels: Sequence[str], tile_size: int
) -> None:
    if not rows or not all(rows):
        raise ValueError("rows must contain at least one row and no empty row")
    if row_labels and len(row_labels) != len(rows):
        raise ValueError(f"row_labels has {len(row_labels)} texts for {len(rows)} rows")
    if column_labels and len(column_labels) < max(len(row) for row in rows):
        raise ValueError(f"column_labels has {len(column_labels)} texts for {max(len(row) for row in rows)} columns")
    if tile_size < 16:
        raise ValueError(f"tile_size must be at least 16 pixels, got {tile_size}")


def _framed(tile: Tile, tile_size: int) -> UInt8[np.ndarray, "h w 3"]:
    """The tile's picture at its size on the page, in a frame with the colour of the verdict (white for none)."""
    picture = _fitted(tile.image, tile_size)
    height, width = picture.shape[:2]
    framed = np.full((height + 2 * FRAME, width + 2 * FRAME, 3), 255, np.uint8)
    if tile.verdict != "none":
        framed[:] = MARKS[tile.verdict][1]
    framed[FRAME:-FRAME, FRAME:-FRAME] = picture
    return framed


def _fitted(image: UInt8[np.ndarray, "h w 3"], size: int) -> UInt8[np.ndarray, "h2 w2 3"]:
    """The image with its longer side at most `size`: enlarged by a whole number, or shrunk by averaging."""
    longest = max(image.shape[:2])
    if longest <= size:
        return enlarge(image, size // longest)
    height, width = (max(1, round(side * size / longest)) for side in image.shape[:2])
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA).astype(np.uint8)


def _row_labels(texts: Sequence[str]) -> list[UInt8[np.ndarray, "_ _ 3"]]:
    """The labels, all as wide as the widest one, up to a limit."""
    face = font(LABEL, bold=True)
    needed = max((face.getlength(legible(line)) for text in texts for line in text.splitlines()), default=0)
    width = min(WIDEST_ROW_LABEL, int(needed) + 4)
    return [written(text, width, LABEL, bold=True, align=0.0) for text in texts]
