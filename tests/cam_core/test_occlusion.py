"""Occlusion: on a network where it is known, by its sum, and against captum."""

import pytest
import torch
from torch import Tensor, nn

from cam_core import Contrast, class_numbers, colour_fill, occlusion

pytestmark = pytest.mark.usefixtures("one_thread")

BLACK = colour_fill(torch.zeros(3))


def linear(height: int, width: int) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * height * width, 4))


def net() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 4))


def test_windows_of_one_pixel_give_a_linear_network_s_products_and_they_sum_to_the_score() -> None:
    model, images, classes = linear(4, 5), torch.randn(3, 3, 4, 5), torch.tensor([0, 2, 3])
    found = occlusion(model, images, classes, window=1, remove=BLACK)
    weight, bias = model[1].weight.detach()[classes], model[1].bias.detach()[classes]
    torch.testing.assert_close(found, (weight.view(images.shape) * images).sum(1), atol=1e-5, rtol=1e-5)
    score = model(images).detach().gather(1, classes[:, None])[:, 0]
    torch.testing.assert_close(found.sum((1, 2)) + bias, score, atol=1e-5, rtol=1e-5)


def test_pixels_that_the_network_does_not_see_count_nothing() -> None:
    class Left(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[..., :4].relu().sum((2, 3))

    found = occlusion(Left(), torch.rand(2, 3, 8, 8), 1, window=2, stride=2)
    assert found[..., 4:].count_nonzero() == 0
    assert occlusion(Left(), torch.rand(2, 3, 8, 8), 1, window=2, remove=BLACK)[..., :3].min() > 0


@pytest.mark.parametrize(("window", "stride"), [(4, 4), (3, 2), (3, 1), (12, 5), (5, 3)])
def test_captum_gives_this_map(window: int, stride: int) -> None:
    attr = pytest.importorskip("captum.attr")
    model, images, classes = net(), torch.randn(3, 3, 11, 12), torch.tensor([1, 0, 3])
    window_of_captum = (3, min(window, 11), window)
    theirs = attr.Occlusion(model).attribute(
        images, window_of_captum, strides=(3, stride, stride), target=classes, baselines=0
    )
    ours = occlusion(model, images, classes, window=window, stride=stride, remove=BLACK, chunk=7)
    torch.testing.assert_close(ours, theirs[:, 0], atol=1e-4, rtol=0)


def test_any_target_and_any_chunk_and_every_window_is_reported() -> None:
    model, images = net(), torch.randn(3, 3, 8, 8)
    logits = model(images).detach()
    order = logits.argsort(1, descending=True)
    told: list[tuple[int, int]] = []
    ours = occlusion(model, images, Contrast(near=1), window=4, chunk=2, progress=lambda *call: told.append(call))
    named = occlusion(model, images, Contrast(order[:, 0], order[:, 1]), window=4)
    torch.testing.assert_close(ours, named, atol=1e-5, rtol=0)
    assert told == [(count, 9) for count in range(1, 10)]
    by_name = occlusion(model, images, class_numbers("cat", ["dog", "cat", "cow", "hen"]), window=4)
    torch.testing.assert_close(by_name, occlusion(model, images, lambda logits: logits[:, 1], window=4))


@pytest.mark.parametrize(
    "options", [{"window": 0}, {"window": 9}, {"window": 4, "stride": 5}, {"window": 2, "chunk": 0}]
)
def test_windows_that_do_not_fit_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="window must be 1 to 8 pixels, stride 1 to window, and chunk 1 or more, got"):
        occlusion(net(), torch.rand(1, 3, 8, 8), 0, **options)
