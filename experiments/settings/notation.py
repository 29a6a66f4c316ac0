"""Reads option values: sizes of holes, epochs at which the learning rate falls, sides of smaller images, colours.

This module imports no other module of the suite. Unlike the other settings modules, its code can change a result.
"""

import re

WHOLE_SIDE = 32
IMAGENET = "0.485,0.456,0.406/0.229,0.224,0.225"  # torchvision's, for nearly all of its weights


def hole_ranges(text: str) -> list[tuple[int, int]]:
    """The smallest and largest side in pixels: one pair for both sides, or one for the height and one for the width.

    `"16"` or `"8-20"`: one range for both; `"12x20"` or `"8-12x16-20"`: height x width.

    Raises:
        ValueError: names what is allowed, in one line.
    """
    parts = [re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?", part) for part in text.split("x")]
    ranges = [(int(part[1]), int(part[2] or part[1])) for part in parts if part]
    if len(ranges) != len(parts) or len(parts) > 2 or not all(1 <= low <= high for low, high in ranges):
        allowed = "pixels such as 16, a range such as 8-20, or height x width such as 12x20 or 8-12x16-20"
        raise ValueError(f"must be {allowed}, at least 1")
    return ranges


def rising_epochs(text: str) -> tuple[int, ...]:
    """The epochs in a text such as `"60,120,160"`; empty for `none`.

    Raises:
        ValueError: names what is allowed, in one line.
    """
    parts = [] if text == "none" else text.split(",")
    epochs = [int(part) for part in parts if re.fullmatch(r"\d{1,9}", part)]
    if len(epochs) != len(parts) or epochs != sorted(set(epochs)) or epochs[:1] == [0]:
        raise ValueError("must be none, or rising epochs such as 60,120,160")
    return tuple(epochs)


def side_shares(text: str) -> tuple[float, ...]:
    """The sides in a text such as `"20,24,32"` as shares of 32, the full side, which comes last; `(1.0,)` for `none`.

    Raises:
        ValueError: names what is allowed, in one line.
    """
    parts = [str(WHOLE_SIDE)] if text == "none" else text.split(",")
    sides = [int(part) for part in parts if re.fullmatch(r"\d{1,9}", part)]
    if len(sides) != len(parts) or sides != sorted(set(sides)) or sides[0] < 8 or sides[-1] != WHOLE_SIDE:
        raise ValueError("must be none, or rising sides from 8 to 32 that end with 32, such as 20,24,32")
    return tuple(side / WHOLE_SIDE for side in sides)


def channel_numbers(text: str) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Means and standard deviations of red, green and blue on the scale of 0 to 1; None for `auto` and `data`.

    `"0.485,0.456,0.406/0.229,0.224,0.225"`, or `"imagenet"`, which means these.

    Raises:
        ValueError: names what is allowed, in one line.
    """
    if text in ("auto", "data"):
        return None
    parts = (IMAGENET if text == "imagenet" else text).split("/")
    numbers = [tuple(float(n) for n in part.split(",") if re.fullmatch(r"\d{0,3}\.?\d{1,9}", n)) for part in parts]
    if [len(three) for three in numbers] != [3, 3] or max(numbers[0]) > 1 or min(numbers[1]) <= 0:
        raise ValueError(f"must be auto, data, imagenet, or means/deviations in 0 to 1, such as {IMAGENET}")
    return numbers[0], numbers[1]
