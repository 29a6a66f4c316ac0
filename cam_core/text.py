"""Text for pictures: fonts for the alphabets of this machine, line breaks for a given width, and blocks of lines.

DejaVu Sans has most alphabets. For characters that it lacks, such as Chinese ones, the machine is searched for a font.
"""

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]

INK: Colour = (32, 33, 36)
_JOINERS = "\u200c\u200d"  # parts of words; they have no look of their own


@dataclass(frozen=True)
class Font:
    """DejaVu Sans, and other fonts for the characters that it lacks; `size` in pixels."""

    size: int
    bold: bool = False

    def runs(self, text: str) -> Iterator[tuple[str, ImageFont.FreeTypeFont]]:
        """The text in pieces with the font of each."""
        runs: list[tuple[Path, str]] = []
        for character in text:
            path = font_file(character) or _dejavu(self.bold)
            path = _dejavu(self.bold) if path == _dejavu(False) else path
            if runs and (character in _JOINERS or path == runs[-1][0]):
                runs[-1] = (runs[-1][0], runs[-1][1] + character)
            else:
                runs.append((path, character))
        return ((run, _opened(path, self.size)) for path, run in runs)

    def getlength(self, text: str) -> float:
        """The width of a line, in pixels."""
        return sum(font.getlength(run) for run, font in self.runs(text))

    def draw(self, draw: ImageDraw.ImageDraw, at: tuple[float, int], text: str, colour: Colour) -> None:
        """Draws a line; `at` is its left end at the height of the tallest letters of DejaVu Sans."""
        x, y = at[0], at[1] + _opened(_dejavu(self.bold), self.size).getmetrics()[0]
        for run, font in self.runs(text):
            draw.text((x, y), run, colour, font, anchor="ls")
            x += font.getlength(run)


@cache
def font(size: int, *, bold: bool = False) -> Font:
    """The font at that size in pixels."""
    return Font(size, bold)


_opened = cache(ImageFont.truetype)


@cache
def _dejavu(bold: bool) -> Path:
    spec = find_spec("matplotlib")
    if spec is None or spec.origin is None:
        raise ImportError("text in pictures needs a font from the matplotlib package: pip install matplotlib")
    folder = Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf"
    return folder / ("DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf")


@cache
def font_file(character: str) -> Path | None:
    """The file of a font with that character: DejaVu Sans, else a font of this machine; None if there is none."""
    if all(ord(character) in _characters(_dejavu(bold)) for bold in (False, True)):
        return _dejavu(False)
    path = _fonts_of_machine().get(ord(character))
    if path and _opened(path, 24).getmask(character).getbbox():
        fonts_needed[path] = None
        return path
    return None


fonts_needed: dict[Path, None] = {}
"""The fonts of this machine that texts have needed so far."""


@cache
def _characters(path: Path) -> frozenset[int]:
    from matplotlib.ft2font import FT2Font  # takes long to import, and plain text does not need it

    return frozenset(FT2Font(path).get_charmap())


@cache
def _fonts_of_machine() -> dict[int, Path]:
    """Character -> the first font with it, those without serifs first. Bitmaps, as of coloured emoji, are left out."""
    from matplotlib.font_manager import findSystemFonts
    from matplotlib.ft2font import FT2Font

    found: dict[int, Path] = {}
    for path in sorted(map(Path, findSystemFonts()), key=lambda p: ("Sans" not in p.name, "Regular" not in p.name, p)):
        try:
            face = FT2Font(path)
        except (OSError, RuntimeError):  # no font after all
            continue
        if face.scalable and "lastresort" not in path.name.lower():  # which has a box for every character
            found = dict.fromkeys(face.get_charmap(), path) | found
    return found


def line_height(size: int) -> int:
    """Pixels from one line of text to the next."""
    return round(size * 1.35)


def legible(text: str) -> str:
    r"""The text with escapes such as `\u732b` for characters that no font has or that have no look.

    Otherwise all of them would be the same empty box.
    """
    return text if text.isascii() and text.isprintable() else "".join(map(_legible, text))


def _legible(character: str) -> str:
    if character.isspace():
        return " "
    if character in _JOINERS:
        return character
    invisible = unicodedata.category(character)[0] == "C"
    return character.encode("unicode_escape").decode() if invisible or not font_file(character) else character


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
            face.draw(draw, at, symbol, symbol_colour)
            at = (at[0] + face.getlength(symbol), at[1])
            line = line.removeprefix(symbol)
        face.draw(draw, at, line, colour)
    return np.asarray(block)
