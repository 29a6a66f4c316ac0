"""The names of methods and smoothings, `gradcam` or `scorecam:aug_smooth:eigen_smooth`, and other spellings of them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from cam_core.methods import CONTRIBUTIONS, METHODS
from cam_core.models import near_miss
from cam_core.perturbation import PERTURBATION_METHODS

SMOOTHINGS = ("aug_smooth", "eigen_smooth")
ALL_METHODS = (*METHODS, *PERTURBATION_METHODS)
_ALSO_CALLED = {
    "gradcamplusplus": "gradcam++",
    "gradcampp": "gradcam++",
    "layergradcam": "gradcam",
    "layergradxactivation": "hirescam",
    "layergradientxactivation": "hirescam",
    "abalationcam": "ablationcam",
    "gradcamelementwise": "elementwise",
    "elementwisegradcam": "elementwise",
}


_INSTEAD = {
    "smoothgradcam++": "'gradcam++:aug_smooth', which averages over views of the image instead of noise",
    "smoothgradcampp": "'gradcam++:aug_smooth', which averages over views of the image instead of noise",
    "finercam": "method 'gradcam' with target=Contrast(), the predicted class against the three nearest",
    "refinecam": "fused(cams(...)), the product of the maps of several layers",
    "occlusion": "the function occlusion, which needs no layer",
    "cam": "'gradcam', which is the original CAM before global average pooling and a linear head",
    "classactivationmapping": "'gradcam', which is the original CAM before global average pooling and a linear head",
    "fullgrad": "'hirescam' at several layers",
    "sscam": "'scorecam:aug_smooth'",
    "iscam": "'scorecam:aug_smooth'",
}
"""What to use in place of the methods of other libraries."""


@dataclass(frozen=True)
class Spec:
    """A method and how it is smoothed."""

    base: str
    smoothings: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The standard spelling."""
        return ":".join((self.base, *self.smoothings))


def spec_of(name: str) -> Spec:
    """The method and smoothings of a name; upper case, `-`, `_` and the class names of grad-cam are allowed too.

    A smoothing alone means Grad-CAM with it. Raises ValueError for an unknown name, with the closest known one.
    """
    if not isinstance(name, str):
        raise TypeError(f"a method must be a text such as 'gradcam', got {type(name).__name__}")
    first, *rest = (_plain(part) for part in name.split(":"))
    smoothing_of = {_plain(smoothing): smoothing for smoothing in SMOOTHINGS}
    if first in smoothing_of:
        first, rest = "gradcam", [first, *rest]
    base = _ALSO_CALLED.get(first, first)
    if base in _INSTEAD:
        raise ValueError(f"method {name!r} is not offered; use {_INSTEAD[base]}")
    if base not in ALL_METHODS:
        raise ValueError(
            f"method {name!r} is unknown{near_miss(base, ALL_METHODS)}; use one of {', '.join(ALL_METHODS)}"
        )
    for part in rest:
        if part not in smoothing_of:
            raise ValueError(f"method {name!r}: {part!r} is not a smoothing; use one of {', '.join(SMOOTHINGS)}")
    smoothings = tuple(smoothing for smoothing in SMOOTHINGS if _plain(smoothing) in rest)
    if "eigen_smooth" in smoothings and base not in CONTRIBUTIONS and base not in PERTURBATION_METHODS:
        raise ValueError(f"method {name!r}: {base} is already a first component; leave out :eigen_smooth")
    return Spec(base, smoothings)


def specs_of(names: Sequence[str]) -> tuple[Spec, ...]:
    """The methods of several names; ValueError also if there is no name, or if a method is named twice."""
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
