"""One forward, one backward, and a model that does not notice: `cam_core.capture` and `cam_core.engine`."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cam_core import METHODS, Cams, cams, cams_of_methods, capture, iter_cams

pytestmark = pytest.mark.usefixtures("one_thread")

LAYERS = ["stem", "block1", "block2"]


class Block(nn.Module):
    """A residual block; `inplace` changes its sum and its input's alias in place, as common implementations do."""

    def __init__(self, width: int, inplace: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.inplace = inplace

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv2(F.relu(self.bn1(self.conv1(x)), inplace=self.inplace))
        if self.inplace:
            out += x
            return F.relu(out, inplace=True)
        return F.relu(out + x)


class Net(nn.Module):
    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8))
        self.block1 = Block(8, inplace)
        self.pool = nn.MaxPool2d(2)
        self.block2 = Block(8, inplace)
        self.dropout = nn.Dropout(0.5)
        self.fc = nn.Linear(8, 5)
        self.inplace = inplace
        self.unused = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.inplace:
            x -= 0.1
        else:
            x = x - 0.1
        x = self.block1(F.relu(self.stem(x), inplace=self.inplace))
        x = self.block2(self.pool(x))
        return self.fc(self.dropout(x.mean((2, 3))))


def net(inplace: bool = False) -> Net:
    torch.manual_seed(0)
    model = Net(inplace).eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.uniform_(-0.2, 0.2)
                module.running_var.uniform_(0.5, 2)
    return model


def batch(n: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, 3, 12, 10, generator=generator), torch.arange(n) % 5


def assert_same(ours: Cams, theirs: Cams, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(ours.maps, theirs.maps, atol=tolerance, rtol=0)
    torch.testing.assert_close(ours.logits, theirs.logits, atol=tolerance, rtol=0)


def test_maps_come_with_the_resolution_of_their_layers() -> None:
    model, (images, classes) = net(), batch()
    evidence = capture(model, images, LAYERS, classes)
    found = cams(model, images, LAYERS, classes, chunk=4)
    assert found.grids == tuple(tuple(evidence.activations[layer].shape[2:]) for layer in found.layers)


def test_evidence_is_the_gradient_of_each_image_s_own_logit() -> None:
    model, (images, classes) = net(), batch()
    evidence = capture(model, images, LAYERS, classes)
    assert list(evidence.activations) == list(evidence.gradients) == LAYERS
    torch.testing.assert_close(evidence.logits, model(images).detach())
    stem = model.stem(images - 0.1)
    torch.testing.assert_close(evidence.activations["stem"], stem.detach())

    def chosen(at_stem: Tensor, index: int) -> Tensor:
        x = model.block1(F.relu(at_stem))
        return model.fc(model.block2(model.pool(x)).mean((2, 3)))[0, classes[index]]

    for index in range(len(images)):
        one = stem[index : index + 1].detach().requires_grad_()
        (expected,) = torch.autograd.grad(chosen(one, index), one)
        torch.testing.assert_close(evidence.gradients["stem"][index], expected[0], atol=1e-6, rtol=1e-4)


def test_shapes_ranges_and_names() -> None:
    images, classes = batch()
    result = cams_of_methods(net(), images, LAYERS, classes, methods=list(METHODS))
    assert list(result) == list(METHODS)
    for method, some in result.items():
        assert (some.method, some.layers) == (method, tuple(LAYERS))
        assert some.maps.shape == (3, 6, 12, 10)
        assert some.strength.shape == (3, 6)
        assert some.maps.min() >= 0
        live = some.strength > 0
        assert torch.equal(some.maps.amax((2, 3)), live.float())
        assert not some.maps.requires_grad


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_is_its_images_one_by_one_in_any_order_and_chunking(method: str) -> None:
    model, (images, classes) = net(), batch()
    whole = cams(model, images, LAYERS, classes, method=method)
    for index in range(len(images)):
        one = cams(model, images[index : index + 1], LAYERS, classes[index : index + 1], method=method)
        torch.testing.assert_close(one.maps[:, 0], whole.maps[:, index], atol=1e-5, rtol=0)
        torch.testing.assert_close(one.strength[:, 0], whole.strength[:, index], atol=1e-6, rtol=1e-4)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    shuffled = cams(model, images[order], LAYERS, classes[order], method=method)
    torch.testing.assert_close(shuffled.maps, whole.maps[:, order], atol=1e-5, rtol=0)
    assert_same(cams(model, images, LAYERS, classes, method=method, chunk=4), whole)


def test_several_layers_and_methods_are_each_alone_in_the_order_asked() -> None:
    model, (images, classes) = net(), batch()
    together = cams_of_methods(model, images, LAYERS[::-1], classes, methods=list(METHODS))
    for method in METHODS:
        for position, layer in enumerate(LAYERS[::-1]):
            alone = cams(model, images, [layer], classes, method=method)
            torch.testing.assert_close(alone.maps[0], together[method].maps[position], atol=1e-6, rtol=0)


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1e3, 1e6])
@pytest.mark.parametrize("method", sorted(set(METHODS) - {"gradcam++", "eigencam"}))
def test_the_scale_of_the_logits_changes_no_map(method: str, scale: float) -> None:
    model, (images, classes) = net(), batch()
    before = cams(model, images, LAYERS, classes, method=method)
    with torch.no_grad():
        model.fc.weight *= scale
    after = cams(model, images, LAYERS, classes, method=method)
    torch.testing.assert_close(after.maps, before.maps, atol=1e-5, rtol=0)
    torch.testing.assert_close(after.strength, before.strength * scale, atol=0, rtol=1e-3)


