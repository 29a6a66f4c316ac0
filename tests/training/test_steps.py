"""Options of the steps do what the same options of PyTorch do in a loop written out here, and go on bit for bit."""

import copy
import inspect
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.augmentation.whole_batches import Augmentation
from experiments.data.tensors import to_tensor
from experiments.settings.base import SettingsError
from experiments.settings.notation import arguments
from experiments.settings.parts import OPTIMISERS, WITH
from experiments.settings.train import TrainSettings
from experiments.training.frozen import classifier, freeze
from experiments.training.loop import EpochResult, build_model, fit
from experiments.training.machine import resolve_machine
from experiments.training.optimisers import _kind, check_arguments
from experiments.training.steps import class_weights
from tests.toys.networks import CLASSES, toy_dataset

pytestmark = pytest.mark.usefixtures("one_thread")

TOY = toy_dataset(48)
STILL = {"hflip": 0, "crop_padding": 0, "sides": "none", "test_flip": False, "label_smoothing": 0.1}
QUICK = {
    "epochs": 2,
    "batch_size": 16,
    "lr": 0.01,
    "device": "cpu",
    "threads": 1,
    "precision": "fp32",
    "channels_last": "false",
} | STILL


def settings_of(**options: object) -> TrainSettings:
    plain = {"optimizer": "sgd", "schedule": "constant", "momentum": 0.9, "nesterov": False, "weight_decay": 0.01}
    return TrainSettings.of(**QUICK | plain | {"image_size": 16} | options)


class Plain(nn.Module):
    """A network without batch normalisation, so that parts of a batch are what they are in the whole one."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, stride=2)
        self.middle = nn.Conv2d(6, 8, 3, stride=2)
        self.linear = nn.Linear(8, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(self.middle(self.stem(images).tanh()).tanh().mean((2, 3)))


class Normed(Plain):
    """The same with batch normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.middle = nn.Conv2d(6, 8, 3, stride=2, bias=False)  # a bias would only gather rounding errors
        self.norm = nn.BatchNorm2d(8)

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(self.norm(self.middle(self.stem(images).tanh())).tanh().mean((2, 3)))


def made(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(5)
    return kind()


def fitting(model: nn.Module, **options: object) -> tuple[Callable[..., Iterator[EpochResult]], Augmentation]:
    settings = settings_of(**options)
    augmented = Augmentation(settings, 16, np.full(3, 0.5, np.float32))
    return partial(fit, model, TOY, augmented, settings, resolve_machine(settings)), augmented


def trained(kind: type[nn.Module], **options: object) -> nn.Module:
    model = made(kind)
    start, _ = fitting(model, **options)
    list(start())
    return model


def batches(**options: object) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of the training, epoch by epoch."""
    _, augmented = fitting(nn.Linear(1, 1), **options)
    train = TOY.splits["train"]
    for epoch in range(2):
        yield from augmented.batches(train.images, train.labels, epoch)


def plainly(
    model: nn.Module, optimizer: torch.optim.Optimizer, after: Callable[[int], None] = lambda step: None, **loss: Any
) -> nn.Module:
    """The training of `model` as PyTorch's tutorials write it."""
    for step, (images, labels) in enumerate(batches(), start=1):
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels, label_smoothing=0.1, **loss).backward()
        after(step)
        optimizer.step()
    return model


def same(ours: nn.Module, theirs: nn.Module, atol: float = 1e-6) -> None:
    for (name, one), other in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other, atol=atol, rtol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


def differ(one: nn.Module, other: nn.Module) -> bool:
    return not torch.equal(one.get_parameter("linear.weight"), other.get_parameter("linear.weight"))


ADAMW = {"optimizer": "adamw", "optimizer_args": "betas=0.8/0.95 eps=1e-4"}


@pytest.mark.parametrize(
    ("options", "theirs"),
    [
        ({}, partial(torch.optim.SGD, momentum=0.9, weight_decay=0.01)),
        (ADAMW, partial(torch.optim.AdamW, betas=(0.8, 0.95), eps=1e-4, weight_decay=0.01)),
        ({"optimizer": "rmsprop"}, partial(torch.optim.RMSprop, momentum=0.9, weight_decay=0.01)),
        (
            {"optimizer": "nadam", "optimizer_args": "momentum_decay=0.1"},
            partial(torch.optim.NAdam, weight_decay=0.01, momentum_decay=0.1),
        ),
        ({"optimizer": "rprop", "optimizer_args": "etas=0.4/1.3"}, partial(torch.optim.Rprop, etas=(0.4, 1.3))),
    ],
)
def test_a_training_takes_the_steps_of_a_loop_of_pytorch(options: dict[str, object], theirs: Any) -> None:
    model = made(Normed)
    plain = plainly(model, theirs(model.parameters(), lr=0.01))
    same(trained(Normed, **options), plain)


