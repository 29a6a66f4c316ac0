"""The methods by hand, by their identities, and against independent computations."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from cam_core import METHODS, cams, capture, normalise, relative_to_mean, resize
from cam_core.methods import CONTRIBUTIONS, EIGEN_SMOOTHED, eigen_smoothed, first_component

pytestmark = pytest.mark.usefixtures("one_thread")

# One image, two channels, 1 x 2 positions: small enough for paper.
A = torch.tensor([[[[1.0, 3.0]], [[2.0, 0.0]]]])
G = torch.tensor([[[[1.0, -1.0]], [[0.5, 1.5]]]])


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        # mean(g) = 0 and 1: 0 * A0 + 1 * A1
        ("gradcam", [2.0, 0.0]),
        # S = 4 and 2; relu(g) = (1, 0) and (0.5, 1.5): w0 = 1/(2+4) = 1/6, w1 = 0.5/(2+1) + 1.5/(2+3) = 7/15
        ("gradcam++", [1 / 6 + 14 / 15, 1 / 2]),
        # g A = (1, -3) + (1, 0)
        ("hirescam", [2.0, -3.0]),
        # w0 = (1 - 3)/4 = -1/2, w1 = (1 + 0)/2 = 1/2
        ("xgradcam", [-0.5 + 1.0, -1.5]),
        # relu(g) A = (1, 0) + (1, 0)
        ("layercam", [2.0, 0.0]),
        # relu(g A) = (1, 0) + (1, 0)
        ("elementwise", [2.0, 0.0]),
    ],
)
def test_by_hand(method: str, expected: list[float]) -> None:
    torch.testing.assert_close(METHODS[method](A, G), torch.tensor([[expected]]))


def test_layercam_and_elementwise_differ_where_activations_are_negative() -> None:
    a, g = torch.tensor([[[[-1.0, 2.0]]]]), torch.tensor([[[[-3.0, 1.0]]]])
    assert METHODS["layercam"](a, g).tolist() == [[[0.0, 2.0]]]
    assert METHODS["elementwise"](a, g).tolist() == [[[3.0, 2.0]]]


def test_gradcam_plus_plus_is_equation_19_in_double_precision() -> None:
    generator = torch.Generator().manual_seed(0)
    a = torch.rand(4, 6, 5, 5, generator=generator)
    g = 1e-3 * torch.randn(4, 6, 5, 5, generator=generator)
    a64, g64 = a.double(), g.double()
    alpha = g64**2 / (2 * g64**2 + a64.sum((2, 3), keepdim=True) * g64**3)
    weights = (alpha * g64.relu()).sum((2, 3), keepdim=True)
    expected = (weights * a64).sum(1).relu()
    found = METHODS["gradcam++"](a, g).relu().double()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)


def test_degenerate_denominators_give_weight_zero_and_no_nan() -> None:
    a = torch.tensor([[[[1.0, -1.0]], [[-4.0, 0.0]]]])  # sums 0 and -4
    g = torch.tensor([[[[1.0, 2.0]], [[0.5, 1.0]]]])
    # Grad-CAM++: w0 = 1/2 + 2/2; in channel 1 the denominators 2 - 2 and 2 - 4 are not positive.
    assert METHODS["gradcam++"](a, g).tolist() == [[[1.5, -1.5]]]
    # XGradCAM: channel 0 has sum 0; w1 = (-2 + 0) / -4
    assert METHODS["xgradcam"](a, g).tolist() == [[[-2.0, 0.0]]]


@pytest.mark.parametrize("method", METHODS)
def test_no_gradient_no_map_but_for_eigencam_which_asks_for_none(method: str) -> None:
    found = METHODS[method](torch.rand(2, 3, 4, 4), torch.zeros(2, 3, 4, 4))
    assert (found.count_nonzero() > 0) == (method == "eigencam")


def test_the_first_component_by_hand() -> None:
    one = torch.tensor([0.0, 0.0, 3.0]).view(1, 1, 1, 3)
    # Centred (-1, -1, 2), and that is all there is; the largest magnitude is positive, whatever the sign was.
    torch.testing.assert_close(first_component(one), torch.tensor([[[-1.0, -1.0, 2.0]]]))
    torch.testing.assert_close(first_component(-one), torch.tensor([[[-1.0, -1.0, 2.0]]]))
    # Smoothed contributions keep the sign of their sum.
    torch.testing.assert_close(eigen_smoothed(-one), torch.tensor([[[1.0, 1.0, -2.0]]]))
    # Two channels of which the second is -2 times the first: direction (1, -2) / sqrt(5), length sqrt(5) times as long.
    two = torch.cat([one, -2 * one], 1)
    torch.testing.assert_close(first_component(two), 5**0.5 * torch.tensor([[[-1.0, -1.0, 2.0]]]))


@pytest.mark.parametrize("shape", [(3, 4, 5, 6), (3, 40, 3, 4)], ids=["fewer channels", "fewer positions"])
def test_the_first_component_is_that_of_a_singular_value_decomposition(shape: tuple[int, ...]) -> None:
    values = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    found = first_component(values).flatten(1)
    for ours, channels in zip(found, values.flatten(2).double(), strict=True):
        centred = channels - channels.mean(1, keepdim=True)
        left, singular, _ = np.linalg.svd(centred.T.numpy(), full_matrices=False)
        theirs = torch.from_numpy(left[:, 0] * singular[0])
        theirs = theirs * theirs[theirs.abs().argmax()].sign()
        torch.testing.assert_close(ours.double(), theirs, atol=1e-5, rtol=0)
        assert ours[ours.abs().argmax()] > 0


@pytest.mark.parametrize("exponent", [-30, -6, 6, 30])
def test_the_first_component_scales_with_what_it_is_of(exponent: int) -> None:
    values = torch.rand(2, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    scale = 10.0**exponent
    torch.testing.assert_close(first_component(values * scale) / scale, first_component(values), atol=1e-5, rtol=1e-4)
    assert first_component(torch.ones(1, 4, 3, 3)).count_nonzero() == 0


@pytest.mark.parametrize("method", CONTRIBUTIONS)
def test_eigen_smooth_of_a_single_channel_is_the_centred_map(method: str) -> None:
    generator = torch.Generator().manual_seed(0)
    a, g = torch.rand(3, 1, 4, 5, generator=generator), torch.randn(3, 1, 4, 5, generator=generator)
    plain = METHODS[method](a, g)
    centred = plain - plain.mean((1, 2), keepdim=True)
    torch.testing.assert_close(EIGEN_SMOOTHED[method](a, g), centred, atol=1e-5, rtol=1e-4)


def test_xgradcam_sums_to_what_hirescam_sums_to() -> None:
    generator = torch.Generator().manual_seed(0)
    a, g = torch.rand(3, 5, 4, 6, generator=generator), torch.randn(3, 5, 4, 6, generator=generator)
    torch.testing.assert_close(METHODS["xgradcam"](a, g).sum((1, 2)), METHODS["hirescam"](a, g).sum((1, 2)))


class Features(nn.Module):
    """Convolutions, global average pooling, a linear head: the network of the original CAM."""

    def __init__(self) -> None:
        super().__init__()
        self.early = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU())
        self.late = nn.Sequential(nn.Conv2d(6, 7, 3, padding=1, stride=2), nn.ReLU())
        self.fc = nn.Linear(7, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.late(self.early(x)).mean((2, 3)))


def net_and_batch() -> tuple[Features, Tensor, Tensor]:
    torch.manual_seed(3)
    return Features().eval(), torch.randn(5, 3, 10, 12), torch.tensor([0, 3, 1, 2, 2])


def test_before_pooling_and_a_linear_head_gradcam_is_cam_and_hirescam() -> None:
    model, images, classes = net_and_batch()
    evidence = capture(model, images, ["late"], classes)
    a, g = evidence.activations["late"], evidence.gradients["late"]
    original = torch.einsum("nc,nchw->nhw", model.fc.weight.detach()[classes], a) / (a.shape[2] * a.shape[3])
    for method in ("gradcam", "hirescam", "xgradcam"):
        torch.testing.assert_close(METHODS[method](a, g), original, atol=1e-6, rtol=1e-5)


def test_normalise_by_hand() -> None:
    maps = torch.tensor([[[0.0, 1.0], [2.0, 4.0]], [[0.0, 0.0], [0.0, 0.0]], [[1.0, 1.0], [1.0, 2.0]]])
    assert normalise(maps).tolist() == [[[0, 0.25], [0.5, 1]], [[0, 0], [0, 0]], [[0.5, 0.5], [0.5, 1]]]
    assert relative_to_mean(maps)[0].flatten().tolist() == pytest.approx([0, 4 / 7, 8 / 7, 16 / 7])
    assert relative_to_mean(maps)[1].count_nonzero() == 0
    assert torch.equal(relative_to_mean(torch.full((1, 3, 5), 0.3)), torch.ones(1, 3, 5))


@given(st.integers(-38, 37), st.integers(0, 2**31))
def test_normalising_does_not_know_the_scale(exponent: int, seed: int) -> None:
    maps = torch.rand(2, 4, 6, generator=torch.Generator().manual_seed(seed)) + 0.1
    scaled = maps * 10.0**exponent
    torch.testing.assert_close(normalise(scaled), normalise(maps), atol=0, rtol=1e-4)
    torch.testing.assert_close(relative_to_mean(scaled), relative_to_mean(maps), atol=0, rtol=1e-4)
    torch.testing.assert_close(relative_to_mean(maps).mean((1, 2)), torch.ones(2))


def test_resize_is_opencv_s_linear() -> None:
    maps = torch.rand(3, 4, 5, generator=torch.Generator().manual_seed(0))
    expected = np.stack([cv2.resize(one.numpy(), (15, 32), interpolation=cv2.INTER_LINEAR) for one in maps])
    np.testing.assert_allclose(resize(maps, (32, 15)).numpy(), expected, atol=1e-6)


def test_the_relu_comes_before_the_resize() -> None:
    model = nn.Sequential(nn.Conv2d(1, 1, 2, stride=2, bias=False), nn.Flatten(), nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        model[0].weight.fill_(0.25)
        model[2].weight.copy_(torch.tensor([[1.0, 1.0]]))
    image = torch.tensor([[[[2.0, 2.0, -8.0, -8.0]] * 2]])  # activations 2 and -8, gradients 1 and 1
    result = cams(model, image, ["0"], torch.tensor([0]), method="hirescam")
    assert result.strength.tolist() == [[2.0]]
    # bilinear between (2, 0), not between (2, -8): 2, 1.5, 0.5, 0
    assert result.maps[0, 0].tolist() == [[1.0, 0.75, 0.25, 0.0]] * 2
    assert result.logits.tolist() == [[-6.0]]
