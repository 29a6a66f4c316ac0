"""A picture that cannot be drawn must not end hours of training: an image of the error takes its place."""

from collections.abc import Callable
from typing import TypeVar

from cam_core.text import written

from .style import Pixels

_WIDTH, _SIZE = 640, 16  # pixels
_failed: list[str] = []


T = TypeVar("T")


def drawn_or_explained(name: str, draw: Callable[[], T]) -> T | Pixels:
    """What `draw` returns. If it raises, a picture with the text of the error, which `take_failures` then reports."""
    try:
        return draw()
    except Exception as error:
        why = f"{name} could not be drawn ({type(error).__name__}: {' '.join(str(error).split())[:500]})"
        _failed.append(why)
        return written(why, _WIDTH, _SIZE, align=0.0)


def take_failures() -> list[str]:
    """A line for each picture of this process that could not be drawn since the last call."""
    failed = list(_failed)
    _failed.clear()
    return failed
