"""The examples of docs/cam_core.md run."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from experiments.models.resnet18 import ResNet18

PAGE = Path(__file__).parents[2] / "docs" / "cam_core.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)

pytestmark = pytest.mark.usefixtures("one_thread")


class Small(nn.Module):
    """A body, and a head that makes what `kind` of networks return."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU())
        self.head = nn.Conv2d(4, 1 if kind == "binary" else 3, 1)
        self.kind = kind

    def forward(self, x: Tensor) -> Any:
        scores = self.head(self.body(x))
        if self.kind == "segmenter":
            return {"out": nn.functional.interpolate(scores, x.shape[2:])}
        return {"scores": scores.flatten(2).mT} if self.kind == "detector" else scores.mean((2, 3))


def vit() -> nn.Module:
    from torchvision.models import VisionTransformer

    model = VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=10)
    nn.init.normal_(model.heads.head.weight)
    return model


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_an_example_runs(example: str) -> None:
    torch.manual_seed(0)
    networks = [ResNet18(10, [0.5] * 3, [0.25] * 3) for _ in range(2)]
    kinds = {kind: Small(kind) for kind in ("binary", "segmenter", "detector")}
    given: dict[str, Any] = {
        "torch": torch,
        **{"model": networks[0], "other": networks[1], "vit": vit(), **kinds},
        "layers": ["layer3", "layer4"],
        "images": torch.rand(2, 3, 32, 32),
        "labels": torch.tensor([0, 9]),
        "true_labels": torch.tensor([[1, 0] * 5, [0, 1] * 5]),
        "photos": np.zeros((2, 32, 32, 3), np.uint8),
    }
    exec(compile(example, str(PAGE), "exec"), given)


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 4
