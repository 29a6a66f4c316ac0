"""Memory: explaining thousands of images takes no more than hundreds, and a call leaves nothing behind."""

import gc
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from cam_core import cams_of_methods, capture, iter_cams
from tests.conftest import clean_environment

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

LAYERS = ["0", "1", "2", "3", "4"]
METHODS = ["gradcam", "layercam", "eigencam"]
SIDE, BATCH, CALLS, FEW, MANY = 24, 16, 200, 500, 5_000
MIB = 2**20
STATUS = Path("/proc/self/status")
SMALL = 0.1
"""The share of the maps' memory that growth must stay below: what the allocator rounds up and keeps."""


def net() -> nn.Sequential:
    """Five layers with maps of the images' size, pooling, a linear head."""
    torch.manual_seed(0)
    convolutions = [nn.Conv2d(3, 4, 3, padding=1), *(nn.Conv2d(4, 4, 3, padding=1) for _ in range(4))]
    return nn.Sequential(*convolutions, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10)).eval()


def weight_of_maps(images: int, methods: int = 1) -> float:
    """What the maps of that many images at all layers take, in MiB."""
    return images * len(LAYERS) * methods * SIDE**2 * 4 / MIB


def peak() -> float:
    """The most memory that this program has had, in MiB; `getrusage` would start from that of the one that ran it."""
    (line,) = re.findall(r"VmHWM:\s+(\d+) kB", STATUS.read_text())
    return int(line) / 1024


def growth_of_peak() -> dict[str, float]:
    """By how many MiB each phase raises the peak; those that leak come last."""
    torch.set_num_threads(1)
    model, image, classes = net(), torch.rand(1, 3, SIDE, SIDE), torch.arange(MANY) % 10
    kept: list[object] = []

    def chunks(count: int) -> Iterator[object]:
        # One image many times takes no memory of its own.
        return iter_cams(model, image.expand(count, -1, -1, -1), LAYERS, classes[:count])

    def pass_over(count: int) -> None:
        for _ in chunks(count):
            pass

    def call(times: int) -> None:
        for _ in range(times):
            cams_of_methods(model, image.expand(BATCH, -1, -1, -1), LAYERS, classes[:BATCH], methods=METHODS)

    def call_keeping_outputs() -> None:
        with model[4].register_forward_hook(lambda module, args, output: kept.append((args, output))):
            call(CALLS)

    phases: dict[str, Callable[[], None]] = {
        "warm-up": lambda: call(CALLS // 10),
        "calls": lambda: call(CALLS),
        "few": lambda: pass_over(FEW),
        "many": lambda: pass_over(MANY),
        "calls, outputs kept": call_keeping_outputs,
        "many, maps kept": lambda: kept.extend(chunks(MANY)),
    }
    growth = {}
    for name, phase in phases.items():
        before = peak()
        phase()
        growth[name] = peak() - before
    return growth


@pytest.fixture(scope="module")
def growth() -> dict[str, float]:
    """Measured in a program of its own, whose peak no other test has raised."""
    if not STATUS.exists():
        pytest.skip("the peak is read from /proc")
    code = "import json; from tests.cam_core.test_memory import growth_of_peak; print(json.dumps(growth_of_peak()))"
    done = subprocess.run(
        [sys.executable, "-c", code], env=clean_environment(), capture_output=True, text=True, check=True
    )
    measured: dict[str, float] = json.loads(done.stdout)
    return measured


def test_five_thousand_images_take_the_memory_of_five_hundred(growth: dict[str, float]) -> None:
    maps = weight_of_maps(MANY - FEW)
    assert growth["many"] < SMALL * maps
    assert growth["many, maps kept"] > maps  # the same measure sees them where they are kept


def test_the_peak_does_not_rise_over_two_hundred_calls(growth: dict[str, float]) -> None:
    maps = weight_of_maps(CALLS * BATCH, len(METHODS))
    assert growth["calls"] < SMALL * maps
    assert growth["calls, outputs kept"] > 2 * SMALL * maps


@pytest.fixture
def no_collection() -> Iterator[None]:
    """The garbage collector off, so that what waits for it in a circle is seen."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()
    gc.collect()


def tensors() -> int:
    """How many tensors there are."""
    return sum(issubclass(type(thing), Tensor) for thing in gc.get_objects())


def test_no_tensor_outlives_its_call_not_even_until_the_next_collection(no_collection: None) -> None:
    model, images, classes = net(), torch.rand(2, 3, 8, 8), torch.tensor([0, 9])
    names = [*METHODS, "gradcam:aug_smooth", "gradcam:eigen_smooth", "ablationcam", "scorecam"]
    cams_of_methods(model, images, LAYERS, classes, methods=names)
    before = tensors()
    for _ in range(CALLS):
        cams_of_methods(model, images, LAYERS, classes, methods=METHODS)
    cams_of_methods(model, images, LAYERS, classes, methods=names)
    assert tensors() == before


def keep(evidence: object, kept: list[object]) -> None:
    kept.append(evidence)


def tie(evidence: object, kept: list[object]) -> None:
    circle = [evidence]
    circle.append(circle)


@pytest.mark.parametrize("leak", [keep, tie])
def test_a_tensor_that_outlives_its_call_is_seen(
    leak: Callable[[object, list[object]], None], no_collection: None
) -> None:
    model, images, classes = net(), torch.rand(2, 3, 8, 8), torch.tensor([0, 9])
    kept: list[object] = []
    before = tensors()
    for _ in range(3):
        leak(capture(model, images, LAYERS, classes), kept)
    assert tensors() == before + 3 * (2 * len(LAYERS) + 1)