def test_changes_in_place_after_a_layer_change_nothing() -> None:
    images, classes = batch()
    layers = [*LAYERS, "block1.bn1", "block1.conv2", "block2.conv2"]
    plain, inplace = net(), net(inplace=True)
    inplace.load_state_dict(plain.state_dict())
    before = images.clone()
    ours, theirs = capture(inplace, images, layers, classes), capture(plain, images, layers, classes)
    assert torch.equal(images, before)
    for layer in layers:
        assert torch.equal(ours.activations[layer], theirs.activations[layer]), layer
        torch.testing.assert_close(ours.gradients[layer], theirs.gradients[layer], atol=1e-7, rtol=1e-5)
    assert theirs.activations["block1.bn1"].min() < 0  # what an alias would have lost


@pytest.mark.parametrize(("layers", "forwards"), [(["block1", "block2"], 1), (["block1.bn1", "block2"], 2)])
def test_one_forward_and_one_backward_and_a_second_forward_only_after_changes_in_place(
    layers: list[str], forwards: int
) -> None:
    model, (images, classes) = net(inplace=True), batch()
    calls: list[str] = []
    model.fc.register_forward_hook(lambda *_: calls.append("forward"))
    model.fc.register_full_backward_hook(lambda *_: calls.append("backward"))
    cams_of_methods(model, images, layers, classes, methods=list(METHODS))
    assert calls == ["forward"] * forwards + ["backward"]


def test_a_method_without_gradients_takes_no_backward_and_gives_what_it_gives_beside_others() -> None:
    model, (images, classes) = net(inplace=True), batch()
    together = cams_of_methods(model, images, LAYERS, classes, methods=["eigencam", "gradcam"])["eigencam"]
    calls: list[str] = []
    model.fc.register_forward_hook(lambda *_: calls.append("forward"))
    model.fc.register_full_backward_hook(lambda *_: calls.append("backward"))
    alone = cams(model, images, ["block1", "block2"], classes, method="eigencam")
    assert calls == ["forward"]
    torch.testing.assert_close(alone.maps, together.maps[1:], atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="target contains class 5"):
        cams(model, images, LAYERS, classes + 1, method="eigencam")


def state(model: nn.Module) -> dict[str, object]:
    """Everything of a model and of the process that explaining must leave alone."""
    return {
        "values": {name: value.clone() for name, value in model.state_dict().items()},
        "grads": {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()},
        "objects": {name: id(p) for name, p in model.named_parameters()},
        "requires_grad": {name: p.requires_grad for name, p in model.named_parameters()},
        "modes": {name: m.training for name, m in model.named_modules()},
        "modules": {name: id(m) for name, m in model.named_modules()},
        "hooks": {name: len(m._forward_hooks) + len(m._backward_hooks) for name, m in model.named_modules()},
        "torch": torch.get_rng_state(),
        "numpy": np.random.get_state()[1].tolist(),
        "grad_mode": torch.is_grad_enabled(),
    }


def odd_state(model: Net) -> None:
    """Modes, gradients and frozen parts mixed."""
    model.train()
    model.block1.bn1.eval()
    model.stem.requires_grad_(False)
    model.fc.weight.grad = torch.full_like(model.fc.weight, 3)


def assert_equal_state(before: dict[str, object], after: dict[str, object]) -> None:
    torch.testing.assert_close(after, before, rtol=0, atol=0)


def test_the_model_is_afterwards_as_it_was() -> None:
    model, (images, classes) = net(), batch()
    expected = cams(model, images, LAYERS, classes)
    odd_state(model)
    before = state(model)
    assert_same(cams(model, images, LAYERS, classes), expected, tolerance=0)
    assert_equal_state(before, state(model))


