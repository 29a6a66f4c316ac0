"""Forgetting from the top down: what changes, in which order, and what stays as it was."""

import copy
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cam_core import randomisation
from cam_core.randomisation import Cascade, cascade

pytestmark = pytest.mark.usefixtures("one_thread")

LAYERS = ["stem", "body"]


class Net(nn.Module):
    """Its modules are made in another order than they run in, and one is never run."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(16, 2)
        self.body = nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.stem = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU())
        self.unused = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.stem(x)).mean((2, 3)))


def squares(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noise with a square somewhere: of horizontal stripes in class 0, of vertical ones in class 1."""
    generator = torch.Generator().manual_seed(seed)
    images = 0.3 * torch.randn(n, 1, 16, 16, generator=generator)
    corners = torch.randint(0, 10, (n, 2), generator=generator).tolist()
    stripes = torch.tensor([1.0, -1.0]).repeat(3)[:, None].expand(6, 6)
    for i, (y, x) in enumerate(corners):
        images[i, 0, y : y + 6, x : x + 6] += stripes if i % 2 == 0 else stripes.T
    return images, torch.arange(n) % 2


@pytest.fixture(scope="module")
def trained() -> Net:
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        model, (images, classes) = Net(), squares(128, 0)
        optimiser = torch.optim.Adam(model.parameters(), 0.01)
        for _ in range(40):
            optimiser.zero_grad()
            F.cross_entropy(model(images), classes).backward()
            optimiser.step()
        assert (model(images).argmax(1) == classes).float().mean() > 0.95
    return model


def run(model: nn.Module, layers: list[str] = LAYERS, method: str = "gradcam", seed: int = 0, n: int = 12) -> Cascade:
    images, classes = squares(n, 1)
    return cascade(model, images, layers, classes, method=method, generator=torch.Generator().manual_seed(seed))


def test_stages_run_from_the_classifier_down_to_the_stem(trained: Net) -> None:
    result = run(trained)
    assert result.stages == ("head", "body", "stem")
    assert result.layers == ("stem", "body")
    assert result.similarity.shape == (3, 2, 12)
    assert result.similarity.dtype == torch.float32


def test_the_likeness_of_a_trained_model_s_maps_falls(trained: Net) -> None:
    found = torch.stack([run(trained, ["body"], seed=seed).similarity[:, 0].nanmean(1) for seed in range(8)])
    after_head, _, after_all = found.nanmean(0).tolist()
    assert after_head < 0.7
    assert after_all < 0.3


def test_a_map_of_activations_alone_keeps_until_its_own_layer_goes(trained: Net) -> None:
    # EigenCAM looks at no gradient, so what lies above a layer cannot matter, and what lies below must.
    similarity = run(trained, method="eigencam").similarity
    torch.testing.assert_close(similarity[:2, 0], torch.ones(2, 12))
    torch.testing.assert_close(similarity[:1, 1], torch.ones(1, 12))
    assert (similarity[2, 0] < 0.99).all()
    assert (similarity[1:, 1] < 0.99).all()


def test_the_given_model_and_the_random_state_are_as_before(trained: Net) -> None:
    model = copy.deepcopy(trained).train()
    model.body[1].eval()
    model.head.weight.grad = torch.ones_like(model.head.weight)
    torch.manual_seed(123)
    random = torch.get_rng_state()
    run(model)
    for name, value in trained.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    assert [module.training for module in (model, model.body, model.body[1])] == [True, True, False]
    assert torch.equal(model.head.weight.grad, torch.ones_like(model.head.weight))
    assert not any(module._forward_hooks for module in model.modules())
    assert torch.equal(torch.get_rng_state(), random)


def test_the_generator_alone_decides(trained: Net) -> None:
    once = run(trained).similarity
    torch.manual_seed(99)
    torch.testing.assert_close(run(trained).similarity, once, equal_nan=True)
    assert not torch.equal(run(trained, seed=1).similarity, once)


def test_frozen_models_and_inference_mode(trained: Net) -> None:
    expected = run(trained).similarity
    frozen = copy.deepcopy(trained).requires_grad_(False)
    with torch.inference_mode():
        torch.testing.assert_close(run(frozen).similarity, expected, equal_nan=True)


