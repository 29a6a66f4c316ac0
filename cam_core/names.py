"""The names of methods and smoothings, `gradcam` or `scorecam:aug_smooth:eigen_smooth`, and how others write them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from cam_core.capture import near_miss
from cam_core.methods import CONTRIBUTIONS, METHODS
from cam_core.perturbation import PERTURBATION_METHODS

SMOOTHINGS = ("aug_smooth", "eigen_smooth")
ALL_METHODS = (*METHODS, *PERTURBATION_METHODS)
_ALSO_CALLED = {
    "gradcamplusplus": "gradcam++",
    "gradcampp": "gradcam++",
    "gradcamelementwise": "elementwise",
    "elementwisegradcam": "elementwise",
}


@dataclass(frozen=True)
class Spec:
    """A method and how it is smoothed."""

    base: str
    smoothings: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The one way to write it."""
        return ":".join((self.base, *self.smoothings))


def spec_of(name: str) -> Spec:
    """What a name means; upper case, `-`, `_` and the class names of grad-cam are understood too.

    A smoothing alone is that of Grad-CAM. Raises ValueError for an unknown name, with the nearest one.
    """
    if not isinstance(name, str):
        raise TypeError(f"a method is named by a text such as 'gradcam', got {type(name).__name__}")
    first, *rest = (_plain(part) for part in name.split(":"))
    smoothing_of = {_plain(smoothing): smoothing for smoothing in SMOOTHINGS}
    if first in smoothing_of:
        first, rest = "gradcam", [first, *rest]
    base = _ALSO_CALLED.get(first, first)
    if base not in ALL_METHODS:
        raise ValueError(
            f"method {name!r} is unknown{near_miss(base, ALL_METHODS)}; there are {', '.join(ALL_METHODS)}"
        )
    for part in rest:
        if part not in smoothing_of:
            raise ValueError(f"method {name!r}: {part!r} is no smoothing; there are {', '.join(SMOOTHINGS)}")
    smoothings = tuple(smoothing for smoothing in SMOOTHINGS if _plain(smoothing) in rest)
    if "eigen_smooth" in smoothings and base not in CONTRIBUTIONS and base not in PERTURBATION_METHODS:
        raise ValueError(f"method {name!r}: {base} is a first component already; leave :eigen_smooth out")
    return Spec(base, smoothings)


def specs_of(names: Sequence[str]) -> tuple[Spec, ...]:
    """What the names mean; ValueError also for none, and for one method twice."""
    if isinstance(names, str):
        raise ValueError(f"methods must be a list of names, got the text {names!r}; write [{names!r}]")
    specs = tuple(spec_of(name) for name in names)
    if not specs:
        raise ValueError(f"methods is empty; choose from {', '.join(ALL_METHODS)}")
    twice = [spec.name for index, spec in enumerate(specs) if spec in specs[:index]]
    if twice:
        raise ValueError(f"methods names {twice[0]!r} twice; name each once")
    return specs


def _plain(part: str) -> str:
    return re.sub(r"[\s_-]", "", part.lower())
