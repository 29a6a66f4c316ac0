"""The measures of a run: every image at every layer, references that know nothing, and maps that can be had back."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from cam_core import cams, normalise, quality, resize
from cam_core.agreement import cosine
from cam_core.faithfulness import deletion_margin
from experiments.data.dataset import Split
from experiments.data.tensors import to_tensor
from experiments.explaining import measuring
from experiments.explaining.map_measures import MAP_MEASURES, metric_of
from experiments.explaining.probes import spread
from experiments.models.fastnet import FastNet
from experiments.training.predictions import predict
from tests.toys.networks import toy_split

pytestmark = pytest.mark.usefixtures("one_thread")

LAYERS = FastNet.cam_layers
LAST = LAYERS[-1]


def network(**changes: nn.Module) -> nn.Module:
    """A network of random weights for the toys."""
    torch.manual_seed(0)
    net = FastNet(3, [0.2] * 3, [0.2] * 3).eval()
    for name, module in changes.items():
        setattr(net, name, module)
    return net


def looks_of(net: nn.Module, split: Split) -> measuring.Looks:
    return measuring.measure(net, LAYERS, split, predict(net, split.images, split.labels, "cpu"), "gradcam", "cpu")


def maps_of(net: nn.Module, split: Split, indices: np.ndarray) -> torch.Tensor:
    """The last layer's maps at the size of the images, all at once."""
    return cams(net, to_tensor(split.images[indices]), [LAST], torch.from_numpy(split.labels[indices])).maps[0]


@pytest.fixture
def split() -> Split:
    return toy_split(30, 3)


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "SAMPLE", 20)
    monkeypatch.setattr(measuring, "EXPENSIVE", 7)
    monkeypatch.setattr(measuring, "CHUNK", 8)


# The table


def test_the_table_has_every_measure_of_every_sampled_image_at_every_layer(split: Split, small_chunks: None) -> None:
    net = network()
    predictions = predict(net, split.images, split.labels, "cpu")
    table = looks_of(net, split).table
    assert set(table.columns) == {"index", "layer", "right", *MAP_MEASURES}
    assert table["layer"].tolist() == [layer for layer in LAYERS for _ in range(20)]
    for _, rows in table.groupby("layer"):
        assert rows["index"].tolist() == spread(30, 20).tolist()
        assert rows["right"].tolist() == predictions.right[rows["index"]].tolist()


def test_the_values_are_those_of_the_maps_and_do_not_hang_on_chunks(split: Split, small_chunks: None) -> None:
    net = network()
    looks = looks_of(net, split)
    rows = looks.table[looks.table["layer"] == LAST]
    maps, masks = maps_of(net, split, looks.indices), torch.from_numpy(split.masks[looks.indices])
    expected = {
        "focus": quality.focus_index(maps, masks, (4, 4)),
        "energy": (maps * masks).sum((1, 2)) / maps.sum((1, 2)),
        "recall": ((maps >= 0.5) & masks).sum((1, 2)) / masks.sum((1, 2)),
        "coverage": (maps >= 0.5).float().mean((1, 2)),
        "border": 1 - maps[:, 2:-2, 2:-2].sum((1, 2)) / maps.sum((1, 2)),
    }
    dead = ~maps.flatten(1).any(1)
    for name, values in expected.items():
        measured = values.masked_fill(dead, torch.nan)
        np.testing.assert_allclose(rows[name], measured.numpy(), atol=1e-5, err_msg=name)


def test_without_masks_only_the_shape_of_the_map_is_measured(split: Split) -> None:
    with_masks, without = (looks_of(network(), some).table for some in (split, replace(split, masks=None)))
    columns = ["index", "layer", "right", *(name for name, row in MAP_MEASURES.items() if not row.on_object)]
    assert set(without.columns) == set(columns)
    assert {"coverage", "dead"} < set(columns)
    pd.testing.assert_frame_equal(without[columns], with_masks[columns])


