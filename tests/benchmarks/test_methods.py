"""The benchmark of methods goes on where it was ended, and its tables say what its rows say."""

from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from benchmarks import methods
from benchmarks.methods import CHANCE, DEFAULT, QUICK, Scenes

pytestmark = pytest.mark.usefixtures("one_thread")


def rows(seed: int) -> pd.DataFrame:
    """Three places: the default, one with better areas for each seed, and chance."""
    places = [("late", DEFAULT, 0.5, 0.4), ("early", "layercam", 0.3 - seed / 100, 0.6), ("image", CHANCE, 0.7, 0.3)]
    table = pd.DataFrame(places, columns=["layer", "method", "deletion", "insertion"])
    alike = {"focus": 0.5, "auc": 0.9, "random": 0.1, "dead": 0.0}
    return table.assign(network="fastnet", seed=seed, accuracy=0.9, **alike)


def test_margins_are_those_over_the_random_map_of_the_same_network() -> None:
    found = methods.with_margins(pd.concat([rows(0), rows(1)])).set_index(["seed", "method"])
    assert found.loc[(0, DEFAULT), "deletion"] == pytest.approx(0.2)
    assert found.loc[(1, "layercam"), "deletion"] == pytest.approx(0.41)
    assert found.loc[(1, "layercam"), "insertion"] == pytest.approx(0.3)
    assert (found.xs(CHANCE, level="method")[["deletion", "insertion"]] == 0).all(axis=None)


def test_an_interval_by_hand() -> None:
    # The standard error of 1, 2, 3 is 1 / sqrt(3), and Student's t with two degrees of freedom reaches 4.303.
    assert methods.interval(pd.Series([1.0, 2.0, 3.0, float("nan")])) == "2.000 ± 2.484"
    assert methods.interval(pd.Series([0.25])) == "0.250"
    assert methods.interval(pd.Series([float("nan")])) == "-"


def test_the_best_row_comes_first_and_what_is_shown_is_named() -> None:
    lines = list(methods.report(pd.concat([rows(seed) for seed in range(4)]), QUICK))
    table = [line for line in lines if line.startswith("| ")]
    assert table[1].startswith("| early | layercam | 0.500 ± 0.000 | 0.900 ± 0.000 | 0.415 ± 0.021 | 0.300 ± 0.000 |")
    assert "* deletion margin: 1 better, 0 worse. Best: early layercam (+0.215, +0.194 to +0.236)." in lines
    assert "* focus index: 0 better, 0 worse. Best: none." in lines


def test_parts_that_are_there_are_not_computed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    computed: list[tuple[str, int]] = []

    def part(name: str, seed: int, *rest: object) -> pd.DataFrame:
        if len(computed) == 3:
            raise KeyboardInterrupt
        computed.append((name, seed))
        return rows(seed).assign(network=name)

    monkeypatch.setattr(methods, "part", part)
    monkeypatch.setattr(methods, "dataset", lambda *given: object())
    with pytest.raises(KeyboardInterrupt):
        methods.parts(QUICK, tmp_path, "data")
    assert len(computed) == 3
    computed[:] = computed[:2]  # so that one more is allowed
    found = methods.parts(QUICK, tmp_path, "data")
    assert len(found) == 3 * 4
    assert computed[2:] == [("resnet18", 1)]
    assert len(methods.parts(QUICK, tmp_path, "data")) == 3 * 4
    assert not list(tmp_path.glob("*.new"))


class Net(nn.Module):
    """Three layers of two sizes and a linear head."""

    cam_layers = ("a", "b", "c")

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 1, 1)
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.c(self.b(self.a(x).relu()).relu()).relu().mean((2, 3)))


@pytest.mark.slow
@pytest.mark.wild
def test_every_method_and_layer_is_measured() -> None:
    masks = torch.zeros(3, 32, 32, dtype=torch.bool)
    masks[:, 8:20, 4:20] = True
    found = pd.DataFrame(
        methods.measured(Net(), Scenes(torch.rand(3, 3, 32, 32), torch.tensor([0, 1, 2]), masks), QUICK)
    )
    assert not found.duplicated(["layer", "method"]).any()
    places = set(zip(found["layer"], found["method"], strict=True))
    assert {("a", "gradcam"), ("c", "scorecam"), ("last three", "product of layercam"), ("image", CHANCE)} <= places
    assert len(places) == 3 * 8 + 2 + 6 + 3
    assert found[["focus", "auc"]].notna().all(axis=None)
    assert found["deletion"].between(0, 1).all()
