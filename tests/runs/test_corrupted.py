"""The accuracy on corrupted images is counted by corruption and severity."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from experiments.data.cifar10 import SEVERITIES
from experiments.data.dataset import Dataset, Split
from experiments.runs.evaluate import iter_corrupted
from experiments.tracking.records import Metrics, Table


class Bright(nn.Module):
    """Says class 1 where an image is brighter than half."""

    def forward(self, images: Tensor) -> Tensor:
        means = images.mean((1, 2, 3))
        return torch.stack([1 - means, means], 1)


def test_each_severity_is_counted_and_the_mean_is_over_all() -> None:
    labels = np.tile([0, 1, 1, 1], SEVERITIES)
    bright = np.where(np.arange(len(labels)) < 8, 255 * labels, 0)  # from the third severity on all images are black
    images = {"fog": bright, "snow": 255 * labels}
    splits = {
        f"corrupted/{name}": Split(np.tile(values[:, None, None, None], (16, 16, 3)).astype(np.uint8), labels, None)
        for name, values in images.items()
    }
    metrics, table = iter_corrupted(Dataset("c", ("dark", "bright"), splits), Bright(), "cpu", 3)
    assert isinstance(metrics, Metrics)
    assert isinstance(table, Table)
    assert metrics.values == {"shift/corrupted_accuracy": pytest.approx((2 + 3 * 0.25 + 5) / 10)}
    expected = pd.DataFrame(
        [["fog", 1.0, 1.0, 0.25, 0.25, 0.25], ["snow", *[1.0] * 5]],
        columns=["corruption", *(f"severity {n}" for n in range(1, 6))],
    )
    pd.testing.assert_frame_equal(table.frame, expected)
    plain = Dataset("plain", ("dark", "bright"), {"test": splits["corrupted/fog"]})
    assert list(iter_corrupted(plain, Bright(), "cpu", 3)) == []