@pytest.mark.parametrize("name", [name for name in OPTIMISERS if name != "muon"])
def test_every_optimizer_of_the_table_trains(name: str) -> None:
    assert differ(trained(Plain, optimizer=name, epochs=1), made(Plain))


def test_the_table_is_what_torch_has_for_dense_gradients() -> None:
    kinds = [kind for kind in vars(torch.optim).values() if inspect.isclass(kind)]
    known = {k.__name__.lower() for k in kinds if issubclass(k, torch.optim.Optimizer)}
    assert set(OPTIMISERS) == known - {"optimizer", "lbfgs", "sparseadam"}
    for option, names in WITH.items():
        assert set(names) == {name for name in OPTIMISERS if option in inspect.signature(_kind(name)).parameters}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"optimizer": "adamw", "optimizer_args": "beta=0.9"},
            "adamw takes betas, eps, amsgrad, not 'beta'; did you mean 'betas'?",
        ),
        ({"optimizer": "sgd", "optimizer_args": "betas=0.9/0.99"}, "sgd takes dampening, not 'betas'"),
        ({"optimizer": "adamw", "optimizer_args": "weight_decay=0.1"}, "give it as the option weight_decay"),
        ({"optimizer": "adamw", "optimizer_args": "betas=1.5/0.9"}, "adamw does not take these values (Invalid beta"),
        ({"optimizer": "adamw", "optimizer_args": "betas=0.9"}, "subscriptable); its own: betas=0.9/0.999"),
    ],
)
def test_arguments_are_checked_against_the_optimizer(options: dict[str, object], said: str) -> None:
    with pytest.raises(SettingsError) as refused:
        check_arguments(settings_of(**options))
    (line,) = refused.value.problems
    assert line.startswith(f"optimizer_args={options['optimizer_args']}: ")
    assert said in line
    check_arguments(settings_of(**ADAMW))


NUMBERS = st.floats(-1e6, 1e6, allow_nan=False).map(lambda x: round(x, 6)) | st.integers(-999, 999)


@given(
    st.dictionaries(
        st.from_regex(r"[a-z_]{1,8}", fullmatch=True), NUMBERS | st.booleans() | st.tuples(NUMBERS, NUMBERS), min_size=1
    ),
    st.sampled_from([" ", ",", ", "]),
)
def test_arguments_read_back(values: dict[str, Any], between: str) -> None:
    def text(value: Any) -> str:
        return (
            "/".join(map(str, value))
            if isinstance(value, tuple)
            else str(value).lower()
            if isinstance(value, bool)
            else str(value)
        )

    assert arguments(between.join(f"{name}={text(value)}" for name, value in values.items())) == values
    assert arguments("none") == {}


def test_the_gradient_is_clipped_as_by_pytorch() -> None:
    model = made(Plain)
    theirs = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=0.01)
    plain = plainly(model, theirs, lambda step: (nn.utils.clip_grad_norm_(model.parameters(), 0.05), None)[1])
    clipped = trained(Plain, grad_clip=0.05)
    same(clipped, plain)
    assert differ(clipped, trained(Plain))


def test_the_average_of_the_weights_is_what_is_left() -> None:
    model, seen = made(Normed), []
    theirs = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=0.01)
    for images, labels in batches():
        theirs.zero_grad()
        F.cross_entropy(model(images), labels, label_smoothing=0.1).backward()
        theirs.step()
        seen.append(copy.deepcopy(model.state_dict()))
    shares = torch.tensor([0.7**k for k in range(len(seen))][::-1])
    average = trained(Normed, ema=0.7).state_dict()
    for name, found in average.items():
        if name == "norm.num_batches_tracked":
            assert found == len(seen)
        else:
            steps = torch.stack([state[name] for state in seen])
            torch.testing.assert_close(found, torch.tensordot(shares / shares.sum(), steps, 1), atol=1e-6, rtol=1e-5)


