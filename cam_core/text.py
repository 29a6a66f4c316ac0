"""Text for pictures: a font with most alphabets, and lines that fit a width."""

from functools import cache
from importlib.util import find_spec
from pathlib import Path

from PIL import ImageFont

Font = ImageFont.FreeTypeFont


@cache
def font(size: int, *, bold: bool = False) -> Font:
    """DejaVu Sans, `size` in pixels, from the files that matplotlib brings (matplotlib itself is not imported)."""
    spec = find_spec("matplotlib")
    if spec is None or spec.origin is None:
        raise ImportError("text in pictures is set in a font that matplotlib brings: pip install matplotlib")
    folder = Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf"
    return ImageFont.truetype(folder / ("DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"), size)


def line_height(size: int) -> int:
    """Pixels from one line of text to the next."""
    return round(size * 1.35)


def wrap(text: str, font: Font, width: int) -> list[str]:
    """The text in lines of at most `width` pixels, broken at spaces, and inside a word only where it alone is too wide.

    Line breaks in the text are kept; an empty text has no lines.
    """
    lines: list[str] = []
    for paragraph in text.splitlines():
        line = ""
        for word in paragraph.split():
            if line and font.getlength(f"{line} {word}") > width:
                lines.append(line)
                line = ""
            *full, word = _pieces(word, font, width)
            lines += full
            line = f"{line} {word}" if line else word
        lines.append(line)
    return lines


def _pieces(word: str, font: Font, width: int) -> list[str]:
    """The word in pieces of at most `width` pixels, though never below one character, if possible cut after a joint."""
    pieces = []
    while len(word) > 1 and font.getlength(word) > width:
        fits = next((end for end in range(len(word), 1, -1) if font.getlength(word[:end]) <= width), 1)
        cut = max(word.rfind(joint, 0, fits) for joint in "_-/") + 1 or fits
        pieces.append(word[:cut])
        word = word[cut:]
    return [*pieces, word]
