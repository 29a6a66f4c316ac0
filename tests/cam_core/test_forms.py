"""Layers, targets, inputs and outputs in all the forms that people have them in."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cam_core import ALL_METHODS, Contrast, auto_layers, cams, capture, predicted

pytestmark = pytest.mark.usefixtures("one_thread")

CLASSES = [2, 0, 1]
OTHERS = [1, 1, 2]


class Net(nn.Module):
    """Two stages and a linear head of three classes; `wrap` makes the output of the logits."""

    def __init__(self, wrap: Callable[[Tensor], Any] = lambda logits: logits) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(4, 6, 3, 2, 1), nn.ReLU(), nn.Conv2d(6, 6, 3, padding=1), nn.ReLU())
        self.head = nn.Linear(6, 3)
        self.wrap = wrap

    def forward(self, x: Tensor) -> Any:
        return self.wrap(self.head(self.body(self.stem(x)).mean((2, 3))))


def net(wrap: Callable[[Tensor], Any] = lambda logits: logits) -> Net:
    torch.manual_seed(0)
    return Net(wrap).eval()


def batch() -> Tensor:
    return torch.randn(3, 3, 8, 10, generator=torch.Generator().manual_seed(1))


def logit(index: int) -> Callable[[Tensor], Tensor]:
    return lambda logits: logits[index]


TARGETS: dict[str, tuple[Any, Callable[[int], Any]]] = {
    "number": (1, lambda i: 1),
    "list": (CLASSES, lambda i: CLASSES[i]),
    "array": (np.array(CLASSES), lambda i: CLASSES[i]),
    "tensor": (torch.tensor(CLASSES), lambda i: CLASSES[i]),
    "none": (None, lambda i: None),
    "predicted": (predicted, lambda i: predicted),
    "function": (lambda logits: logits.softmax(1)[:, 2], lambda i: lambda logits: logits.softmax(1)[:, 2]),
    "function that knows the images": (
        lambda logits: logits[torch.arange(3), CLASSES],
        lambda i: lambda logits: logits[:, CLASSES[i]],
    ),
    "functions": ([logit(index) for index in CLASSES], lambda i: [logit(CLASSES[i])]),
    "nearest": (Contrast(near=1), lambda i: Contrast(near=1)),
    "contrast": (
        Contrast(torch.tensor(CLASSES), torch.tensor(OTHERS)),
        lambda i: Contrast(torch.tensor(CLASSES[i : i + 1]), torch.tensor(OTHERS[i : i + 1])),
    ),
}


@pytest.mark.parametrize("form", TARGETS)
@pytest.mark.parametrize(
    "method",
    [
        *("gradcam", "scorecam", "ablationcam"),
        *(
            pytest.param(name, marks=pytest.mark.wild)
            for name in (*ALL_METHODS, "gradcam:aug_smooth", "scorecam:aug_smooth")
            if name not in ("gradcam", "scorecam", "ablationcam")
        ),
    ],
)
def test_a_target_in_every_form_and_method_is_that_of_one_image_at_a_time(form: str, method: str) -> None:
    model, images = net(), batch()
    target, of_image = TARGETS[form]
    together = cams(model, images, ["stem", "body"], target, method=method)
    for index in range(3):
        alone = cams(model, images[index : index + 1], ["stem", "body"], of_image(index), method=method)
        torch.testing.assert_close(together.maps[:, index], alone.maps[:, 0], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ([0, 1], r"target must be 3 whole numbers, one class per image, got torch.int64 \(2,\)"),
        (5, "target contains class 5, but the model has 3 classes: 0 to 2"),
        ([logit(0)], "target must be one function for each of 3 images, got 1 values"),
        ([logit(0), logit(1), 2], "target must be one function for each of 3 images"),
        ([lambda logits: logits] * 3, r"each function in target must turn logits \(k,\) into one number, got shape"),
    ],
)
def test_targets_that_do_not_fit_are_refused(target: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cams(net(), batch(), ["body"], target)


@pytest.mark.parametrize(
    "layers",
    [
        lambda model: ["body.3"],
        lambda model: ["body[3]"],
        lambda model: ["body[-1]"],
        lambda model: ["body.-1"],
        lambda model: [model.body[-1]],
        lambda model: ["module.body.3"],
        lambda model: ["bod*.3"],
    ],
)
def test_a_layer_is_found_by_name_index_pattern_or_module(layers: Callable[[Net], Sequence[Any]]) -> None:
    model = net()
    assert cams(model, batch(), layers(model), 0).layers == ("body.3",)


def test_a_pattern_names_every_layer_of_its_depth() -> None:
    assert cams(net(), batch(), ["stem", "body.*"], 0).layers == ("stem", "body.0", "body.1", "body.2", "body.3")


@dataclass
class Answer:
    loss: None
    logits: Tensor


@pytest.mark.parametrize(
    "wrap",
    [
        lambda logits: (logits, logits + 1),
        lambda logits: [logits],
        lambda logits: {"features": logits[:, None, None], "logits": logits},
        lambda logits: Answer(None, logits),
    ],
)
def test_logits_are_found_in_what_the_model_returns(wrap: Callable[[Tensor], Any]) -> None:
    expected = cams(net(), batch(), ["body"], CLASSES)
    assert torch.equal(cams(net(wrap), batch(), ["body"], CLASSES).maps, expected.maps)
    assert auto_layers(net(wrap), batch()) == auto_layers(net(), batch()) == ("stem", "body")


@pytest.mark.parametrize("method", ["gradcam", "scorecam", "ablationcam", "eigencam"])
def test_output_takes_the_logits_out_of_anything_else(method: str) -> None:
    model = net(lambda logits: {"boxes": None, "per class": logits[:, :, None, None].expand(-1, -1, 2, 2)})
    with pytest.raises(ValueError, match=r"the model must return logits .* got a dict; give output, a function"):
        cams(model, batch(), ["body"], 0)
    found = cams(model, batch(), ["body"], 0, method=method, output=lambda out: out["per class"].mean((2, 3)))
    assert torch.equal(found.maps, cams(net(), batch(), ["body"], 0, method=method).maps)


def test_one_logit_is_a_head_of_one_class() -> None:
    model = net(lambda logits: logits[:, 0])
    found = cams(model, batch(), ["body"], 0)
    assert torch.equal(found.maps, cams(net(), batch(), ["body"], 0).maps)
    assert torch.equal(found.maps, cams(model, batch(), ["body"], None).maps)
    with pytest.raises(ValueError, match=r"class 1, but the model has 1 classes.* give lambda logits: -logits"):
        cams(model, batch(), ["body"], 1)


class Nested(nn.Module):
    """Gives its map in a tuple beside something else, as blocks of some transformers do."""

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        return x * 2, (3, 4)


def test_a_layer_may_give_its_map_in_a_tuple() -> None:
    class Outer(Net):
        def __init__(self) -> None:
            super().__init__()
            self.pair = Nested()

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.pair(self.body(self.stem(x)))[0].mean((2, 3)))

    torch.manual_seed(0)
    model = Outer().eval()
    for method in ("gradcam", "ablationcam"):
        found = cams(model, batch(), ["pair", "body"], CLASSES, method=method)
        torch.testing.assert_close(found.maps[0], found.maps[1], atol=1e-5, rtol=0)


def of_rank(rank: int) -> nn.Sequential:
    """A network for signals, images or volumes."""
    torch.manual_seed(0)
    conv, pool = {
        1: (nn.Conv1d, nn.AdaptiveAvgPool1d),
        2: (nn.Conv2d, nn.AdaptiveAvgPool2d),
        3: (nn.Conv3d, nn.AdaptiveAvgPool3d),
    }[rank]
    return nn.Sequential(
        *(conv(2, 4, 3, padding=1), nn.ReLU(), conv(4, 5, 3, stride=2, padding=1), nn.ReLU()),
        *(pool(1), nn.Flatten(), nn.Linear(5, 3)),
    ).eval()


@pytest.mark.parametrize("size", [(13,), (8, 6), (6, 5, 4)])
@pytest.mark.parametrize("method", ALL_METHODS)
def test_signals_and_volumes_have_maps_of_their_shape(size: tuple[int, ...], method: str) -> None:
    model, inputs = of_rank(len(size)), torch.randn(2, 2, *size)
    layers = auto_layers(model, inputs)
    assert layers == ("1", "3")
    found = cams(model, inputs, layers, [0, 2], method=method)
    assert found.maps.shape == (2, 2, *size)
    assert found.grids == (size, tuple((side + 1) // 2 for side in size))
    if method == "gradcam":  # the original CAM
        weights = model[6].weight[torch.tensor([0, 2])]
        raw = torch.einsum("nc,nc...->n...", weights, model[:4](inputs)).relu()
        mode = ("linear", "bilinear", "trilinear")[len(size) - 1]
        large = nn.functional.interpolate(raw[:, None], size, mode=mode)[:, 0].flatten(1)
        expected = large / large.amax(1, keepdim=True).clamp(min=1e-30)
        torch.testing.assert_close(found.maps[1].flatten(1), expected.detach(), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("rank", "shape", "message"),
    [
        (2, (3, 8, 8), r"\(n, channels, h, w\) for this model, got .* \(3, 8, 8\); for one image use image\[None\]"),
        (1, (2, 13), r"got torch.float32 \(2, 13\); for n signals of one channel use images\[:, None\]"),
        (2, (4, 2, 3, 8, 8), r"for this model, got .* use images.flatten\(0, 1\)"),
        (3, (2, 4, 8, 8), r"\(n, channels, d, h, w\) for this model, got .* use image\[None\]"),
        (2, (1, 2, 3, 4, 8, 8), r"images must be a float tensor"),
    ],
)
def test_inputs_of_another_rank_are_refused_with_what_to_do(rank: int, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        capture(of_rank(rank), torch.randn(shape), ["1"], 0)
