"""Cutout as a transform of albumentations."""

import warnings
from typing import Any, TypeVar

import albumentations as A
import numpy as np

T = TypeVar("T", bound=A.BasicTransform)


def strict(transform: type[T], **arguments: Any) -> T:
    """`transform(**arguments)`, with an error for arguments that albumentations would only warn about and ignore.

    Otherwise `CoarseDropout(max_holes=1, max_height=16)`, as in many recipes, would train with tiny default holes.

    Raises:
        ValueError: names the arguments that this version of the transform does not know.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=r"Argument\(s\)")
        try:
            return transform(**arguments)
        except UserWarning as warning:
            raise ValueError(f"{warning}; see the signature of albumentations {A.__version__}") from None


class Cutout(A.CoarseDropout):  # type: ignore[misc]
    """Square holes, centre anywhere in the image, clipped at the border (DeVries & Taylor 2017, arXiv 1708.04552).

    A hole of side s covers the rows from centre - s // 2 onwards. Because of the clipping, a 16-pixel hole erases 19 %
    of a 32x32 image on average. CoarseDropout of albumentations keeps the whole hole inside and erases 25 %.
    """

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        """The holes `(n, 4)` as x1, y1, x2, y2 in pixels, and the seed of a random fill."""
        height, width = params["shape"][:2]
        holes = [self._hole(height, width) for _ in range(self.py_random.randint(*self.num_holes_range))]
        return {"holes": np.array(holes, np.int32), "seed": self.py_random.randint(0, 2**32 - 1)}

    def _hole(self, height: int, width: int) -> tuple[int, int, int, int]:
        tall, wide = self._extent()
        top, left = self.py_random.randrange(height) - tall // 2, self.py_random.randrange(width) - wide // 2
        return max(left, 0), max(top, 0), min(left + wide, width), min(top + tall, height)

    def _extent(self) -> tuple[int, int]:
        """Height and width of the next hole before clipping, in pixels."""
        side = self.py_random.randint(*self.hole_height_range)
        return side, side


class RectangularCutout(Cutout):
    """As `Cutout`, with height and width drawn independently of each other.

    A hole of height h and width w covers the rows from centre - h // 2 and the columns from centre - w // 2 onwards.
    """

    def _extent(self) -> tuple[int, int]:
        return self.py_random.randint(*self.hole_height_range), self.py_random.randint(*self.hole_width_range)
