"""Reads option values: sizes of holes, epochs at which the learning rate falls, sides, layers, arguments, colours.

This module imports no other module of the suite. Unlike the other settings modules, its code can change a result.
"""

import re

WHOLE_SIDE = 32
_SIZE = r"\d{1,9}|0?\.\d{1,9}|1\.0{1,9}"  # pixels, or a share of the side
IMAGENET = "0.485,0.456,0.406/0.229,0.224,0.225"  # torchvision's, for nearly all of its weights


def hole_ranges(text: str, side: int = WHOLE_SIDE) -> list[tuple[int, int]]:
    """The smallest and largest side in pixels: one pair for both sides, or one for the height and one for the width.

    `"16"` or `"8-20"`: one range for both; `"12x20"` or `"8-12x16-20"`: height x width. `"0.5"` or `"0.25-0.5"`, with a
    decimal point: shares of the image's `side`.

    Raises:
        ValueError: names what is allowed, in one line.
    """
    parts = [re.fullmatch(rf"({_SIZE})(?:-({_SIZE}))?", part) for part in text.split("x")]
    ranges = [(part[1], part[2] or part[1]) for part in parts if part]
    rising = all(0 < float(low) <= float(high) and ("." in low) == ("." in high) for low, high in ranges)
    if len(ranges) != len(parts) or len(parts) > 2 or not rising:
        allowed = "pixels such as 16 or shares of the side such as 0.5, a range such as 8-20, or height x width"
        raise ValueError(f"must be {allowed} such as 12x20 or 8-12x16-20, above 0")
    return [(_pixels(low, side), _pixels(high, side)) for low, high in ranges]


def padding_pixels(text: str, side: int = WHOLE_SIDE) -> int:
    """The pixels in a text such as `"4"`, or `"0.125"`, with a decimal point, as a share of the image's `side`.

    Raises:
        ValueError: names what is allowed, in one line.
    """
    if not re.fullmatch(_SIZE, text):
        raise ValueError("must be pixels such as 4, or a share of the side such as 0.125, or 0")
    return _pixels(text, side)


def _pixels(size: str, side: int) -> int:
    """Rounded; a share above 0 is at least one pixel."""
    return max(round(float(size) * side), int(float(size) > 0)) if "." in size else int(size)


def own_part(text: str) -> None:
    """Checks the form of `FILE.py:NAME`, `FILE.yaml` or `none`.

    Raises:
        ValueError: names what is allowed, in one line.
    """
    if text != "none" and not re.fullmatch(r".+\.py:[^\W\d]\w*|.+\.ya?ml", text):
        raise ValueError("must be none, FILE.py:NAME or FILE.yaml")


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


def frozen_layer(text: str) -> str | None:
    """The layer in a text such as `"until:layer2"`; None for `none` and `backbone`.

    Raises:
        ValueError: names what is allowed, in one line.
    """
    layer = text.removeprefix("until:")
    if text not in ("none", "backbone") and layer in (text, ""):
        raise ValueError("must be none, backbone, or until:LAYER such as until:layer2")
    return layer if layer != text else None


def arguments(text: str) -> dict[str, bool | int | float | tuple[float, ...]]:
    """The arguments in a text such as `"betas=0.9/0.95 eps=1e-8"`, separated by spaces or commas; none for `none`.

    Raises:
        ValueError: names what is allowed, in one line.
    """
    found: dict[str, bool | int | float | tuple[float, ...]] = {}
    for word in [] if text == "none" else re.split(r"[\s,]+", text.strip()):
        name, _, value = word.partition("=")
        numbers = [float(part) for part in value.split("/") if re.fullmatch(_NUMBER, part)]
        whole = re.fullmatch(r"-?\d{1,9}", value)
        boolean = {"true": True, "false": False}.get(value.lower())
        if not name.isidentifier() or name in found or (boolean is None and len(numbers) != value.count("/") + 1):
            raise ValueError("must be none, or arguments such as betas=0.9/0.95 eps=1e-8 amsgrad=true, each once")
        number = int(value) if whole else numbers[0] if len(numbers) == 1 else tuple(numbers)
        found[name] = number if boolean is None else boolean
    return found


_NUMBER = r"-?(\d{1,9}(\.\d{0,20})?|\.\d{1,20})(e[+-]?\d{1,2})?"
