"""Pictures of maps: colours on one fixed scale, laid over the image, and tiles laid out on a page.

Maps are drawn as multiples of their own mean (`cam_core.maps.relative_to_mean`): 0 = nothing, 1 = as a uniform map, up
to `SCALE_MAX` and more. Equal colours mean equal numbers in every picture: nothing is scaled by what else is in it.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import cv2
import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image, ImageDraw

from cam_core.text import font, line_height, wrap

SCALE_MAX = 4.0
"""The map value, in multiples of the map's mean, from which on the colour is that of the top."""

OPACITY = 0.7
"""How much of a pixel the colour takes at the top of the scale; in proportion to the value below."""

Verdict = Literal["right", "wrong", "none"]

INK = (32, 33, 36)
FAINT = (95, 99, 104)
# A symbol and a colour, which stay apart for colour-blind readers; both are dark enough for text on white.
MARKS: dict[str, tuple[str, tuple[int, int, int]]] = {
    "right": ("✓", (0, 114, 86)),
    "wrong": ("✗", (190, 40, 30)),
}
CAPTION, LABEL, TITLE = 13, 14, 20  # text sizes in pixels
FRAME, GAP, ROW_GAP, MARGIN = 4, 10, 16, 16
BAR, TICKS_AT = 112, 25
GREY = 128  # what lies under the colours of the bar
NARROWEST_CELL, WIDEST_ROW_LABEL, NARROWEST_TITLE = 104, 150, 320


def overlay(
    image: UInt8[np.ndarray, "h w 3"], map_: Float32[np.ndarray, "h w"], *, scale_max: float = SCALE_MAX
) -> UInt8[np.ndarray, "h w 3"]:
    """The RGB image with the map's colours over it, opaque in proportion to the map's value.

    `map_` is relative to its mean. Where it is 0 the image shows as it is; towards 1 the image's own colours fade to
    grey, so that above 1 every hue is the map's; from `scale_max` on the colour is that of the top, at opacity 0.7. A
    pixel depends on its own value only. Raises ValueError where image and map differ in size or the map is not finite.
    """
    if image.shape[:2] != map_.shape:
        raise ValueError(f"image is {image.shape[:2]} and map_ {map_.shape}; resize the map to the image first")
    share = _share(map_, scale_max)
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None]
    faded = image + np.clip(map_, 0, 1)[..., None] * (grey.astype(np.float32) - image)
    opacity = OPACITY * share[..., None]
    blended: np.ndarray = np.rint((1 - opacity) * faded + opacity * _coloured(share)).astype(np.uint8)
    return blended


def heat(map_: Float32[np.ndarray, "h w"], *, scale_max: float = SCALE_MAX) -> UInt8[np.ndarray, "h w 3"]:
    """The map alone in RGB, value v in the colour of v; `map_` is relative to its mean."""
    return _coloured(_share(map_, scale_max))


def colour_bar(height: int = 200, *, scale_max: float = SCALE_MAX) -> UInt8[np.ndarray, "h w 3"]:
    """The scale of `overlay` over grey, `height` pixels tall, with a heading and a tick at each whole number."""
    heading = _text("map ÷ its mean", BAR, CAPTION, align=0.0)
    text_height = line_height(CAPTION)
    length = height - len(heading) - text_height
    if length < text_height * scale_max:
        raise ValueError(f"height must be at least {math.ceil(text_height * (scale_max + 2))} pixels, got {height}")
    page = _white(height, BAR)
    page[: len(heading)] = heading
    top = len(heading) + text_height // 2
    ramp = np.linspace(scale_max, 0, length, dtype=np.float32)[:, None]
    page[top : top + length, : TICKS_AT - 7] = overlay(
        np.full((length, 1, 3), GREY, np.uint8), ramp, scale_max=scale_max
    )
    for tick in range(int(scale_max) + 1):
        y = top + round((length - 1) * (1 - tick / scale_max))
        page[y, TICKS_AT - 7 : TICKS_AT - 3] = INK
        label = _text(_tick(tick, scale_max), BAR - TICKS_AT, CAPTION, align=0.0)
        page[y - text_height // 2 :, TICKS_AT:][: len(label)] = label
    return page


def _tick(value: int, scale_max: float) -> str:
    if value == 0:
        return "0 = image"
    if value == 1:
        return "1 = even"
    return f"{value} or more" if value >= scale_max else str(value)


def enlarge(image: UInt8[np.ndarray, "h w 3"], factor: int) -> UInt8[np.ndarray, "h*{factor} w*{factor} 3"]:
    """The image `factor` times as large, each pixel a square: no colour appears that was not there."""
    return image.repeat(factor, axis=0).repeat(factor, axis=1)


@cache
def _colours() -> UInt8[np.ndarray, "256 3"]:
    """The colour table, inferno: perceptually uniform, from black to light yellow."""
    table: np.ndarray = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], cv2.COLORMAP_INFERNO)[:, 0, ::-1]
    return table.copy()


def _share(map_: Float32[np.ndarray, "h w"], scale_max: float) -> Float32[np.ndarray, "h w"]:
    """The map as a share of the scale, in [0, 1]."""
    if not np.isfinite(map_).all():
        raise ValueError("map_ holds NaN or infinity; a dead map must be all zero")
    return np.clip(map_ / np.float32(scale_max), 0, 1)