class Dark(nn.Module):
    """A last layer that puts out something for every third image of a batch, and nothing for the others."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * (torch.arange(len(x)) % 3 == 0)[:, None, None, None]


def test_dead_maps_are_missing_and_not_zero(split: Split) -> None:
    looks = looks_of(network(layer3=Dark()), split)
    rows = looks.table[looks.table["layer"] == LAST]
    alive = np.arange(30) % 3 == 0
    assert rows["dead"].tolist() == (~alive).astype(float).tolist()
    for name in set(MAP_MEASURES) - {"dead"}:
        assert rows[name].isna().tolist() == (~alive).tolist(), name
    assert (looks.maps[~alive] == 0).all()
    assert measuring.summary(looks.table)[f"cam/{LAST}/energy"] == pytest.approx(rows["energy"][alive].mean())
    assert measuring.summary(looks.table)[f"cam/{LAST}/dead"] == pytest.approx(2 / 3)


# Its means


def test_the_summary_is_the_mean_per_layer_of_what_is_defined() -> None:
    table = pd.DataFrame(
        {
            "index": [0, 5, 0, 5],
            "layer": ["stem", "stem", "layer3", "layer3"],
            "right": [True, False, True, False],
            "energy": [0.2, 0.4, np.nan, 0.5],
            "focus": [0.5, -0.5, np.nan, np.nan],
        }
    )
    assert measuring.summary(table) == pytest.approx(
        {"cam/stem/energy": 0.3, "cam/stem/focus": 0.0, "cam/layer3/energy": 0.5}
    )


def test_the_summary_of_faithfulness_leaves_out_what_no_image_has() -> None:
    table = pd.DataFrame({"index": [0, 8], "deletion_margin": [0.1, 0.3], "flip_consistency": [np.nan, np.nan]})
    assert measuring.faithfulness_summary(table, "layer3") == pytest.approx({"faith/deletion_margin": 0.2})
    table["flip_consistency"] = [np.nan, 0.8]
    assert measuring.faithfulness_summary(table, "layer3")["cam/layer3/flip_consistency"] == 0.8


# The maps


def test_the_kept_maps_are_those_of_cams_at_the_layers_own_resolution(split: Split, small_chunks: None) -> None:
    net = network()
    looks = looks_of(net, split)
    assert looks.maps.shape == (20, 4, 4)
    assert looks.maps.dtype == np.float16
    kept = torch.from_numpy(looks.maps.astype(np.float32))
    expected = maps_of(net, split, looks.indices)
    assert quality.live(expected).any()
    torch.testing.assert_close(normalise(resize(kept, (16, 16))), expected, atol=2e-3, rtol=0)
    torch.testing.assert_close(kept.mean((1, 2)), quality.live(expected).float(), atol=2e-3, rtol=0)


@given(rows=st.integers(1, 8), columns=st.integers(1, 8), larger=st.integers(0, 24), seed=st.integers(0, 99))
def test_at_its_grid_a_map_is_what_it_was_before_it_was_resized(
    rows: int, columns: int, larger: int, seed: int
) -> None:
    before = torch.rand(3, rows, columns, generator=torch.Generator().manual_seed(seed))
    after = resize(before, (rows + larger, columns + 2 * larger))
    torch.testing.assert_close(measuring.at_grid(after, (rows, columns)), before, atol=1e-4, rtol=0)


# References


def squares(*areas: tuple[slice, slice]) -> np.ndarray:
    masks = np.zeros((len(areas), 16, 16), bool)
    for mask, area in zip(masks, areas, strict=True):
        mask[area] = True
    return masks


def test_references_score_what_knowing_nothing_scores() -> None:
    # A quarter of the area, twice: in the middle, and in a corner.
    found = measuring.references(squares((slice(4, 12), slice(4, 12)), (slice(8), slice(8))), (4, 4))
    assert found.index.tolist() == ["uniform", "random", "centre"]
    uniform = found.loc["uniform"].to_dict()
    assert uniform == pytest.approx(
        {
            "focus": 0,
            "energy": 0.25,
            "lift": 1,
            "pointing": 0.25,
            "auc": 0.5,
            "iou": 0.25,
            "recall": 1,
            "precision": 0.25,
        },
        abs=1e-6,
    )
    # Its four highest pixels all lie in the one mask, and one of them in the other.
    assert found.loc["centre", "pointing"] == (1 + 1 / 4) / 2
    assert 0.25 < found.loc["centre", "energy"] < 0.5


def test_random_references_know_nothing_on_average_and_are_the_same_each_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    masks = toy_split(600, 5).masks
    assert masks is not None
    found = measuring.references(masks, (4, 4))
    assert found.loc["random", "energy"] == pytest.approx(masks.mean(), abs=0.01)
    assert found.loc["random", "auc"] == pytest.approx(0.5, abs=0.03)
    assert found.loc["random", "focus"] == pytest.approx(0, abs=0.05)
    monkeypatch.setattr(measuring, "CHUNK", 77)
    pd.testing.assert_frame_equal(measuring.references(masks, (4, 4)), found)


def test_references_leave_out_images_without_an_object() -> None:
    middle, nothing = (slice(4, 12), slice(4, 12)), (slice(0), slice(0))
    found = measuring.references(squares(middle, nothing), (4, 4)).drop(index="random")
    pd.testing.assert_frame_equal(found, measuring.references(squares(middle), (4, 4)).drop(index="random"))


# Faithfulness


def test_faithfulness_is_measured_on_a_part_of_the_sample_at_the_last_layer(split: Split, small_chunks: None) -> None:
    net = network()
    table = measuring.faithfulness(net, LAST, split, "gradcam", "cpu")
    sample = spread(30, 20)
    assert table["index"].tolist() == sample[spread(20, 7)].tolist()
    indices = table["index"].to_numpy()
    maps = maps_of(net, split, indices)
    images, labels = to_tensor(split.images[indices]), torch.from_numpy(split.labels[indices])
    mirrored = replace(split, images=split.images[:, :, ::-1])
    expected = cosine(maps, maps_of(net, mirrored, indices).flip(2))
    np.testing.assert_allclose(table["flip_consistency"], expected, atol=1e-5)
    margin = deletion_margin(net, images, maps, labels, (4, 4), steps=measuring.STEPS)
    np.testing.assert_allclose(table["deletion_margin"], margin, atol=1e-4)


def symmetric(net: nn.Module) -> nn.Module:
    """The network with kernels that are the same mirrored, and no pooling, which would tell left from right."""
    for module in net.modules():
        if isinstance(module, nn.MaxPool2d):
            module.kernel_size = module.stride = 1
        if isinstance(module, nn.Conv2d):
            module.weight.data = (module.weight + module.weight.flip(3)) / 2
    return net


def test_a_network_that_cannot_tell_left_from_right_is_consistent(split: Split) -> None:
    table = measuring.faithfulness(symmetric(network()), LAST, split, "gradcam", "cpu")
    known = table["flip_consistency"].dropna()
    assert len(known)
    np.testing.assert_allclose(known, 1, atol=1e-4)


def test_a_network_that_ignores_the_image_makes_no_map_faithful(split: Split) -> None:
    """Its probabilities never move, so no order of deletion is better than another."""
    net = network()
    nn.init.zeros_(net.linear.weight)
    table = measuring.faithfulness(net, LAST, split, "eigencam", "cpu")
    np.testing.assert_allclose(table["deletion_margin"].dropna(), 0, atol=1e-6)
    assert table["deletion_margin"].notna().any()


def test_a_call_of_a_layer_has_a_name_that_mlflow_takes() -> None:
    assert metric_of("features._swish#-1", "focus") == "cam/features._swish:-1/focus"
    assert metric_of("layer4", "focus") == "cam/layer4/focus"


def test_fewer_large_images_are_explained_together() -> None:
    sizes = {side: measuring.at_a_time(np.empty((0, side, side, 3))) for side in (16, 32, 64, 224, 1024)}
    assert sizes == {16: 250, 32: 250, 64: 62, 224: 5, 1024: 1}


def test_large_images_are_measured_as_small_chunks_of_small_ones(split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = measuring.faithfulness(network(), LAST, split, "gradcam", "cpu")
    monkeypatch.setattr(measuring, "CHUNK", 7)
    parts = measuring.faithfulness(network(), LAST, split, "gradcam", "cpu")
    assert parts["index"].tolist() == whole["index"].tolist()
    np.testing.assert_allclose(parts["flip_consistency"], whole["flip_consistency"], atol=1e-5)
    # The first seven have the same random maps; later ones others, as they must not all have the same seven.
    change = np.abs(parts["deletion_margin"] - whole["deletion_margin"])
    assert np.nanmax(change[:7]) < 1e-4 < 1e-3 < np.nanmax(change[7:])