def test_the_model_is_as_it_was_after_an_exception_in_its_forward() -> None:
    model, (images, classes) = net(), batch()
    odd_state(model)

    def fail(*_: object) -> None:
        torch.rand(3)
        raise RuntimeError("broken on purpose")

    handle = model.block2.register_forward_hook(fail)
    before = state(model)
    with pytest.raises(RuntimeError, match="broken on purpose"):
        cams(model, images, LAYERS, classes)
    assert_equal_state(before, state(model))
    handle.remove()


def test_random_numbers_drawn_by_the_model_are_given_back() -> None:
    model, (images, classes) = net(), batch()
    model.dropout.forward = lambda x: x + 0 * torch.rand(1)  # type: ignore[method-assign]
    before = torch.get_rng_state()
    cams(model, images, LAYERS, classes)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, nullcontext])
def test_frozen_and_inside_no_grad_or_inference_mode(context: Callable[[], AbstractContextManager[object]]) -> None:
    model, (images, classes) = net(), batch()
    expected = cams(model, images, LAYERS, classes)
    model.requires_grad_(False)
    with context():
        assert_same(cams(model, images * 1, LAYERS, classes * 1), expected, tolerance=0)


def test_under_autocast_maps_are_float32_and_close() -> None:
    model, (images, classes) = net(), batch()
    expected = cams_of_methods(model, images, LAYERS, classes, methods=list(METHODS))
    with torch.autocast("cpu", torch.bfloat16):
        with torch.inference_mode():
            model(images)  # may leave weights in autocast's cache
        found = cams_of_methods(model, images, LAYERS, classes, methods=list(METHODS))
    for method in ("gradcam", "hirescam"):
        assert found[method].maps.dtype == found[method].logits.dtype == torch.float32
        assert (found[method].maps - expected[method].maps).abs().mean() < 0.02
    assert not torch.equal(found["gradcam"].logits, expected["gradcam"].logits)


def test_channels_last_and_double() -> None:
    model, (images, classes) = net(), batch()
    expected = cams(model, images, LAYERS, classes)
    assert_same(cams(model.double(), images.double(), LAYERS, classes), expected)
    model.float().to(memory_format=torch.channels_last)
    assert_same(cams(model, images.contiguous(memory_format=torch.channels_last), LAYERS, classes), expected)


@pytest.fixture
def dynamo() -> Iterator[None]:
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("way", ["wrapped", "in place", "a part"])
def test_compiled_models_that_have_already_run(way: str, dynamo: None) -> None:
    model, (images, classes) = net(), batch()
    expected = cams(model, images, LAYERS, classes)
    compiled: nn.Module = model
    if way == "wrapped":
        compiled = torch.compile(model, backend="eager")  # type: ignore[assignment]
    elif way == "in place":
        model.compile(backend="eager")
    else:
        model.block1 = torch.compile(model.block1, backend="eager")  # type: ignore[assignment]
    with torch.no_grad():
        compiled(images)
    assert_same(cams(compiled, images, LAYERS, classes), expected, tolerance=1e-6)
    assert_same(cams(compiled, images, ["block1.conv2"], classes), cams(net(), images, ["block1.conv2"], classes))


def test_a_dead_map_is_zero_and_its_strength_is_zero() -> None:
    model, (images, classes) = net(), batch()
    with torch.no_grad():
        model.fc.weight[2] = 0
    for method in METHODS.keys() - {"eigencam"}:  # which knows no class
        result = cams(model, images, LAYERS, classes, method=method)
        assert result.maps[:, classes == 2].count_nonzero() == 0
        assert result.strength[:, classes == 2].count_nonzero() == 0
        assert result.maps[:, classes != 2].isfinite().all()


def test_weak_evidence_is_drawn_as_strong_evidence_is() -> None:
    model, (images, classes) = net(), batch()
    expected = cams(model, images, ["block2"], classes)
    with torch.no_grad():
        model.fc.weight *= 1e-30
    torch.testing.assert_close(cams(model, images, ["block2"], classes).maps, expected.maps, atol=1e-5, rtol=0)


# Outside the tests nothing checks shapes before our own checks do, so here they are called without the type checker.
def bare_cams(*args: object) -> object:
    return list(inspect.unwrap(iter_cams)(*args))


