"""Kinds of modules and tensors: each is explained as the plain network, or refused with what to do; nothing stays."""

import random
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from cam_core import auto_layers, cams, cams_of_methods, capture
from cam_core.state import undisturbed

pytestmark = pytest.mark.usefixtures("one_thread")


class Net(nn.Module):
    """Two stages and a linear head, with a ReLU that runs twice; `grad_checkpointing` as in timm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4))
        self.body = nn.Conv2d(4, 6, 3, 2, 1)
        self.relu = nn.ReLU()
        self.head = nn.Linear(6, 3)
        self.grad_checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.stem(x))
        x = checkpoint(self.body, x, use_reentrant=True) if self.grad_checkpointing else self.body(x)
        return self.head(self.relu(x).mean((2, 3)))


def net() -> Net:
    torch.manual_seed(0)
    return Net().eval()


def batch() -> Tensor:
    return torch.randn(2, 3, 8, 10, generator=torch.Generator().manual_seed(1))


LAYERS = ["stem", "body"]


def in_parallel(model: Net) -> nn.Module:
    return nn.DataParallel(model)


def checkpointed(model: Net) -> nn.Module:
    model.grad_checkpointing = True
    return model


def parametrised(model: Net) -> nn.Module:
    parametrizations.weight_norm(model.body)
    return model


KINDS: dict[str, Callable[[Net], nn.Module]] = {
    "frozen": lambda model: model.requires_grad_(False),
    "channels last": lambda model: model.to(memory_format=torch.channels_last),
    "data parallel": in_parallel,
    "gradient checkpointing": checkpointed,
    "weight norm": parametrised,
    "in training": lambda model: model.train(),
    "copied": deepcopy,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["gradcam", "ablationcam", "scorecam"])
def test_every_kind_of_module_has_the_maps_of_the_plain_one(kind: str, method: str) -> None:
    expected = cams(net(), batch(), LAYERS, [0, 2], method=method)
    model = KINDS[kind](net())
    found = cams(model, batch(), LAYERS, [0, 2], method=method)
    torch.testing.assert_close(found.maps, expected.maps, atol=1e-5, rtol=0)
    assert auto_layers(model, batch()) == auto_layers(net(), batch())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_weights_give_float32_maps_near_those_of_float32(dtype: torch.dtype) -> None:
    expected = cams(net(), batch(), LAYERS, [0, 2])
    found = cams(net().to(dtype), batch().to(dtype), LAYERS, [0, 2])
    assert found.maps.dtype == found.strength.dtype == torch.float32
    assert (found.maps - expected.maps).abs().mean() < 0.05


def test_tensors_of_inference_mode() -> None:
    expected = cams(net(), batch(), LAYERS, [0, 2])
    with torch.inference_mode():
        model, images = net(), batch()
        found = cams(model, images, LAYERS, torch.tensor([0, 2]))
    assert torch.equal(found.maps, expected.maps)


def exported(model: Net) -> nn.Module:
    module: nn.Module = torch.fx.GraphModule(model, torch.fx.Graph())
    return module


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda model: torch.jit.trace(model, batch()), r"traced or scripted .* give the network from before"),
        (exported, "exported .* has operations but no layers; give the network from before torch.export"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_programs_without_layers_are_refused(make: Callable[[Net], nn.Module], message: str) -> None:
    model = make(net())
    with pytest.raises(ValueError, match=message):
        cams(model, batch(), ["stem"], 0)
    with pytest.raises(ValueError, match=message):
        auto_layers(model, batch())


@pytest.mark.parametrize("method", ["gradcam", "ablationcam"])
def test_a_layer_that_runs_twice_is_asked_for_by_the_number_of_its_call(method: str) -> None:
    model, images = net(), batch()
    with pytest.raises(ValueError, match=r"'relu' runs more than once .* write 'relu#0' for the first of its 2 calls"):
        cams(model, images, ["relu"], 0)
    with pytest.raises(ValueError, match="relu runs 2 times; write a number from 0 to 1 after #"):
        cams(model, images, ["relu#2"], 0)
    found = cams(model, images, ["relu#0", "relu#1", "relu#-1"], 0, method=method)
    model.relu = nn.Identity()  # type: ignore[assignment]
    model.stem.append(nn.ReLU())
    model.body = nn.Sequential(model.body, nn.ReLU())  # type: ignore[assignment]
    expected = cams(model, images, ["stem", "body"], 0, method=method)
    torch.testing.assert_close(found.maps, expected.maps[[0, 1, 1]], atol=1e-6, rtol=0)


def test_shared_weights_under_two_names() -> None:
    model = net()
    model.again = model.body  # type: ignore[assignment]
    assert torch.equal(cams(model, batch(), ["again"], 0).maps, cams(model, batch(), ["body"], 0).maps)


class Restless(nn.Module):
    """Changes everything that a forward pass can change."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.register_buffer("mean", torch.zeros(4))
        self.register_buffer("replaced", torch.zeros(2))
        self.calls = 0
        self.cache: list[Tensor] = []
        self.by_name: dict[str, int] = {"a": 1}
        self.last: Tensor | None = None
        self.plain = torch.zeros(3)
        self.head = nn.Linear(4, 2)
        self.fails: BaseException | None = None

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        assert isinstance(self.mean, Tensor)
        self.mean += x.detach().mean((0, 2, 3))
        self.replaced = torch.ones(2)
        self.calls += 1
        self.cache.append(x)
        self.by_name["b"] = 2
        self.by_name["a"] += 1
        self.last = x
        self.plain += 1
        self.new = 1
        torch.rand(1), np.random.rand(), random.random()
        if self.fails is not None:
            raise self.fails
        return self.head(x.mean((2, 3)))


