"""Score-CAM and Ablation-CAM: by hand, one by one, against others, and a model that does not notice."""

import inspect
import operator
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import deepcopy
from math import ceil, exp, tanh

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import VisionTransformer

from cam_core import perturbation
from cam_core.capture import Evidence, capture
from cam_core.inputs import Reshape
from cam_core.perturbation import PERTURBATION_METHODS, Weigh, ablation_weights, effective_channels, score_weights
from cam_core.targets import Contrast, Target, predicted, scores

pytestmark = pytest.mark.usefixtures("one_thread")

LAYERS = ["stem", "bn", "last"]
WIDTH = {"stem": 6, "bn": 5, "last": 7}


class Net(nn.Module):
    """Three layers, of two resolutions, one with both signs; `inplace` overwrites what each has put out."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.conv = nn.Conv2d(6, 5, 3, padding=1, stride=2)
        self.bn = nn.BatchNorm2d(5)
        self.shortcut = nn.Conv2d(6, 5, 1, stride=2)
        self.last = nn.Conv2d(5, 7, 3, padding=1)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(7, 4)
        self.inplace = inplace

    def forward(self, x: Tensor) -> Tensor:
        if self.inplace:
            x -= 0.1
        else:
            x = x - 0.1
        x = F.relu(self.stem(x), self.inplace)
        out = self.bn(self.conv(x))
        if self.inplace:
            out += self.shortcut(x)
        else:
            out = out + self.shortcut(x)
        x = F.relu(self.last(F.relu(out, self.inplace)), self.inplace)
        return self.head(self.dropout(x.mean((2, 3))))


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    """The net with weights that matter: with small ones all methods and conventions look alike."""
    torch.manual_seed(0)
    model = make().eval()
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.weight.data *= 3
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 2)
    return model


def batch(n: int = 3) -> tuple[Tensor, Tensor]:
    images = torch.randn(n, 3, 9, 8, generator=torch.Generator().manual_seed(1))
    return images, torch.arange(n) % 4


def weights_of(
    weigh: Weigh, model: nn.Module, images: Tensor, layers: list[str], target: Target, *, chunk: int = 32
) -> dict[str, Tensor]:
    return weigh(model, images, capture(model, images, layers, target), target, chunk=chunk)


def one_by_one(
    model: nn.Module, layer: str, images: Tensor, classes: Tensor, width: int, ablate: Callable[[Tensor, int], None]
) -> Tensor:
    """Ablation as one would write it down: one image, one channel, one pass."""

    def logit(index: int, channel: int | None) -> Tensor:
        def change(module: nn.Module, args: object, output: Tensor) -> Tensor:
            output = output.clone()
            if channel is not None:
                ablate(output, channel)
            return output

        with model.get_submodule(layer).register_forward_hook(change), torch.no_grad():
            return model(images[index : index + 1].clone())[0, classes[index]]

    rows = [[logit(index, None) - logit(index, k) for k in range(width)] for index in range(len(images))]
    return torch.tensor(rows)


def ablate_channel(output: Tensor, channel: int) -> None:
    output[:, channel] = 0


@contextmanager
def rows_through(module: nn.Module) -> Iterator[list[int]]:
    """The number of rows of every pass through the module."""
    rows: list[int] = []
    with module.register_forward_pre_hook(lambda module, args: rows.append(len(args[0]))):
        yield rows


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-6) -> None:
    assert list(found) == list(expected)
    for layer in expected:
        torch.testing.assert_close(found[layer], expected[layer], atol=tolerance, rtol=0)


# What they are.


def test_before_pooling_and_a_linear_head_a_channel_s_weight_is_that_of_the_head_times_its_mean() -> None:
    model, (images, classes) = seeded(Net), batch()
    found = weights_of(ablation_weights, model, images, ["last"], classes)["last"]
    # The layer before its ReLU: what the channel adds is the mean of its positive part.
    activations = capture(model, images, ["last"], classes).activations["last"]
    assert isinstance(model.head, nn.Linear)
    torch.testing.assert_close(found, model.head.weight[classes] * activations.relu().mean((2, 3)), atol=1e-6, rtol=0)


class Paper(nn.Module):
    """Of an image of one channel x: the layer (x, -x, b), and the logits mean(x) and -mean(x)."""

    def __init__(self, constant: float | None = None) -> None:
        super().__init__()
        signs = [1.0, -1.0] if constant is None else [1.0, -1.0, 0.0]
        self.layer = nn.Conv2d(1, len(signs), 1)
        with torch.no_grad():
            self.layer.weight[:] = torch.tensor(signs)[:, None, None, None]
            self.layer.bias[:] = torch.tensor([0.0, 0.0, *([] if constant is None else [constant])])

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)[:, :2].mean((2, 3))


PAPER = torch.tensor([[1.0, 2.0], [3.0, 4.0]])[None, None]


def test_score_cam_on_paper() -> None:
    # x seen through x: (0, 2/3, 2, 4), of mean 5/3; seen through -x: (1, 4/3, 1, 0), of mean 5/6.
    weights = weights_of(score_weights, Paper(), PAPER, ["layer"], torch.tensor([0]))["layer"]
    torch.testing.assert_close(weights[0, 0] / weights[0, 1], torch.tensor(exp(5 / 6)))
    evidence = capture(Paper(), PAPER, ["layer"], torch.tensor([0]))
    raw = (weights[:, :, None, None] * evidence.activations["layer"]).sum(1)
    torch.testing.assert_close(raw, tanh(5 / 12) * PAPER[0])
    other = weights_of(score_weights, Paper(), PAPER, ["layer"], torch.tensor([1]))["layer"]
    torch.testing.assert_close(other, weights.flip(1))


def test_a_constant_channel_shows_nothing_of_the_image_and_costs_no_pass() -> None:
    model = Paper(constant=0.1)
    evidence = capture(model, PAPER, ["layer"], torch.tensor([0]))
    with rows_through(model) as rows:
        weights = score_weights(model, PAPER, evidence, torch.tensor([0]))["layer"]
    assert rows == [1, 2]  # nothing, and the image through x and -x
    torch.testing.assert_close(weights[0], torch.tensor([5 / 3, 5 / 6, 0]).softmax(0))


def test_a_constant_stays_one_though_the_weights_of_its_resize_round() -> None:
    small = torch.full((1, 1, 3, 3), 0.1)
    images = torch.rand(1, 1, 7, 7)
    rounded = F.interpolate(small, (7, 7), mode="bilinear", align_corners=False)
    assert rounded.unique().numel() > 1  # or this test shows nothing
    assert perturbation.resize(small[0], (7, 7)).unique().tolist() == small.unique().tolist()
    evidence = Evidence({"layer": small.repeat(1, 2, 1, 1)}, {"layer": small}, torch.zeros(1, 2))
    with rows_through(model := Paper()) as rows:
        weights = score_weights(model, images, evidence, torch.tensor([0]))["layer"]
    assert rows == [1]
    assert weights.tolist() == [[0.5, 0.5]]


def test_masks_are_resized_and_then_reach_from_0_to_1() -> None:
    channels = torch.randn(4, 3, 3)
    masks = perturbation._masks(channels, (8, 10))
    assert masks.amin((1, 2)).tolist() == [0] * 4
    assert masks.amax((1, 2)).tolist() == [1] * 4
    large = F.interpolate(channels[None], (8, 10), mode="bilinear", align_corners=False)[0]
    position = torch.corrcoef(torch.stack([masks[2].flatten(), large[2].flatten()]))[0, 1]
    torch.testing.assert_close(position, torch.tensor(1.0))
    assert perturbation._masks(torch.full((1, 2, 2), 3.0), (4, 4)).count_nonzero() == 0


def test_score_weights_are_shares_and_their_spread_is_counted() -> None:
    model, (images, classes) = seeded(Net), batch()
    for layer, weights in weights_of(score_weights, model, images, LAYERS, classes).items():
        assert weights.shape == (3, WIDTH[layer])
        torch.testing.assert_close(weights.sum(1), torch.ones(3))
        assert (weights > 0).all()
    spreads = torch.tensor([[0.25, 0.25, 0.25, 0.25], [0.0, 1.0, 0.0, 0.0], [0.5, 0.0, 0.5, 0.0]])
    assert effective_channels(spreads).tolist() == [4, 1, 2]


@pytest.mark.parametrize("layer", LAYERS)
def test_ablation_is_that_of_each_channel_alone(layer: str) -> None:
    model, (images, classes) = seeded(Net), batch()
    found = weights_of(ablation_weights, model, images, [layer], classes)[layer]
    expected = one_by_one(model, layer, images, classes, WIDTH[layer], ablate_channel)
    assert expected.abs().max() > 0.01
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_a_channel_that_speaks_for_the_class_counts_positive_though_the_score_is_negative() -> None:
    model, (images, classes) = seeded(Net), batch()
    before = weights_of(ablation_weights, model, images, LAYERS, classes)
    assert isinstance(model.head, nn.Linear)
    with torch.no_grad():
        model.head.bias -= 8
    assert (scores(classes, model(images)) < 0).all()
    assert_same(weights_of(ablation_weights, model, images, LAYERS, classes), before, tolerance=1e-5)


def test_a_contrast_is_the_difference_of_its_ablations() -> None:
    model, (images, classes) = seeded(Net), batch()
    found = weights_of(ablation_weights, model, images, LAYERS, Contrast(classes, classes.flip(0)))
    some, others = (weights_of(ablation_weights, model, images, LAYERS, c) for c in (classes, classes.flip(0)))
    assert_same(found, {layer: some[layer] - others[layer] for layer in LAYERS})


@pytest.mark.parametrize("weigh", PERTURBATION_METHODS.values(), ids=PERTURBATION_METHODS)
def test_the_class_predicted_is_that_of_the_whole_image(weigh: Weigh) -> None:
    model, (images, _) = seeded(Net), batch(8)
    model.head.bias = nn.Parameter(torch.zeros(4))  # so that the prediction hangs on what is seen
    found = weights_of(weigh, model, images, LAYERS, predicted)
    assert_same(found, weights_of(weigh, model, images, LAYERS, model(images).argmax(1)), tolerance=0)
    highest = weights_of(weigh, model, images, LAYERS, lambda logits: logits.max(1).values)
    assert any((highest[layer] - found[layer]).abs().max() > 1e-3 for layer in LAYERS)


# How they are computed.


@pytest.mark.parametrize("weigh", PERTURBATION_METHODS.values(), ids=PERTURBATION_METHODS)
def test_a_batch_is_its_images_one_by_one_in_any_order_and_chunking(weigh: Weigh) -> None:
    model, (images, classes) = seeded(Net), batch()
    whole = weights_of(weigh, model, images, LAYERS, classes)
    for index in range(len(images)):
        one = weights_of(weigh, model, images[index : index + 1], LAYERS, classes[index : index + 1])
        assert_same(one, {layer: whole[layer][index : index + 1] for layer in LAYERS})
    order = torch.tensor([2, 0, 1])
    shuffled = weights_of(weigh, model, images[order], LAYERS, classes[order])
    assert_same(shuffled, {layer: whole[layer][order] for layer in LAYERS})
    for chunk in (1, 2, 5, 1000):
        assert_same(weights_of(weigh, model, images, LAYERS, classes, chunk=chunk), whole)
    for layer in LAYERS[::-1]:
        assert_same(weights_of(weigh, model, images, [layer], classes), {layer: whole[layer]})


@pytest.mark.parametrize("chunk", [2, 5, 32])
def test_score_cam_takes_one_row_per_image_and_channel_and_one_more(chunk: int) -> None:
    model, (images, classes) = seeded(Net), batch()
    evidence = capture(model, images, LAYERS, classes)
    with rows_through(model) as rows:
        score_weights(model, images, evidence, classes, chunk=chunk)
    pairs = [len(images) * WIDTH[layer] for layer in LAYERS]
    assert len(rows) == 1 + sum(ceil(count / chunk) for count in pairs)
    assert sum(rows) == 1 + sum(pairs)
    assert max(rows) == min(chunk, max(pairs))


@pytest.mark.parametrize("chunk", [2, 5, 32])
def test_ablation_cam_computes_one_row_up_to_the_layer_and_copies_after_it(chunk: int) -> None:
    model, (images, classes) = seeded(Net), batch()
    evidence = capture(model, images, ["bn"], classes)
    with rows_through(model) as whole, rows_through(model.last) as after:
        ablation_weights(model, images, evidence, classes, chunk=chunk)
    # To see the layer's output; to try both ways; then one pass per image and chunk of channels.
    assert whole == [1, 3, 1] + [1] * len(images) * ceil(5 / chunk)
    sizes = [1 + len(some) for some in torch.arange(5).split(chunk)]
    assert after == [1, 3, 3] + [size for size in sizes for _ in images]


def test_changes_in_place_change_nothing() -> None:
    plain, inplace = seeded(Net), seeded(lambda: Net(inplace=True))
    images, classes = batch()
    before = images.clone()
    for weigh in PERTURBATION_METHODS.values():
        expected = weights_of(weigh, plain, images, LAYERS, classes)
        assert_same(weights_of(weigh, inplace, images, LAYERS, classes), expected)
    assert torch.equal(images, before)


class Mixed(nn.Module):
    """What `layer` puts out later meets something else that has a row per image."""

    def __init__(self, mix: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3, padding=1)
        self.beside = nn.Conv2d(3, 4, 3, padding=1)
        self.head = nn.LazyLinear(4)
        self.mix = mix
        self(torch.zeros(1, 3, 9, 8))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.mix(F.relu(self.layer(x)), self.beside(x)))


def concatenated(x: Tensor, beside: Tensor) -> Tensor:
    return torch.cat([beside, x], 1).square().mean((2, 3))


def summed_in_place(x: Tensor, beside: Tensor) -> Tensor:
    beside += x
    return beside.square().mean((2, 3))


def viewed(x: Tensor, beside: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3).view(beside.shape[0], -1)


def with_a_token(x: Tensor, beside: Tensor) -> Tensor:
    token = torch.ones(1, 1, 4).expand(beside.shape[0], -1, -1)
    return torch.cat([token, x.flatten(2).mT], 1).square().mean(1)


def averaged(x: Tensor, beside: Tensor) -> Tensor:
    return x.reshape(beside.shape[0], -1, 4, 9, 8).square().mean((1, 3, 4))


def cut(x: Tensor, beside: Tensor) -> Tensor:
    return x[: 2 * beside.shape[0]].square().mean((2, 3))


def attended(x: Tensor, beside: Tensor) -> Tensor:
    """Attention over all positions of an image: with the copies of one image it would be over those of all copies."""
    tokens = x.flatten(2).mT.reshape(beside.shape[0], -1, 4)
    seen = (tokens @ tokens.mT).softmax(2) @ tokens
    return seen.reshape(-1, 72, 4).mean(1)


def added(x: Tensor, beside: Tensor) -> Tensor:
    return (x * beside + beside).square().mean((2, 3))


TOGETHER = [concatenated, summed_in_place, viewed, with_a_token, averaged, cut, attended]


@pytest.mark.parametrize(("mix", "rows"), [*((mix, 5) for mix in TOGETHER), (added, 1)])
def test_where_copies_meet_one_row_all_is_computed_of_copies(
    mix: Callable[[Tensor, Tensor], Tensor], rows: int
) -> None:
    model, (images, classes) = seeded(lambda: Mixed(mix)), batch()
    with rows_through(model) as through:
        found = weights_of(ablation_weights, model, images, ["layer"], classes)["layer"]
    expected = one_by_one(model, "layer", images, classes, 4, ablate_channel)
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert through[-len(images) :] == [rows] * len(images)


def vit() -> nn.Module:
    model = VisionTransformer(16, 4, 2, 2, 8, 16, num_classes=4)
    nn.init.normal_(model.heads.head.weight)
    return model


def maps_of_tokens(tokens: Tensor) -> Tensor:
    return tokens[:, 1:].transpose(1, 2).reshape(len(tokens), tokens.shape[2], 4, 4)


@pytest.mark.parametrize(
    ("layer", "effect"), [("encoder.layers.encoder_layer_0", True), ("encoder.layers.encoder_layer_1", False)]
)
def test_a_channel_of_tokens_is_put_to_0_in_the_map_alone(layer: str, effect: bool) -> None:
    model, images, classes = seeded(vit), torch.randn(2, 3, 16, 16), torch.tensor([1, 3])
    evidence = capture(model, images, [layer], classes, reshape=maps_of_tokens)
    with rows_through(model) as rows:
        found = ablation_weights(model, images, evidence, classes)[layer]
    assert rows == [1, 3, 1, 1, 1]

    def ablate(output: Tensor, channel: int) -> None:
        output[:, 1:, channel] = 0

    expected = one_by_one(model, layer, images, classes, 8, ablate)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    # After the last block the logits see the class token alone: nothing, and not what rounding leaves of it.
    assert bool(found.any()) == effect


def test_tokens_are_maps_to_score_cam_too() -> None:
    model, images, classes = seeded(vit), torch.randn(2, 3, 16, 16), torch.tensor([1, 3])
    layer = "encoder.layers.encoder_layer_0"
    evidence = capture(model, images, [layer], classes, reshape=maps_of_tokens)
    found = score_weights(model, images, evidence, classes)[layer]
    large = F.interpolate(evidence.activations[layer], (16, 16), mode="bilinear", align_corners=False)[0]
    low, high = large.amin((1, 2), keepdim=True), large.amax((1, 2), keepdim=True)
    expected = model(images[:1] * ((large - low) / (high - low))[:, None])[:, 1].softmax(0)
    torch.testing.assert_close(found[0], expected, atol=1e-5, rtol=0)


# The model does not notice.


def state(model: nn.Module) -> dict[str, object]:
    """Everything of a model and of the process that explaining must leave alone."""
    return {
        "values": {name: value.clone() for name, value in model.state_dict().items()},
        "grads": {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()},
        "objects": {name: id(p) for name, p in model.named_parameters()},
        "requires_grad": {name: p.requires_grad for name, p in model.named_parameters()},
        "modes": {name: m.training for name, m in model.named_modules()},
        "modules": {name: id(m) for name, m in model.named_modules()},
        "hooks": {name: len(m._forward_hooks) + len(m._forward_pre_hooks) for name, m in model.named_modules()},
        "torch": torch.get_rng_state(),
        "numpy": np.random.get_state()[1].tolist(),
        "grad_mode": torch.is_grad_enabled(),
    }


def odd_state(model: nn.Module) -> None:
    """Modes, gradients and frozen parts mixed."""
    assert isinstance(model, Net)
    model.train()
    model.bn.eval()
    model.stem.requires_grad_(False)
    model.head.weight.grad = torch.full_like(model.head.weight, 3)


def assert_equal_state(before: dict[str, object], after: dict[str, object]) -> None:
    torch.testing.assert_close(after, before, rtol=0, atol=0)


@pytest.mark.parametrize("weigh", PERTURBATION_METHODS.values(), ids=PERTURBATION_METHODS)
def test_the_model_is_afterwards_as_it_was_and_nothing_is_printed(
    weigh: Weigh, capfd: pytest.CaptureFixture[str]
) -> None:
    model, (images, classes) = seeded(Net), batch()
    expected = weights_of(weigh, model, images, LAYERS, classes)
    odd_state(model)
    before = state(model)
    assert_same(weights_of(weigh, model, images, LAYERS, classes), expected, tolerance=0)
    assert_equal_state(before, state(model))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("passes", range(5))
@pytest.mark.parametrize("weigh", PERTURBATION_METHODS.values(), ids=PERTURBATION_METHODS)
def test_the_model_is_as_it_was_after_an_exception_in_any_pass(weigh: Weigh, passes: int) -> None:
    model, (images, classes) = seeded(Net), batch()
    evidence = capture(model, images, LAYERS, classes)
    odd_state(model)
    left = [passes]

    def fail(*_: object) -> None:
        torch.rand(3)
        left[0] -= 1
        if left[0] < 0:
            raise RuntimeError("broken on purpose")

    handle = model.last.register_forward_hook(fail)
    before = state(model)
    with pytest.raises(RuntimeError, match="broken on purpose"):
        weigh(model, images, evidence, classes, chunk=4)
    assert_equal_state(before, state(model))
    handle.remove()


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, nullcontext])
@pytest.mark.parametrize("weigh", PERTURBATION_METHODS.values(), ids=PERTURBATION_METHODS)
def test_frozen_and_inside_no_grad_or_inference_mode(
    weigh: Weigh, context: Callable[[], AbstractContextManager[object]]
) -> None:
    model, (images, classes) = seeded(lambda: Net(inplace=True)), batch()
    expected = weights_of(weigh, model, images, LAYERS, classes)
    model.requires_grad_(False)
    with context():
        found = weights_of(weigh, model, images * 1, LAYERS, classes * 1)
    assert_same(found, expected, tolerance=0)
    assert not any(weights.requires_grad for weights in found.values())


@pytest.mark.parametrize("weigh", PERTURBATION_METHODS.values(), ids=PERTURBATION_METHODS)
def test_under_autocast_in_bfloat16_in_double_and_channels_last(weigh: Weigh) -> None:
    model, (images, classes) = seeded(Net), batch()
    expected = weights_of(weigh, model, images, LAYERS, classes)
    with torch.autocast("cpu", torch.bfloat16):
        rough = weights_of(weigh, model, images, LAYERS, classes)
    rougher = weights_of(weigh, deepcopy(model).bfloat16(), images.bfloat16(), LAYERS, classes)
    for some in (rough, rougher):
        assert all(weights.dtype == torch.float32 for weights in some.values())
        assert_same(some, expected, tolerance=0.05)
    assert_same(weights_of(weigh, model.double(), images.double(), LAYERS, classes), expected)
    model.float().to(memory_format=torch.channels_last)
    assert_same(
        weights_of(weigh, model, images.contiguous(memory_format=torch.channels_last), LAYERS, classes), expected
    )


def test_a_compiled_model_that_has_already_run() -> None:
    model, (images, classes) = seeded(Net), batch()
    expected = {name: weights_of(weigh, model, images, LAYERS, classes) for name, weigh in PERTURBATION_METHODS.items()}
    compiled = torch.compile(model, backend="eager")
    with torch.no_grad():
        compiled(images)
    for name, weigh in PERTURBATION_METHODS.items():
        assert_same(weights_of(weigh, compiled, images, LAYERS, classes), expected[name])
    torch._dynamo.reset()


@pytest.mark.parametrize("weigh", [inspect.unwrap(weigh) for weigh in PERTURBATION_METHODS.values()])
def test_bad_arguments_are_named(weigh: Weigh) -> None:
    model, (images, classes) = seeded(Net), batch()
    with pytest.raises(ValueError, match="chunk must be at least 1 row, got 0"):
        weights_of(weigh, model, images, LAYERS, classes, chunk=0)
    with pytest.raises(ValueError, match=r"target must turn logits \(3, 4\) into .* got shape \(2,\)"):
        weights_of(weigh, model, images, LAYERS, lambda logits: logits[range(2), classes[:2]])


@pytest.mark.parametrize("reshape", [lambda x: x + 1, lambda x: F.avg_pool2d(x, 2), lambda x: x.flip(1) * 1e6])
def test_a_reshape_that_computes_is_refused(reshape: Reshape) -> None:
    model, (images, classes) = seeded(Net), batch()
    evidence = capture(model, images, ["bn"], classes, reshape=reshape)
    with pytest.raises(ValueError, match="reshape must only rearrange and select values"):
        ablation_weights(model, images, evidence, classes)


# Against others.


def weights_of_grad_cam(name: str, model: nn.Module, images: Tensor, layer: str, classes: Tensor) -> Tensor:
    """What grad-cam's class of this name weighs the channels by."""
    grad_cam = pytest.importorskip("pytorch_grad_cam")
    evidence = capture(model, images, [layer], classes)
    module = model.get_submodule(layer)
    targets = [operator.itemgetter(int(index)) for index in classes]
    with getattr(grad_cam, name)(model, [module]) as theirs:
        found = theirs.get_cam_weights(images, module, targets, evidence.activations[layer].numpy(), None)
    return torch.as_tensor(found)


