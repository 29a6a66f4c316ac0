"""What all pictures share: colours, names, sizes, and what takes the place of a picture that cannot be drawn."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TypeVar

import numpy as np
from jaxtyping import UInt8
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager, get_font
from matplotlib.text import Text

from cam_core.text import Font, font, fonts_needed, legible, wrap, written

Pixels = UInt8[np.ndarray, "height width 3"]
Images = UInt8[np.ndarray, "n h w 3"]
T = TypeVar("T")
SMALL, PLAIN, LARGE = 9, 10, 12  # points
METHOD_NAMES = {
    "gradcam": "Grad-CAM",
    "gradcam++": "Grad-CAM++",
    "hirescam": "HiResCAM",
    "xgradcam": "XGradCAM",
    "layercam": "LayerCAM",
    "elementwise": "element-wise",
    "eigencam": "EigenCAM",
    "eigengradcam": "EigenGradCAM",
    "scorecam": "Score-CAM",
    "ablationcam": "Ablation-CAM",
}

# Okabe & Ito 2008: colour-blind readers can tell them apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442", "#882255", "#999999")


def method_name(method: str) -> str:
    """The name of the method for readers, with its smoothings: `gradcam:aug_smooth` is "Grad-CAM, aug_smooth"."""
    base, *smoothings = method.split(":")
    return ", ".join([METHOD_NAMES[base], *smoothings])


def wrapped(text: str, inches: float, points: int = PLAIN) -> str:
    """The text in lines of that width, for matplotlib; characters that the font does not have are escapes."""
    return "\n".join(wrap(text, _face(points), int(inches * 100)))


def text_width(text: str) -> float:
    """The width of a line of text of the size `PLAIN`, in inches."""
    return _face(PLAIN).getlength(legible(text)) / 100


def _face(points: int) -> Font:
    """The font at that size, for 100 pixels per inch."""
    return font(round(points * 100 / 72))


def without_formulas(figure: Figure) -> None:
    """Makes every text of the figure appear as it is: no dollar sign starts a formula, and no letter lacks a font."""
    for text in figure.findobj(Text):
        text.set_parse_math(False)
        text.set_fontfamily(_families())


def _families() -> list[str]:
    """DejaVu Sans, and the fonts for characters that it lacks."""
    return ["DejaVu Sans", *map(_family, fonts_needed)]


@cache
def _family(path: Path) -> str:
    fontManager.addfont(path)
    return get_font(path).family_name


def drawn(figure: Figure) -> Pixels:
    """The figure's pixels."""
    canvas = FigureCanvasAgg(figure)
    without_formulas(figure)
    with rc_context(
        {"text.parse_math": False, "font.family": _families()}
    ):  # for the labels of axes, which are made during the drawing
        canvas.draw()  # type: ignore[no-untyped-call]
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()  # type: ignore[no-untyped-call]


_failed: list[str] = []


def drawn_or_explained(name: str, draw: Callable[[], T]) -> T | Pixels:
    """What `draw` returns. If it raises, a picture with the text of the error, which `take_failures` then reports.

    A picture that cannot be drawn must not end hours of training.
    """
    try:
        return draw()
    except Exception as error:
        why = f"{name} could not be drawn ({type(error).__name__}: {' '.join(str(error).split())[:500]})"
        _failed.append(why)
        return written(why, 640, 16, align=0.0)


def take_failures() -> list[str]:
    """A line for each picture of this process that could not be drawn since the last call."""
    failed = list(_failed)
    _failed.clear()
    return failed
