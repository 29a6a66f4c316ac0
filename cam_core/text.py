"""Text for pictures: a font with most alphabets, line breaks for a given width, and blocks of lines."""

import unicodedata
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

Font = ImageFont.FreeTypeFont
Colour = tuple[int, int, int]

INK: Colour = (32, 33, 36)


@cache
def font(size: int, *, bold: bool = False) -> Font:
    """DejaVu Sans, `size` in pixels, from the files in the matplotlib package (matplotlib itself is not imported)."""
    spec = find_spec("matplotlib")
    if spec is None or spec.origin is None:
        raise ImportError("text in pictures needs a font from the matplotlib package: pip install matplotlib")
    folder = Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf"
    return ImageFont.truetype(folder / ("DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"), size)


def line_height(size: int) -> int:
    """Pixels from one line of text to the next."""
    return round(size * 1.35)


def legible(text: str) -> str:
    r"""The text with escapes such as `\u732b` for characters that the font does not have or that have no look.

    Otherwise all of them would be the same empty box.
    """
    return text if text.isascii() and text.isprintable() else "".join(map(_legible, text))


@cache
def _legible(character: str) -> str:
    if character.isspace():
        return " "
    invisible = unicodedata.category(character)[0] == "C"
    if invisible or _look(character) == _look(_UNASSIGNED):
        return character.encode("unicode_escape").decode()
    return character


_UNASSIGNED = "\U0010ffff"


def _look(character: str) -> bytes:
    return bytes(font(24).getmask(character))


def wrap(text: str, font: Font, width: int) -> list[str]:
    """The text in lines of at most `width` pixels, broken at spaces, and inside a word only if the word is too wide.

    Line breaks in the text are kept; an empty text has no lines.
    """
    lines: list[str] = []
    for paragraph in text.splitlines():
        line = ""
        for word in legible(paragraph).split():
            if line and font.getlength(f"{line} {word}") > width:
                lines.append(line)
                line = ""
            *full, word = _pieces(word, font, width)
            lines += full
            line = f"{line} {word}" if line else word
        lines.append(line)
    return lines


def _pieces(word: str, font: Font, width: int) -> list[str]:
    """The word in pieces of at most `width` pixels (at least one character), if possible cut after `-`, `_` or `/`."""
    pieces = []
    while len(word) > 1 and font.getlength(word) > width:
        fits = next((end for end in range(len(word), 1, -1) if font.getlength(word[:end]) <= width), 1)
        cut = max(word.rfind(joint, 0, fits) for joint in "_-/") + 1 or fits
        pieces.append(word[:cut])
        word = word[cut:]
    return [*pieces, word]


def written(
    text: str,
    width: int,
    size: int,
    *,
    bold: bool = False,
    align: float = 0.5,
    colour: Colour = INK,
    mark: tuple[str, Colour] | None = None,
) -> UInt8[np.ndarray, "h {width} 3"]:
    """The text on white, `width` pixels wide and as tall as its lines; `align` 0 = left, 0.5 = centred.

    `mark` is a symbol before the text, with its own colour.
    """
    symbol, symbol_colour = mark or ("", INK)
    face = font(size, bold=bold)
    lines = wrap(f"{symbol} {text}".strip(), face, width - 2)
    block = Image.new("RGB", (width, max(1, line_height(size) * len(lines))), "white")
    draw = ImageDraw.Draw(block)
    for index, line in enumerate(lines):
        at = (1 + (width - 2 - face.getlength(line)) * align, index * line_height(size))
        if index == 0 and symbol:
            draw.text(at, symbol, symbol_colour, face)
            at = (at[0] + face.getlength(symbol), at[1])
            line = line.removeprefix(symbol)
        draw.text(at, line, colour, face)
    return np.asarray(block)
