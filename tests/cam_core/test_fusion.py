"""One map of several layers: by hand, by its bounds, and as other libraries make it."""

import pytest
import torch
from torch import Tensor, nn

from cam_core import Cams, cams, fused, normalise, resize
from cam_core.fusion import FUSIONS

pytestmark = pytest.mark.usefixtures("one_thread")


def found(maps: list[list[list[float]]]) -> Cams:
    """The maps of two layers, one row of pixels for each image."""
    values = torch.tensor(maps)[:, :, None]
    strength = values.amax((2, 3))
    return Cams(values, strength, torch.zeros(values.shape[1], 2), ("early", "late"), ((1, 4), (1, 2)), "gradcam")


def test_by_hand() -> None:
    both = found([[[1.0, 0.5, 0.0, 0.5]], [[0.5, 1.0, 1.0, 0.0]]])
    product, mean = (fused(both, by) for by in FUSIONS)
    assert product.maps.tolist() == [[[[1.0, 1.0, 0.0, 0.0]]]]
    assert product.strength.tolist() == [[0.5]]
    assert mean.maps.flatten().tolist() == pytest.approx([1, 1, 2 / 3, 1 / 3])
    assert (product.layers, product.grids) == (("product of early, late",), ((1, 4),))


def test_layers_that_do_not_agree_give_a_dead_product_but_no_dead_mean() -> None:
    apart = found([[[1.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]], [[0.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0]]])
    assert fused(apart).maps.count_nonzero() == 0
    assert fused(apart).strength.tolist() == [[0.0, 0.0]]
    assert fused(apart, "mean").maps.flatten(2).tolist() == [[[1.0, 0, 0, 1.0], [1.0, 0, 0, 0]]]


def test_an_unknown_way_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="by='sum' is unknown; use one of product, mean"):
        fused(found([[[1.0]], [[1.0]]]), "sum")


class Net(nn.Module):
    """Three stages of different resolution and a linear head, with gradients far above every epsilon."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU())
        self.b = nn.Sequential(nn.Conv2d(6, 8, 3, 2, 1), nn.ReLU())
        self.c = nn.Sequential(nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU())
        self.fc = nn.Linear(8, 5)
        self.fc.weight.data *= 1e9

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.c(self.b(self.a(x))).mean((2, 3)))


@pytest.mark.parametrize("way", FUSIONS)
def test_the_order_of_layers_does_not_matter_and_one_layer_stays_as_it_is(way: str) -> None:
    model, images = Net().eval(), torch.rand(3, 3, 16, 16)
    there, back = (fused(cams(model, images, list(layers), 1, method="layercam"), way) for layers in ("abc", "cba"))
    torch.testing.assert_close(there.maps, back.maps)
    alone = cams(model, images, ["b"], 1, method="layercam")
    torch.testing.assert_close(fused(alone, way).maps, alone.maps)


def test_torchcam_s_refinecam_is_this_product_of_maps_without_their_minimum() -> None:
    methods = pytest.importorskip("torchcam.methods")
    model, images, classes = Net().eval(), torch.rand(3, 3, 16, 16), [0, 3, 2]
    with methods.RefineCAM(model, ["a", "b", "c"], base_method=methods.LayerCAM) as engine:
        (theirs,) = engine(classes, model(images), target_shape=(16, 16))
    # It takes the minimum from each map, at the resolution of its layer; ours keeps 0 as "no evidence".
    maps = []
    for layer in "abc":
        with methods.LayerCAM(model, layer) as engine:
            (raw,) = engine(classes, model(images), normalized=False)
        raw = raw - raw.amin((1, 2), keepdim=True)
        maps.append(resize(normalise(raw), (16, 16)))
    ours = cams(model, images, ["a", "b", "c"], classes, method="layercam")
    shifted = fused(Cams(torch.stack(maps), ours.strength, ours.logits, ours.layers, ours.grids, ours.method)).maps[0]
    least = shifted.amin((1, 2), keepdim=True)
    torch.testing.assert_close((shifted - least) / (1 - least), theirs, atol=1e-4, rtol=0)
