"""The space that a study searches: the possible Cutout holes, and how a trial draws from them.

Sizes are in pixels. Training without Cutout is one point of the space.
"""

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..settings.base import spelled

if TYPE_CHECKING:  # an import of seconds, without which the options can be checked
    import optuna

Options = Mapping[str, Any]
"""The options of the holes of a training, by name."""

HOLES, SIZE, HEIGHT, WIDTH = "cutout_holes", "cutout_size", "cutout_height", "cutout_width"
PROBABILITY, FILL, PLACEMENT = "cutout_p", "cutout_fill", "cutout_placement"
P_STEP = 0.05  # finer differences of the probability do not matter


@dataclass(frozen=True)
class Space:
    """The holes that may be proposed.

    Attributes:
        holes: smallest and largest number of holes per image; 0 means no Cutout.
        sizes: smallest and largest side of a hole, in pixels.
        rectangles: whether height and width are proposed separately; otherwise holes are squares.
        p: smallest and largest probability that an image gets its holes, in steps of `P_STEP`.
        fills, placements: values of `cutout_fill` and `cutout_placement`.
        side: of the images, in pixels.
    """

    holes: tuple[int, int]
    sizes: tuple[int, int]
    rectangles: bool
    p: tuple[float, float]
    fills: tuple[str, ...]
    placements: tuple[str, ...]
    side: int

    def propose(self, trial: "optuna.trial.BaseTrial") -> Options:
        """The options of the holes. If there is no hole, the trial is asked for nothing else."""
        holes = trial.suggest_int(HOLES, *self.holes)
        if not holes:
            return {"cutout": False}
        if self.rectangles:
            height, width = (trial.suggest_int(name, *self.sizes) for name in (HEIGHT, WIDTH))
            size = f"{height}x{width}"
        else:
            size = str(trial.suggest_int(SIZE, *self.sizes))
        return {
            "cutout": True,
            HOLES: holes,
            SIZE: size,
            PROBABILITY: round(trial.suggest_float(PROBABILITY, *self.p, step=P_STEP), 2),
            FILL: trial.suggest_categorical(FILL, self.fills),
            PLACEMENT: trial.suggest_categorical(PLACEMENT, self.placements),
        }

    def params_of(self, options: Options) -> dict[str, Any] | None:
        """The parameters of a trial with these options; None if the options lie outside the space."""
        if not options["cutout"]:
            return {HOLES: 0} if not self.holes[0] else None
        size = str(options[SIZE])
        sides = size.split("x") if "x" in size else [size] * (1 + self.rectangles)
        if not all(side.isdigit() for side in sides) or len(sides) != 1 + self.rectangles:
            return None
        names = (HEIGHT, WIDTH) if self.rectangles else (SIZE,)
        params = {HOLES: options[HOLES], PROBABILITY: options[PROBABILITY]}
        params |= {FILL: options[FILL], PLACEMENT: options[PLACEMENT]}
        params |= {name: int(side) for name, side in zip(names, sides, strict=True)}
        axes = self.axes()
        return params if all(value in axes[name] for name, value in params.items()) else None

    def axes(self) -> dict[str, list[Any]]:
        """All values of each parameter."""
        low, high = self.p
        sizes = list(range(self.sizes[0], self.sizes[1] + 1))
        steps = range(round((high - low) / P_STEP) + 1)
        return {
            HOLES: list(range(self.holes[0], self.holes[1] + 1)),
            **({HEIGHT: sizes, WIDTH: sizes} if self.rectangles else {SIZE: sizes}),
            PROBABILITY: [round(low + P_STEP * step, 2) for step in steps],
            FILL: list(self.fills),
            PLACEMENT: list(self.placements),
        }

    def grid(self) -> Iterator[dict[str, Any]]:
        """The parameters of every point, as `propose` asks for them."""
        axes = self.axes()
        for holes in axes.pop(HOLES):
            others = itertools.product(*axes.values()) if holes else [()]
            yield from ({HOLES: holes} | dict(zip(axes, values, strict=False)) for values in others)

    @property
    def points(self) -> int:
        """The number of different trainings in the space."""
        axes = self.axes()
        with_holes = sum(count > 0 for count in axes.pop(HOLES))
        return with_holes * math.prod(map(len, axes.values())) + (self.holes[0] == 0)

    def __str__(self) -> str:
        low, high = (f"{size} ({size / self.side:.3g} of the side)" for size in self.sizes)
        what = "height and width" if self.rectangles else "square side"
        return (
            f"holes {self.holes[0]} to {self.holes[1]}, {what} {low} to {high} pixels, "
            f"probability {self.p[0]:g} to {self.p[1]:g}, fill {' or '.join(self.fills)}, "
            f"placement {' or '.join(self.placements)}"
        )


def label(options: Options) -> str:
    """The holes in a few words, such as `2 holes of 12 px, p 0.5, noise, inside`; published values are left out."""
    if not options["cutout"]:
        return "no cutout"
    holes = int(options[HOLES])
    words = [f"{holes} hole{'s' if holes > 1 else ''} of {options[SIZE]} px"]
    if float(options[PROBABILITY]) != 1:
        words.append(f"p {float(options[PROBABILITY]):g}")
    words += [
        str(options[name]) for name, usual in ((FILL, "mean"), (PLACEMENT, "published")) if options[name] != usual
    ]
    return ", ".join(words)


def as_words(options: Options) -> dict[str, str]:
    """The options with their values as they are typed on the command line."""
    return {name: spelled(value) for name, value in options.items()}