def test_a_dead_map_is_missing(trained: Net) -> None:
    model = copy.deepcopy(trained)
    with torch.no_grad():
        model.head.weight[1] = 0
    classes = squares(12, 1)[1]
    missing = run(model).similarity.isnan()
    assert missing[:, :, classes == 1].all()
    assert not missing[:, :, classes == 0].all()


class Noting(nn.Module):
    """A convolution that notes when it is reset."""

    resets: ClassVar[list[str]] = []

    def __init__(self, name: str, channels: int) -> None:
        super().__init__()
        self.name = name
        self.weight = nn.Parameter(torch.randn(4, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight).relu()

    def reset_parameters(self) -> None:
        self.resets.append(self.name)
        nn.init.normal_(self.weight)


class Listed(nn.Module):
    """Runs what is in a list, which itself never runs, and has a parameter of its own that nothing resets."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([0.5, 1.0, 2.0, 4.0]))
        self.blocks = nn.ModuleList([Noting("block 0", 4), Noting("block 1", 4)])
        self.stem = Noting("stem", 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return x.mean((2, 3)) * self.scale


def test_every_module_is_reset_once_at_its_stage() -> None:
    model = Listed()
    Noting.resets.clear()
    assert run(model, ["stem"]).stages == ("blocks", "stem")
    assert Noting.resets == ["block 0", "block 1", "stem"]


def test_a_wrapped_model_is_taken_apart() -> None:
    model = nn.Sequential(nn.Identity(), Listed())
    assert run(model, ["1.stem"]).stages == ("1.blocks", "1.stem")
    expected = run(model[1], ["stem"]).similarity
    torch.testing.assert_close(run(model, ["1.stem"]).similarity, expected, equal_nan=True)
    assert run(nn.Sequential(model), ["0.1.stem"]).stages == ("0.1.blocks", "0.1.stem")


def test_all_parameters_are_forgotten_in_the_end(trained: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    states: list[dict[str, Tensor]] = []
    usual = randomisation.cams

    def spy(model: nn.Module, *args: object, **settings: object) -> object:
        states.append({name: value.clone() for name, value in model.state_dict().items()})
        return usual(model, *args, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(randomisation, "cams", spy)
    run(trained)
    kept = [{name for name, value in state.items() if torch.equal(value, states[0][name])} for state in states]
    below = {name for name in states[0] if not name.startswith("head.")}
    # The statistics of a BatchNorm are forgotten too.
    assert kept == [set(states[0]), below, {name for name in below if not name.startswith("body.")}, set()]
    assert states[-1]["body.1.running_mean"].count_nonzero() == 0

    states.clear()
    model = Listed()
    run(model, ["stem"])
    assert torch.equal(states[1]["scale"], model.scale)
    assert not torch.equal(states[2]["scale"], model.scale)


def test_compiled_models(trained: Net) -> None:
    compiled = torch.compile(trained, backend="eager")
    images, _ = squares(12, 1)
    try:
        with torch.no_grad():
            compiled(images)
        result = run(compiled)  # type: ignore[arg-type]
    finally:
        torch._dynamo.reset()
    assert result.stages == ("head", "body", "stem")
    torch.testing.assert_close(result.similarity, run(trained).similarity, equal_nan=True)


def test_tokens_with_reshape(trained: Net) -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens = nn.Sequential(nn.Conv2d(1, 4, 4, 4), nn.Flatten(2))
            self.mixing = nn.Linear(16, 16)
            self.head = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.mixing(self.tokens(x)).relu().mean(2))

    images, classes = squares(6, 1)
    result = cascade(
        Tokens(),
        images,
        ["mixing"],
        classes,
        method="hirescam",
        generator=torch.Generator().manual_seed(0),
        reshape=lambda tokens: tokens.unflatten(2, (4, 4)),
    )
    assert result.stages == ("head", "mixing", "tokens")
    assert result.similarity.shape == (3, 1, 6)


def test_bad_input(trained: Net) -> None:
    with pytest.raises(ValueError, match=r"layer 'bdy' is not in the model .did you mean 'body'"):
        run(trained, ["bdy"])


def test_a_model_without_parameters() -> None:
    class Mean(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.passing = nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return self.passing(x).mean((2, 3)).expand(-1, 2)

    with pytest.raises(ValueError, match="the model runs no module with parameters"):
        run(Mean(), ["passing"])