class Rectified(Net):
    """The same with the ReLU as layers, so that maps have the minimum 0 that grad-cam's AblationCAM asks for."""

    def __init__(self) -> None:
        super().__init__()
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu1(self.stem(x))
        x = self.relu2(self.bn(self.conv(x)) + self.shortcut(x))
        return self.head(F.relu(self.last(x)).mean((2, 3)))


@pytest.mark.parametrize("layer", LAYERS)
def test_score_cam_is_grad_cam_s_with_aligned_corners(layer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, (images, classes) = seeded(Net), batch()
    theirs = weights_of_grad_cam("ScoreCAM", model, images, layer, classes)
    ours = weights_of(score_weights, model, images, [layer], classes)[layer]
    assert layer == "stem" or (ours - theirs).abs().max() > 1e-4

    def aligned(maps: Tensor, size: tuple[int, int]) -> Tensor:
        return F.interpolate(maps[:, None], size, mode="bilinear", align_corners=True)[:, 0]

    monkeypatch.setattr(perturbation, "resize", aligned)
    ours = weights_of(score_weights, model, images, [layer], classes)[layer]
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("layer", LAYERS)
def test_score_cam_is_torchcam_s_with_masks_scaled_before_the_resize(
    layer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, (images, classes) = seeded(Net), batch()
    with pytest.importorskip("torchcam.methods").ScoreCAM(model, layer) as extractor:
        logits = model(images)
        (theirs,) = extractor(classes.tolist(), logits, normalized=False)

    def scaled_before(channels: Tensor, size: tuple[int, int]) -> Tensor:
        low, high = channels.amin((1, 2), keepdim=True), channels.amax((1, 2), keepdim=True)
        return perturbation.resize((channels - low) / (high - low), size)

    monkeypatch.setattr(perturbation, "_masks", scaled_before)
    evidence = capture(model, images, [layer], classes)
    weights = score_weights(model, images, evidence, classes)[layer]
    ours = (weights[:, :, None, None] * evidence.activations[layer]).sum(1).relu()
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("layer", ["relu1", "relu2"])
def test_ablation_cam_is_grad_cam_s_times_the_score(layer: str) -> None:
    model, (images, _) = seeded(Rectified), batch()
    with torch.no_grad():
        logits = model(images)
    for classes in (logits.argmax(1), logits.argmin(1)):
        theirs = weights_of_grad_cam("AblationCAM", model, images, layer, classes)
        score = scores(classes, logits)[:, None]
        ours = weights_of(ablation_weights, model, images, [layer], classes)[layer]
        torch.testing.assert_close(ours, theirs * score, atol=1e-5, rtol=0)
    assert (score < 0).all()  # where theirs have the wrong sign
