"""Networks of torchvision, timm and one's own files: found, built, given weights, and every mistake told in a line."""

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn
from torchvision import models

from experiments.errors import CannotStart
from experiments.explaining.trial import listed, tried
from experiments.models import foreign
from experiments.models.foreign import build, network_of, normalisation
from experiments.models.layers import open_door, plain_logits
from experiments.models.resnet18 import ResNet18
from experiments.models.weights import NetworkError
from experiments.settings.base import SettingsError
from experiments.settings.notation import channel_numbers
from experiments.settings.train import TrainSettings

pytestmark = pytest.mark.usefixtures("one_thread")

MEAN, STD = [0.5, 0.4, 0.3], [0.25, 0.2, 0.1]

BLOCKS = (
    "from torch import nn\n\ndef block(a, b):\n    return nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.ReLU())\n"
)
OWN = """
import threading
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm
from {blocks} import block

class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.first, self.pool, self.second = block(3, 4), nn.MaxPool2d(2), block(4, 5)
        self.head = nn.Linear(5, classes)

    def forward(self, images):
        maps = self.second(self.pool(self.first(images)))
        return {{"maps": maps, "logits": self.head(maps.mean((2, 3)))}}

def build(classes):
    return Net(classes)

def broken(classes):
    raise ValueError(f"no {{classes}} classes\\nhere")

def flat(classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, classes))

def ten(classes):
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))

def text(classes):
    return "net"

def lazy(classes):
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.LazyLinear(classes))

THE_ONE = Net(3)

def same(classes):
    return THE_ONE

number = 3

class Leaves(Net):
    def forward(self, images):
        raise SystemExit("bye")

class Detached(Net):
    def forward(self, images):
        return super().forward(images)["logits"].detach()

class Changed(Net):
    def forward(self, images):
        images = self.first(images).sigmoid()
        squares = images * images
        images += 1
        return self.head(self.second(squares + images).mean((2, 3)))

class Locked(Net):
    def __init__(self, classes):
        super().__init__(classes)
        self.lock = threading.Lock()

class Named(Net):
    cam_layers = ("third",)

class Named2(Net):
    cam_layers = "second"

class Keeping(Net):
    def forward(self, images):
        self.last = self.second(self.first(images))
        return self.head(self.last.mean((2, 3)))

def normed(classes):
    net = Net(classes)
    net.second[0] = spectral_norm(net.second[0])
    return nn.DataParallel(net)

def scripted(classes):
    return torch.jit.trace(Net(classes).first, torch.rand(1, 3, 8, 8))
"""


