"""What the texts of options mean: sizes of holes, epochs at which the rate falls, sides of shrunken images.

A leaf without imports of its own: it is part of what decides a result, as the rest of the settings is not.
"""

import re

WHOLE_SIDE = 32


def hole_ranges(text: str) -> list[tuple[int, int]]:
    """Smallest and largest side in pixels, or those of the height and those of the width.

    `"16"` or `"8-20"`: one range for both; `"12x20"` or `"8-12x16-20"`: height x width.

    Raises:
        ValueError: with what is allowed, in one line.
    """
    parts = [re.fullmatch(r"(\d+)(?:-(\d+))?", part) for part in text.split("x")]
    ranges = [(int(part[1]), int(part[2] or part[1])) for part in parts if part]
    if len(ranges) != len(parts) or len(parts) > 2 or not all(1 <= low <= high for low, high in ranges):
        allowed = "pixels such as 16, a range such as 8-20, or height x width such as 12x20 or 8-12x16-20"
        raise ValueError(f"must be {allowed}, at least 1")
    return ranges


def rising_epochs(text: str) -> tuple[int, ...]:
    """The epochs of a text such as `"60,120,160"`; empty for `none`.

    Raises:
        ValueError: with what is allowed, in one line.
    """
    parts = [] if text == "none" else text.split(",")
    epochs = [int(part) for part in parts if part.isdecimal()]
    if len(epochs) != len(parts) or epochs != sorted(set(epochs)) or epochs[:1] == [0]:
        raise ValueError("must be none, or rising epochs such as 60,120,160")
    return tuple(epochs)


def side_shares(text: str) -> tuple[float, ...]:
    """The sides of a text such as `"20,24,32"` as shares of 32, the whole side, which ends it; `(1.0,)` for `none`.

    Raises:
        ValueError: with what is allowed, in one line.
    """
    parts = [str(WHOLE_SIDE)] if text == "none" else text.split(",")
    sides = [int(part) for part in parts if part.isdecimal()]
    if len(sides) != len(parts) or sides != sorted(set(sides)) or sides[0] < 8 or sides[-1] != WHOLE_SIDE:
        raise ValueError("must be none, or rising sides from 8 to 32 that end with 32, such as 20,24,32")
    return tuple(side / WHOLE_SIDE for side in sides)