def _coloured(share: Float32[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    colours: np.ndarray = _colours()[np.rint(share * 255).astype(np.uint8)]
    return colours


def _white(height: int, width: int) -> UInt8[np.ndarray, "h w 3"]:
    return np.full((height, width, 3), 255, np.uint8)


@dataclass(frozen=True)
class Tile:
    """One picture of a page, what is written under it, and whether it shows something right or wrong.

    The verdict is drawn as a coloured frame and as a tick or a cross before the caption, never as colour alone.
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

    Tiles are enlarged by the largest whole factor that fits `tile_size` pixels, pixel by pixel; larger ones are shrunk.
    Texts break into as many lines as they need and the page grows with them. `bar` (see `colour_bar`) stands to the
    right; rows may differ in length. Raises ValueError for a page without tiles and labels of another number.
    """
    blocks = list(_blocks(rows, row_labels, column_labels, title, footer, bar, tile_size))
    page = _white(
        MARGIN + max(block.y + len(block.pixels) for block in blocks),
        MARGIN + max(block.x + block.pixels.shape[1] for block in blocks),
    )
    for block in blocks:
        height, width = block.pixels.shape[:2]
        page[block.y : block.y + height, block.x : block.x + width] = block.pixels
    return page


@dataclass(frozen=True)
class _Block:
    """Pixels and where their top left corner is on the page."""

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
        heading = _text(title, width, TITLE, bold=True, align=0.0)
        yield _Block(MARGIN, y, heading)
        y += len(heading) + GAP
    heads = [_text(label, cell, LABEL, bold=True) for label in column_labels]
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
        yield _Block(MARGIN, y, _text(footer, width, CAPTION, align=0.0, colour=FAINT))


def _row_blocks(
    row: Sequence[Tile], pictures: Sequence[np.ndarray], label: np.ndarray | None, left: int, top: int, cell: int
) -> Iterator[_Block]:
    """One row: the label beside the middle of the pictures, the captions below them."""
    height = max(len(picture) for picture in pictures)
    if label is not None:
        yield _Block(MARGIN, top + max(0, height - len(label)) // 2, label)
    for column, (tile, picture) in enumerate(zip(row, pictures, strict=True)):
        x = left + column * (cell + GAP)
        yield _Block(x + (cell - picture.shape[1]) // 2, top + (height - len(picture)) // 2, picture)
        if tile.caption or tile.verdict != "none":
            yield _Block(x, top + height, _text(tile.caption, cell, CAPTION, verdict=tile.verdict))


def _check_page(
    rows: Sequence[Sequence[Tile]], row_labels: Sequence[str], column_labels: Sequence[str], tile_size: int
) -> None:
    if not rows or not all(rows):
        raise ValueError("rows must hold at least one row and no empty row")
    if row_labels and len(row_labels) != len(rows):
        raise ValueError(f"row_labels holds {len(row_labels)} texts for {len(rows)} rows")
    if column_labels and len(column_labels) < max(len(row) for row in rows):
        raise ValueError(f"column_labels holds {len(column_labels)} texts for {max(len(row) for row in rows)} columns")
    if tile_size < 16:
        raise ValueError(f"tile_size must be at least 16 pixels, got {tile_size}")


def _framed(tile: Tile, tile_size: int) -> UInt8[np.ndarray, "h w 3"]:
    """The tile's picture at its size on the page, in a frame of the verdict's colour (white for none)."""
    picture = _fitted(tile.image, tile_size)
    height, width = picture.shape[:2]
    framed = np.full((height + 2 * FRAME, width + 2 * FRAME, 3), 255, np.uint8)
    if tile.verdict != "none":
        framed[:] = MARKS[tile.verdict][1]
    framed[FRAME:-FRAME, FRAME:-FRAME] = picture
    return framed


def _fitted(image: UInt8[np.ndarray, "h w 3"], size: int) -> UInt8[np.ndarray, "h2 w2 3"]:
    """The image with its longer side at most `size`: a whole number of times as large, or shrunk by averaging."""
    longest = max(image.shape[:2])
    if longest <= size:
        return enlarge(image, size // longest)
    height, width = (max(1, round(side * size / longest)) for side in image.shape[:2])
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA).astype(np.uint8)


def _row_labels(texts: Sequence[str]) -> list[UInt8[np.ndarray, "_ _ 3"]]:
    """The labels, all as wide as the widest needs, up to a limit."""
    face = font(LABEL, bold=True)
    needed = max((face.getlength(line) for text in texts for line in text.splitlines()), default=0)
    width = min(WIDEST_ROW_LABEL, int(needed) + 4)
    return [_text(text, width, LABEL, bold=True, align=0.0) for text in texts]


def _text(
    text: str,
    width: int,
    size: int,
    *,
    bold: bool = False,
    align: float = 0.5,
    colour: tuple[int, int, int] = INK,
    verdict: Verdict = "none",
) -> UInt8[np.ndarray, "h w 3"]:
    """The text on white, `width` pixels wide and as tall as its lines; `align` 0 = left, 0.5 = centred."""
    mark, mark_colour = MARKS.get(verdict, ("", INK))
    face = font(size, bold=bold)
    lines = wrap(f"{mark} {text}".strip(), face, width - 2)
    block = Image.new("RGB", (width, max(1, line_height(size) * len(lines))), "white")
    draw = ImageDraw.Draw(block)
    for index, line in enumerate(lines):
        at = (1 + (width - 2 - face.getlength(line)) * align, index * line_height(size))
        if index == 0 and mark:
            draw.text(at, mark, mark_colour, face)
            at = (at[0] + face.getlength(mark), at[1])
            line = line.removeprefix(mark)
        draw.text(at, line, colour, face)
    return np.asarray(block)