def test_the_average_is_what_is_evaluated() -> None:
    model = made(Normed)
    start, _ = fitting(model, ema=0.9, epochs=1)
    (result,) = start()
    val = TOY.splits["val"]
    with torch.no_grad():
        logits = model.eval()(to_tensor(val.images))
    assert result.metrics["val/loss"] == pytest.approx(float(F.cross_entropy(logits, torch.from_numpy(val.labels))))


def test_balanced_classes_weigh_the_same_by_hand_and_in_the_loss() -> None:
    labels = torch.tensor([0, 0, 0, 1, 3, 3])
    assert class_weights(labels, 5, "none").tolist() == [1, 1, 1, 1, 1]
    assert class_weights(labels, 5, "balanced").tolist() == pytest.approx([2 / 3, 2, 0, 1, 0])
    dataset = TOY.splits["train"].labels
    weights = class_weights(torch.from_numpy(dataset), 3, "balanced")
    assert float(weights[torch.from_numpy(dataset)].sum()) == pytest.approx(len(dataset))


def test_class_weights_are_those_of_pytorchs_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = torch.tensor([0.5, 3.0, 1.0])
    monkeypatch.setattr("experiments.training.steps.class_weights", lambda *_: weights)
    model = made(Plain)
    theirs = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=0.01)
    plain = plainly(model, theirs, weight=weights)
    for accumulate, batch_size in ((1, 16), (4, 4)):
        same(trained(Plain, class_weights="balanced", accumulate=accumulate, batch_size=batch_size), plain)


@pytest.mark.parametrize(("accumulate", "batch_size"), [(2, 8), (4, 4), (8, 2)])
def test_accumulated_gradients_are_those_of_the_larger_batch(accumulate: int, batch_size: int) -> None:
    same(trained(Plain, accumulate=accumulate, batch_size=batch_size), trained(Plain))


def test_the_classifier_has_its_own_rate() -> None:
    for options in ({}, {"optimizer": "adamw"}):
        model = made(Plain)
        assert classifier(model) is model.linear
        rest = [p for name, p in model.named_parameters() if not name.startswith("linear")]
        groups = [{"params": rest, "lr": 0.01}, {"params": model.linear.parameters(), "lr": 0.2}]
        kind = (
            torch.optim.AdamW(groups, weight_decay=0.01)
            if options
            else torch.optim.SGD(groups, momentum=0.9, weight_decay=0.01)
        )
        same(trained(Plain, lr_head=0.2, **options), plainly(model, kind))


def test_with_muon_the_classifier_has_its_own_rate_too() -> None:
    muon = {"optimizer": "muon", "epochs": 1}
    assert differ(trained(Plain, lr_head=0.5, **muon), trained(Plain, **muon))
    same(trained(Plain, lr_head=0.01, **muon), trained(Plain, **muon))


@pytest.mark.parametrize(
    ("what", "changed"),
    [
        ("none", {"stem", "middle", "norm", "linear"}),
        ("until:stem", {"middle", "norm", "linear"}),
        ("until:middle", {"linear", "norm"}),
    ],
)
@pytest.mark.parametrize("optimizer", ["sgd", "muon"])
def test_frozen_layers_stay_and_the_others_learn(what: str, changed: set[str], optimizer: str) -> None:
    model = made(Normed)
    before = copy.deepcopy(model.state_dict())
    start, _ = fitting(model, freeze=what, optimizer=optimizer, epochs=1)
    list(start())
    found = {name.partition(".")[0] for name, now in model.state_dict().items() if not torch.equal(now, before[name])}
    assert found == changed


@pytest.mark.parametrize("name", ["fastnet", "resnet18"])
def test_a_frozen_backbone_keeps_its_weights_and_statistics(name: str) -> None:
    settings = settings_of(model=name)
    model = build_model(settings, len(CLASSES), *TOY.statistics)
    if name == "resnet18":
        model.layer2, model.layer3 = nn.Identity(), nn.Conv2d(64, 256, 1)  # the same kind, faster
    assert classifier(model) is model.linear
    freeze(model, "backbone")
    assert [n for n, p in model.named_parameters() if p.requires_grad] == [
        f"linear.{n}" for n, _ in model.linear.named_parameters()
    ]
    model.train()
    freeze(model, "backbone")
    before = copy.deepcopy(model.state_dict())
    model(torch.rand(4, 3, 16, 16)).sum().backward()
    assert all(torch.equal(now, before[n]) for n, now in model.state_dict().items())
    assert model.dropout.training