@pytest.fixture
def own(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of a file with networks, which imports another from beside it; of names that no other test has used."""
    tag = hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:8]
    (tmp_path / f"blocks_{tag}.py").write_text(BLOCKS)
    (tmp_path / f"net_{tag}.py").write_text(OWN.format(blocks=f"blocks_{tag}"))
    yield f"net_{tag}.py"
    for name in [name for name in sys.modules if tag in name]:
        del sys.modules[name]
    sys.path[:] = [place for place in sys.path if place != str(tmp_path)]


def settings(**options: object) -> TrainSettings:
    return TrainSettings.of(**{"sides": "none", "image_size": 16} | options)


def made(classes: int = 3, **options: object) -> nn.Module:
    torch.manual_seed(0)
    return build(settings(**options), classes, MEAN, STD)[0].eval()


# What networks return


class Named(tuple[torch.Tensor, torch.Tensor]):
    """A named tuple, as torchvision's with a second loss."""

    @property
    def logits(self) -> torch.Tensor:
        return self[0]


@pytest.mark.parametrize("form", ["tensor", "tuple", "list", "named", "dict", "first of a dict"])
def test_logits_are_found_in_what_a_network_returns(form: str) -> None:
    logits, other = torch.rand(2, 3), torch.rand(2, 4)
    outputs: dict[str, object] = {
        "tensor": logits,
        "tuple": (logits, other),
        "list": [logits, other],
        "named": Named((logits, other)),
        "dict": {"other": other, "logits": logits},
        "first of a dict": {"scores": logits, "other": other},
    }
    assert plain_logits(None, (), outputs[form]) is logits


@pytest.mark.parametrize("output", ["text", None, (), {}, {"logits": 3}, [[torch.ones(1)]]])
def test_an_output_without_logits_is_refused(output: object) -> None:
    with pytest.raises(TypeError, match=r"the network gives \w+, in which there are no logits"):
        plain_logits(None, (), output)


def test_a_network_at_the_door_takes_images_and_keeps_its_names() -> None:
    plain = nn.Sequential(nn.Conv2d(3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    images = torch.rand(4, 3, 5, 5)
    expected = plain((images - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1))
    names = list(plain.state_dict())
    open_door(plain, MEAN, STD)
    assert torch.equal(plain(images), expected)
    assert list(plain.state_dict()) == names
    assert [name for name, _ in plain.named_modules()] == ["", "0", "1", "2"]


def test_a_compiled_network_goes_through_the_door_too() -> None:
    plain = nn.Sequential(nn.Conv2d(3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    open_door(plain, MEAN, STD)
    images = torch.rand(4, 3, 5, 5)
    torch.testing.assert_close(torch.compile(plain, backend="eager")(images), plain(images))


# torchvision


def test_a_network_of_torchvision_is_torchvisions() -> None:
    ours = made(10, model="torchvision:squeezenet1_1", image_size=64)
    torch.manual_seed(0)
    theirs = models.squeezenet1_1(num_classes=10).eval()
    images = torch.rand(2, 3, 64, 64)
    normalised = (images - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)
    assert torch.equal(ours(images), theirs(normalised))


def test_resnet18_with_a_small_stem_is_the_one_for_small_images() -> None:
    small = made(10, model="torchvision:resnet18", small_stem=True)
    assert sum(parameter.numel() for parameter in small.parameters()) == 11_173_962
    ours = ResNet18(10, MEAN, STD).eval()
    values = iter(value for name, value in small.state_dict().items())
    # Both have their layers in the same order, but for the stem's place.
    ours.load_state_dict(
        {name: next(values) for name in ours.state_dict() if not name.startswith("normalise")}, strict=False
    )
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(small(images), ours(images))


@pytest.mark.parametrize(
    ("name", "side"), [("googlenet", 64), pytest.param("inception_v3", 96, marks=pytest.mark.slow)]
)
def test_heads_of_a_second_loss_are_left_out(name: str, side: int) -> None:
    network = made(3, model=f"torchvision:{name}", image_size=side)
    assert not [layer for layer, _ in network.named_modules() if layer.lower().startswith("aux")]
    assert network.train()(torch.rand(2, 3, side, side)).shape == (2, 3)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """Published weights of torchvision's ShuffleNet in the cache where a download would put them: made up here."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    torch.manual_seed(1)
    weights = dict(models.shufflenet_v2_x0_5().state_dict())
    entry = models.ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1
    place = tmp_path / "torch" / "hub" / "checkpoints" / entry.url.rpartition("/")[2]
    place.parent.mkdir(parents=True)
    torch.save(weights, place)
    return weights


@pytest.mark.parametrize("name", ["DEFAULT", "IMAGENET1K_V1", "ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1"])
def test_published_weights_are_loaded_and_the_head_is_replaced(hub: dict[str, torch.Tensor], name: str) -> None:
    given = settings(model="torchvision:shufflenet_v2_x0_5", weights=name, image_size="auto")
    torch.manual_seed(0)
    network, words = build(given, 3, MEAN, STD)
    state = network.state_dict()
    assert all(torch.equal(state[key], value) for key, value in hub.items() if not key.startswith("fc."))
    assert state["fc.weight"].shape == (3, 1024)
    assert words == "its last layer fc of 1000 classes replaced by one of 3, which begins at random"
    found = network_of(given)
    assert found.weights == "IMAGENET1K_V1"
    assert found.images is not None
    assert (found.images.image_size, found.images.interpolation, found.images.centre_crop) == (224, "bilinear", 0.875)
    assert normalisation(given, MEAN, STD) == ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    data = settings(model="torchvision:shufflenet_v2_x0_5", weights=name, image_size="auto", normalise="data")
    assert normalisation(data, MEAN, STD) == (MEAN, STD)


def test_the_weights_of_a_thousand_classes_keep_their_head(hub: dict[str, torch.Tensor]) -> None:
    network, words = build(settings(model="torchvision:shufflenet_v2_x0_5", weights="DEFAULT"), 1000, MEAN, STD)
    assert torch.equal(network.state_dict()["fc.weight"], hub["fc.weight"])
    assert words == ""


def test_a_damaged_download_is_told_with_its_place(hub: dict[str, torch.Tensor], tmp_path: Path) -> None:
    (file,) = (tmp_path / "torch" / "hub" / "checkpoints").iterdir()
    file.write_bytes(b"half")
    told = rf"weights=IMAGENET1K_V1: cannot be loaded from https.* copy the file to {file.parent}, or give a FILE"
    with pytest.raises(NetworkError, match=told):
        made(model="torchvision:shufflenet_v2_x0_5", weights="DEFAULT")


# timm


@pytest.mark.parametrize("name", ["DEFAULT", "ra2_in1k"])
def test_weights_of_timm_come_from_the_cache_of_the_hub(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    given = settings(model="timm:lcnet_050", weights=name, image_size="auto")
    with pytest.raises(
        NetworkError, match=rf"weights={name}: cannot be loaded from timm/lcnet_050\.ra2_in1k .*cache, or"
    ):
        build(given, 3, MEAN, STD)
    torch.manual_seed(1)
    published = timm.create_model("lcnet_050").state_dict()
    place = tmp_path / "models--timm--lcnet_050.ra2_in1k"
    for folder in ("refs", "snapshots/abc"):
        (place / folder).mkdir(parents=True)
    (place / "refs" / "main").write_text("abc")
    save_file(published, place / "snapshots" / "abc" / "model.safetensors")
    network, words = build(given, 3, MEAN, STD)
    state = network.state_dict()
    assert all(torch.equal(state[key], value) for key, value in published.items() if not key.startswith("classifier"))
    assert words == "its last layer classifier of 1000 classes replaced by one of 3, which begins at random"
    found = network_of(given)
    assert found.weights == "ra2_in1k"
    assert found.images == timm_images("lcnet_050")


def timm_images(name: str) -> tuple[object, ...]:
    """What timm's own transforms of these weights do to images."""
    config = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
    return config["mean"], config["std"], config["input_size"][-1], config["interpolation"], config["crop_pct"]


# One's own


def test_a_function_of_ones_own_builds_the_network(own: str) -> None:
    network = made(model=f"{own}:build")
    assert network(torch.rand(2, 3, 16, 16)).shape == (2, 3)
    assert tried(settings(model=f"{own}:build"), 3)[0] == ("first", "second")
    assert tried(settings(model=f"{own}:build", cam_layers="second,first.0"), 3)[0] == ("first.0", "second")


@pytest.mark.parametrize(
    ("name", "layers"),
    [("Named2", ("second",)), ("Keeping", ("second",)), ("normed", ("first", "second"))],
)
def test_networks_of_many_kinds_can_be_trained(own: str, name: str, layers: tuple[str, ...]) -> None:
    assert tried(settings(model=f"{own}:{name}"), 3)[0] == layers


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_scripted_network_is_refused(own: str) -> None:
    with pytest.raises(NetworkError, match=r"gives a scripted network; give the one from before torch\.jit"):
        tried(settings(model=f"{own}:scripted"), 3)


def test_a_module_is_as_good_as_a_file(own: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    by_module, by_file = settings(model=f"{own.removesuffix('.py')}:build"), settings(model=f"{own}:build")
    assert network_of(by_module).identity == network_of(by_file).identity


def test_a_change_beside_the_file_is_another_network(own: str, tmp_path: Path) -> None:
    before = network_of(settings(model=f"{own}:build")).identity
    blocks = tmp_path / own.replace("net_", "blocks_")
    blocks.write_text(BLOCKS + "# changed\n")
    foreign._found.cache_clear()
    assert network_of(settings(model=f"{own}:build")).identity != before


MISTAKES = {
    "there is no file": ("gone.py:build", r"there is no file gone\.py; give FILE\.py:NAME"),
    "no module": ("no.such.module:build", r"there is no module 'no\.such\.module'"),
    "another name": ("OWN:bild", r"has no 'bild'; did you mean 'build'\?"),
    "no function": ("OWN:number", r"is a int; must be a function or class"),
    "broken": ("OWN:broken", r"cannot be built for 3 classes: ValueError: no 3 classes here \(net_\w+\.py, line 22\)"),
    "flat": ("OWN:flat", r"has no layer with a map of images of 16 pixels"),
    "ten": ("OWN:ten", r"gives logits \(2, 10\) for 2 images of 3 classes; they must be \(2, 3\)"),
    "text": ("OWN:text", r"gives str, not a torch\.nn\.Module"),
    "leaves": ("OWN:Leaves", r"does not take images of 16 pixels: SystemExit: bye \(net_"),
    "detached": ("OWN:Detached", r"its logits have no gradient, so nothing can be trained"),
    "changed": ("OWN:Changed", r"cannot be trained with precision=\w+ and stored: RuntimeError: .*inplace operation"),
    "locked": ("OWN:Locked", r"and stored: TypeError: cannot pickle '_thread\.lock' object"),
    "named": ("OWN:Named", r"its attribute cam_layers=\('third',\): layer 'third' is not in the model"),
    "an instance": ("OWN:THE_ONE", r"is a Net; must be a function or class"),
    "lazy": ("OWN:lazy", r"has lazy layers"),
    "unknown": ("torchvision:resnet5", r"torchvision has no classifier 'resnet5'; did you mean 'resnet50'\?"),
    "unknown to timm": ("timm:resnt18", r"timm has no classifier 'resnt18'; did you mean 'resnet18'\?"),
    "too small": ("torchvision:alexnet", r"does not take images of 16 pixels: RuntimeError: .* give image_size=64$"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_network_that_cannot_be_trained_is_told_in_one_line(own: str, mistake: str) -> None:
    name, told = MISTAKES[mistake]
    name = name.replace("OWN", own)
    with pytest.raises(CannotStart, match=told) as error:
        tried(settings(model=name), 3)
    (line,) = error.value.problems
    assert line.startswith(f"model={name}: ")
    assert "\n" not in line


def test_a_function_that_gives_the_same_network_again_is_refused(own: str) -> None:
    made(model=f"{own}:same")
    with pytest.raises(NetworkError, match=r":same: gives the same network again; it must build a new one each time"):
        made(model=f"{own}:same")


def test_small_images_that_a_training_begins_with_are_tried_too() -> None:
    given = settings(model="torchvision:alexnet", image_size=64, sides="20,24,32")
    with pytest.raises(
        NetworkError, match=r"^model=torchvision:alexnet: does not take images of \d+ pixels: .*; add sides=none$"
    ):
        tried(given, 3)


@pytest.mark.parametrize("name", ["resnet50", "torchvision:", ":build", "net.py: build", ""])
def test_what_is_no_network_is_refused_by_the_settings(name: str) -> None:
    with pytest.raises(
        SettingsError, match=r"model=.* must be one of fastnet, .*torchvision:NAME, timm:NAME, FILE\.py:fun"
    ):
        TrainSettings.of(model=name)


def test_options_of_other_networks_have_no_effect() -> None:
    assert "small_stem" in settings(model="resnet18", small_stem=True).without_effect()
    assert "dropout" in settings(model="timm:resnet18", dropout=0.5).without_effect()


def test_timm_that_is_missing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(NetworkError, match=r"the package timm is not installed; pip install '\.\[timm\]'"):
        network_of(settings(model="timm:resnet10t"))


# Weights in files


def test_weights_that_all_have_other_names_are_refused(own: str) -> None:
    save_file({"a": torch.ones(1)}, "w.safetensors")
    with pytest.raises(NetworkError, match=r"does not fit this network.*1 are not in the network \(a\)"):
        build(settings(model=f"{own}:build", weights="w.safetensors"), 3, MEAN, STD)


@pytest.mark.parametrize(
    ("name", "prefix"),
    [("w.safetensors", ""), ("w.pt", ""), ("wrapped.pth", "module."), ("lightning.ckpt", "model._orig_mod.")],
)
def test_weights_of_a_file_are_those_of_the_network(own: str, name: str, prefix: str) -> None:
    weights = {key: value + 1 for key, value in made(model=f"{own}:build").state_dict().items()}
    if name.endswith(".safetensors"):
        save_file(weights, name)
    else:
        wrapped = {"state_dict": {f"{prefix}{key}": value for key, value in weights.items()}, "epoch": 3}
        torch.save(weights if name == "w.pt" else wrapped, name)
    network, words = build(settings(model=f"{own}:build", weights=name), 3, MEAN, STD)
    assert all(torch.equal(value, weights[key]) for key, value in network.state_dict().items())
    assert words == ""
    network, words = build(settings(model=f"{own}:build", weights=name), 4, MEAN, STD)
    assert torch.equal(network.state_dict()["first.0.weight"], weights["first.0.weight"])
    assert words == "its last layer head of 3 classes replaced by one of 4, which begins at random"


def test_weights_that_do_not_fit_are_told_by_name(own: str) -> None:
    weights = dict(made(model=f"{own}:build").state_dict())
    weights["extra"] = weights.pop("first.0.bias")
    weights["second.0.weight"] = torch.ones(5, 4, 5, 5)
    torch.save(weights, "bad.pt")
    told = (
        r"weights=bad\.pt: does not fit this network: of its 6 tensors 1 are missing in it \(first\.0\.bias\); "
        r"1 are not in the network \(extra\); 1 have another shape "
        r"\(second\.0\.weight \(5, 4, 5, 5\) instead of \(5, 4, 3, 3\)\)"
    )
    with pytest.raises(NetworkError, match=told):
        made(model=f"{own}:build", weights="bad.pt")


class Code:
    """A pickle that would run something."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.mkdir, (Path("run"),)  # type: ignore[return-value]


@pytest.mark.parametrize("what", ["code", "junk", "tensor", "gone", "list", "numbers", "empty"])
def test_what_is_no_file_of_weights_is_refused_and_never_run(what: str) -> None:
    given = {"code": Code(), "tensor": torch.ones(2), "list": [("a", torch.ones(2))], "numbers": {1: torch.ones(2)}}
    if what in given:
        torch.save(given[what], "w.pt")
    elif what == "junk":
        Path("w.pt").write_text("weights")
    elif what == "empty":
        Path("w.pt").touch()
    with pytest.raises(
        NetworkError, match=r"^weights=w\.pt: (is no file of weights only \(\w.*\); give|cannot be read)"
    ):
        made(model="fastnet", weights="w.pt")
    assert not Path("run").exists()


def test_weights_that_are_no_numbers_are_told_before_the_training(own: str) -> None:
    torch.save({key: value + float("nan") for key, value in made(model=f"{own}:build").state_dict().items()}, "nan.pt")
    with pytest.raises(NetworkError, match=r"gives logits that are not finite .*; look at its weights \(nan\.pt\)"):
        tried(settings(model=f"{own}:build", weights="nan.pt"), 3)


def test_names_of_weights_exist_only_where_a_library_has_them() -> None:
    with pytest.raises(
        NetworkError, match=r"weights=DEFAULT: fastnet has no weights of that name; give none, or a FILE"
    ):
        made(model="fastnet", weights="DEFAULT")
    told = r"weights=IMAGENET1K_V3: .* give none, DEFAULT, IMAGENET1K_V1, or .*; did you mean 'IMAGENET1K_V1'\?"
    with pytest.raises(NetworkError, match=told):
        made(model="torchvision:resnet18", weights="IMAGENET1K_V3")
    with pytest.raises(NetworkError, match=r"weights=a9_in1k: timm:resnet18 has no .*give none, DEFAULT, .*a1_in1k"):
        made(model="timm:resnet18", weights="a9_in1k")


def test_our_own_networks_take_weights_too() -> None:
    weights = {key: value + 1 for key, value in made(model="fastnet").state_dict().items()}
    torch.save(weights, "w.pt")
    found = made(model="fastnet", weights="w.pt").state_dict()
    assert all(torch.equal(found[key], value) for key, value in weights.items())


@given(st.lists(st.floats(0.01, 1).map(lambda number: round(number, 4)), min_size=6, max_size=6))
def test_any_six_numbers_normalise(numbers: list[float]) -> None:
    text = "/".join(",".join(map(str, three)) for three in (numbers[:3], numbers[3:]))
    assert channel_numbers(text) == (tuple(numbers[:3]), tuple(numbers[3:]))


@pytest.mark.parametrize("text", ["1,1/1,1", "0.5,0.5,0.5/0,1,1", "2,0,0/1,1,1", "a,b,c/1,1,1", "0.5", "-1,0,0/1,1,1"])
def test_other_numbers_do_not(text: str) -> None:
    with pytest.raises(ValueError, match="must be auto, data, imagenet, or means/deviations"):
        channel_numbers(text)


# The list of layers


def test_the_list_of_layers_has_all_with_their_grids(own: str) -> None:
    head, *rows = listed(settings(model=f"{own}:build")).splitlines()
    assert head.startswith(f"layers of {own}:build for images of 16 pixels")
    assert [row.split() for row in rows] == [
        *(["first.0", "16", "x", "16"], ["first.1", "16", "x", "16"], ["*", "first", "16", "x", "16"]),
        *(["pool", "8", "x", "8"], ["second.0", "8", "x", "8"]),
        *(["second.1", "8", "x", "8"], ["*", "second", "8", "x", "8"]),
    ]