def state(model: Restless) -> dict[str, Any]:
    return {
        "attributes": {name: id(value) for name, value in vars(model).items() if name != "training"},
        "buffers": {name: (id(value), value.clone()) for name, value in model.named_buffers()},
        "values": (model.calls, list(model.cache), dict(model.by_name), model.plain.clone()),
        "modes": [module.training for module in model.modules()],
        "grads": [parameter.grad for parameter in model.parameters()],
        "requires_grad": [parameter.requires_grad for parameter in model.parameters()],
        "hooks": [len(module._forward_hooks) for module in model.modules()],
        "random": (torch.get_rng_state(), np.random.get_state()[1].tolist()),  # Python's is used by the type checker
        "grad mode": torch.is_grad_enabled(),
        "fast path": torch.backends.mha.get_fastpath_enabled(),
    }


@pytest.mark.parametrize("end", [None, RuntimeError("broken"), KeyboardInterrupt()])
@pytest.mark.parametrize("methods", [["gradcam"], ["eigencam"], ["gradcam", "scorecam", "ablationcam"]])
def test_everything_is_afterwards_as_it_was(end: BaseException | None, methods: list[str]) -> None:
    model, images = Restless().train(), batch()
    model.conv.requires_grad_(False)
    before = state(model)
    model.fails = end
    if end is None:
        cams_of_methods(model, images, ["conv"], 1, methods=methods)
        auto_layers(model, images)
    else:
        with pytest.raises(type(end)):
            cams_of_methods(model, images, ["conv"], 1, methods=methods)
        model.fails = None
    torch.testing.assert_close(state(model), before, atol=0, rtol=0)


def test_the_state_is_set_back_also_where_the_same_object_changed_inside() -> None:
    model = Restless()
    before = random.getstate()
    with undisturbed(model, torch.device("cpu")):
        random.random()
        model.by_name.clear()
        model.cache.append(torch.zeros(1))
        model.plain.fill_(7)
    assert random.getstate() == before
    assert (model.by_name, model.cache, model.plain.tolist()) == ({"a": 1}, [], [0, 0, 0])


def graph_bytes(model: nn.Module, layers: list[str]) -> int:
    """The bytes that autograd keeps for the backward pass."""
    kept = 0

    def pack(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        capture(model, batch(), layers, 0)
    return kept


def test_the_graph_starts_at_the_first_layer_that_is_asked_for() -> None:
    model = nn.Sequential(
        *(nn.Conv2d(3 if index == 0 else 8, 8, 3, padding=1) for index in range(6)),
        *(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)),
    )
    cams(model, batch(), ["0", "5"], 0)  # now the layouts are known
    whole, end = graph_bytes(model, ["0"]), graph_bytes(model, ["5"])
    activations = 2 * 8 * 8 * 10 * 4
    assert end < 3 * activations  # of the ReLU and the pooling
    assert whole > end + 4 * activations


class Attention(nn.Module):
    """A convolution, an attention matrix over its positions, a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 2, stride=2)
        self.softmax = nn.Softmax(-1)
        self.windows = nn.Identity()
        self.place = nn.Conv2d(1, 4, 1)
        self.gate = nn.Linear(4, 4)
        self.head = nn.Linear(16 * 16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x) + self.place(torch.linspace(0, 1, 16).view(1, 1, 4, 4))
        x = x * self.gate(x.mean((2, 3)))[:, :, None, None].sigmoid()
        x = x.flatten(2)
        self.windows(x.view(len(x) * 2, 4, 2, 4))
        return self.head(self.softmax(x.mT @ x).flatten(1))


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("softmax", r"'softmax' gives a tensor \(2, 16, 16\), and nothing shows which axis holds its channels"),
        ("windows", "'windows' gives 4 rows for 2 images, such as windows of an attention; choose the block around"),
        ("gate", r"'gate' gives a tensor \(2, 4\), not a map"),
        ("place", "'place' gives a tensor .* with 1 rows for 2 images, not a map"),
    ],
)
def test_what_is_no_map_is_refused(layer: str, message: str) -> None:
    torch.manual_seed(0)
    model, images = Attention(), torch.rand(2, 3, 8, 8)
    assert auto_layers(model, images) == ("conv",)
    with pytest.raises(ValueError, match=message):
        cams(model, images, [layer], 0)


def test_a_reshape_is_for_one_layer_or_for_all_and_is_checked() -> None:
    torch.manual_seed(0)
    model, images = Attention(), torch.rand(2, 3, 8, 8)
    as_map = {"softmax": lambda x: x[:, None]}
    found = cams(model, images, ["conv", "softmax"], 0, reshape=as_map)
    assert found.grids == ((4, 4), (16, 16))
    for reshape, message in (
        (
            lambda x: x,
            r"gives a tensor \(2, 16, 16\) after reshape, not a map \(n, c, h, w\); correct reshape, which got",
        ),
        (lambda x: x[:1, None], "reshape of layer 'softmax' gives 1 rows for 2 images"),
        (lambda x: x.view(3, 5), r"reshape fails on layer 'softmax', a tensor \(2, 16, 16\): shape"),
        (lambda x: x[:, :0, None], "reshape of layer 'softmax' gives an empty map"),
    ):
        with pytest.raises(ValueError, match=message):
            cams(model, images, ["softmax"], 0, reshape=reshape)