@pytest.mark.parametrize("name", ["densenet121", "squeezenet1_0", "swin_t", "vgg11", "vit_b_16", "mobilenet_v3_small"])
def test_the_classifier_of_other_networks_is_found(name: str) -> None:
    from torchvision.models import get_model

    with torch.device("meta"):
        network = get_model(name, weights=None, num_classes=7)
    found: Any = classifier(network)
    assert getattr(found, "out_features", getattr(found, "out_channels", 0)) == 7
    freeze(network, "backbone")
    assert {id(p) for p in network.parameters() if p.requires_grad} == {id(p) for p in found.parameters()}


def test_a_network_that_thaws_a_layer_itself_stays_frozen() -> None:
    """FastNet trains the bias of its stem for some epochs."""
    settings = settings_of(model="fastnet", freeze="until:layer1")
    model = build_model(settings, len(CLASSES), *TOY.statistics)
    before = model.stem.get_parameter("0.bias").clone()
    start, _ = fitting(model, freeze="until:layer1", epochs=1)
    list(start())
    assert torch.equal(model.stem.get_parameter("0.bias"), before)
    assert not model.stem.get_parameter("0.bias").requires_grad


@pytest.mark.parametrize(
    ("what", "said"),
    [
        (
            "until:midle",
            "the network has no layer 'midle'; its parts are stem, middle, linear, norm; did you mean 'middle'?",
        ),
        ("until:linear", "leaves nothing to train; name an earlier layer, or freeze=backbone"),
    ],
)
def test_layers_that_cannot_be_frozen_are_named(what: str, said: str) -> None:
    class Last(Plain):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.Identity()

    with pytest.raises(SettingsError, match=f"^freeze={what}: ") as refused:
        freeze(made(Last), what)
    assert said in str(refused.value)


def test_half_precision_scales_the_loss_and_leaves_out_steps_that_overflow() -> None:
    model = made(Plain)
    start, _ = fitting(model, precision="fp16", epochs=1)
    (result,) = start()
    scaler = result.state()["scaler"]
    # 65,536 times such a loss fits into float16 here; what is learnt is that of float32, up to rounding.
    assert scaler["scale"] == 65536
    same(model, trained(Plain, epochs=1), atol=2e-3)

    before, state = copy.deepcopy(model.state_dict()), result.state()
    state["epochs"], state["scaler"]["scale"] = 0, 2.0**40
    start, _ = fitting(model, precision="fp16", epochs=1)
    (result,) = start(resumed=state)
    assert result.state()["scaler"]["scale"] == 2.0**37  # halved in each of three steps
    assert all(torch.equal(now, before[name]) for name, now in model.state_dict().items())


ALL = {
    **{"optimizer": "adamw", "optimizer_args": "eps=1e-6", "grad_clip": 0.5, "ema": 0.9, "lr_head": 0.02},
    **{"class_weights": "balanced", "accumulate": 2, "batch_size": 8, "freeze": "until:stem", "schedule": "cosine"},
    **{"lr_warmup": 0.3},
}


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_with_all_options_two_epochs_and_two_more_are_four_bit_for_bit(precision: str) -> None:
    options = ALL | {"epochs": 4, "precision": precision}
    whole = trained(Normed, **options)
    start, _ = fitting(made(Normed), **options)
    epochs = start()
    next(epochs)
    state = copy.deepcopy(next(epochs).state())
    resumed = made(Normed)
    start, _ = fitting(resumed, **options)
    assert [result.epoch for result in start(resumed=state)] == [3, 4]
    for name, now in resumed.state_dict().items():
        assert torch.equal(now, whole.state_dict()[name]), name


def test_a_training_resumed_after_its_last_epoch_has_its_average() -> None:
    whole = made(Normed)
    start, _ = fitting(whole, **ALL)
    *_, last = start()
    again = made(Normed)
    start, _ = fitting(again, **ALL)
    assert list(start(resumed=copy.deepcopy(last.state()))) == []
    same(again, whole, atol=0)