@pytest.mark.parametrize("call", [inspect.unwrap(capture), bare_cams])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda x, c: (x[0], ["stem"], c),
            r"images must be a float tensor.*\(3, 12, 10\); for one image use image\[None",
        ),
        (lambda x, c: (x.byte(), ["stem"], c), r"images must be a float tensor .* got torch.uint8"),
        (lambda x, c: (x[:0], ["stem"], c[:0]), "images is an empty batch"),
        (
            lambda x, c: (x, ["stem"], c[:4]),
            r"target must be 6 whole numbers, one class per image, got torch.int64 \(4,\)",
        ),
        (
            lambda x, c: (x, ["stem"], c.float()),
            "target must be 6 whole numbers, one class per image, got torch.float32",
        ),
        (lambda x, c: (x, ["stem"], c + 1), "target contains class 5, but the model has 5 classes: 0 to 4"),
        (lambda x, c: (x, ["stem"], c - 1), "target contains class -1, but the model has 5 classes: 0 to 4"),
        (lambda x, c: (x, "stem", c), r"layers must be a list of names, got the text 'stem'; write \['stem'\]"),
        (lambda x, c: (x, [], c), "layers must name at least one layer"),
        (lambda x, c: (x, ["stem", "stem"], c), "layers must name at least one layer and none twice"),
        (
            lambda x, c: (x, ["blok1"], c),
            r"layer 'blok1' is not in the model \(did you mean 'block1'\?\); it has stem, block1, pool",
        ),
        (lambda x, c: (x, ["zzz"], c), "layer 'zzz' is not in the model; it has stem"),
        (lambda x, c: (x, ["unused"], c), "layer 'unused' does not run in the forward pass"),
        (lambda x, c: (x, ["fc"], c), r"layer 'fc' gives a tensor \(6, 5\), not a map .*or give reshape"),
        (
            lambda x, c: (x * torch.nan, ["stem"], c),
            "the activations of layer 'stem' contain NaN or infinity for 6 of 6",
        ),
    ],
)
def test_bad_input_is_named_in_one_line(
    call: Callable[..., object], change: Callable[[Tensor, Tensor], tuple[Tensor, list[str], Tensor]], message: str
) -> None:
    images, layers, classes = change(*batch())
    with pytest.raises(ValueError, match=message) as error:
        call(net(), images, layers, classes)
    assert "\n" not in str(error.value)


def test_a_length_that_only_a_later_chunk_would_show_is_found_first() -> None:
    images, classes = batch()
    with pytest.raises(ValueError, match="target must be 6 whole numbers"):
        inspect.unwrap(iter_cams)(net(), images, LAYERS, classes[:5], chunk=2)


def test_unknown_methods_and_chunks() -> None:
    images, classes = batch()
    with pytest.raises(
        ValueError, match=r"method 'gradkam' is unknown \(did you mean 'gradcam'\?\); use one of gradcam,"
    ):
        cams(net(), images, LAYERS, classes, method="gradkam")
    with pytest.raises(ValueError, match="methods is empty"):
        cams_of_methods(net(), images, LAYERS, classes, methods=[])
    with pytest.raises(ValueError, match="chunk must be at least 1 image, got 0"):
        cams(net(), images, LAYERS, classes, chunk=0)


class Odd(nn.Module):
    """Runs one layer twice, one only for show, and one that gives a pair."""

    def __init__(self) -> None:
        super().__init__()
        self.twice = nn.Conv2d(3, 3, 1)
        self.aside = nn.Conv2d(3, 3, 1)
        self.pair = Pair()

    def forward(self, x: Tensor) -> Tensor:
        self.aside(x)
        first, _ = self.pair(self.twice(self.twice(x)))
        return first.mean((2, 3))


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("twice", "layer 'twice' runs more than once in one forward pass"),
        ("aside", "the target does not depend on layer 'aside'"),
    ],
)
def test_layers_that_cannot_be_explained(layer: str, message: str) -> None:
    model = Odd()
    with pytest.raises(ValueError, match=message):
        cams(model, torch.randn(2, 3, 4, 4), [layer], torch.tensor([0, 1]))
    assert not any(module._forward_hooks for module in model.modules())


def test_a_model_without_logits() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1))
    with pytest.raises(ValueError, match=r"the model must return logits \(2, classes\), got a tensor \(2, 4, 5, 5\)"):
        cams(model, torch.randn(2, 3, 5, 5), ["0"], torch.tensor([0, 1]))


def test_infinite_gradients_are_named() -> None:
    model, (images, classes) = net(), batch()
    with torch.no_grad():
        model.fc.weight.fill_(torch.inf)
    with pytest.raises(ValueError, match="the gradients of layer 'block2' contain NaN or infinity for 6 of 6 images"):
        cams(model, images, ["block2"], classes)
