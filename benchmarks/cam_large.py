"""Maps of large networks at 224 pixels: seconds and peak memory, against grad-cam, torchcam and captum, in markdown.

python -m benchmarks.cam_large            about half an hour on two cores
python -m benchmarks.cam_large --quick    one round of the smallest case

Runs of a table take turns, as in `benchmarks.cam`. Peak memory is that of a new process for each run: the most that it
had, less what it had before the run, with the network and the images. Needs the dev extra.
"""

import argparse
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
import torchcam.methods
from pytorch_grad_cam import ScoreCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn
from torchvision import models

import cam_core
from benchmarks import cam_runs
from benchmarks.cam import interleaved, table
from benchmarks.cam_runs import Case, Run
from benchmarks.timing import Aim, aim_row, ratio

BATCH, SIDE = 8, 224
SCORED = 32  # rows in one forward pass of ScoreCAM
SCORES = "bare limit: the forward passes"
LAYERS = {
    "resnet50": ("layer1", "layer2", "layer3", "layer4"),
    "convnext_tiny": ("features.1", "features.3", "features.5", "features.7"),
    "vit_b_16": tuple(f"encoder.layers.encoder_layer_{index}" for index in (1, 4, 7, 10)),
}


class Large(nn.Module):
    """A network of torchvision with random weights, with the layers to explain."""

    def __init__(self, name: str, count: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.network = models.get_model(name, weights=None)
        self.cam_layers = tuple(f"network.{layer}" for layer in LAYERS[name][-count:])

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images)
        return logits


def case(name: str, layers: int, batch: int = BATCH) -> Case:
    """A network in eval mode with a batch of noise."""
    return Case(Large(name, layers).eval(), torch.rand(batch, 3, SIDE, SIDE), torch.arange(batch) % 10)


def gradient_runs(name: str, layers: int) -> dict[str, Callable[[Case], object]]:
    """One method and six methods of this project and of the others, as far as they know the layers' layout."""
    runs: dict[str, Callable[[Case], object]] = {
        "bare limit: forward, gradient at the first layer": cam_runs.bare_limit,
        "ours, GradCAM": partial(cam_runs.ours, methods=["gradcam"]),
        "ours, 6 gradient methods": partial(cam_runs.ours, methods=cam_runs.SIX),
    }
    if name != "vit_b_16":  # the others need a reshape for tokens, which is theirs to time
        runs |= {
            "torchcam, GradCAM": partial(cam_runs.torchcam_maps, extractors=["GradCAM"]),
            "torchcam, 4 methods": partial(cam_runs.torchcam_maps, extractors=list(cam_runs.TORCHCAM_FOUR.values())),
            "captum, GradCAM": cam_runs.captum_maps,
            "grad-cam, GradCAM": partial(cam_runs.grad_cam_maps, methods=["GradCAM"]),
        }
    return runs


def score_runs(case: Case) -> dict[str, Run]:
    """ScoreCAM of the last layer, and the forward passes alone that it needs: one for each image and channel."""
    layer = case.layers[-1]
    channels = cam_core.capture(case.model, case.images, [layer], case.classes).activations[layer].shape[1]

    def passes() -> None:
        with torch.no_grad():
            for _ in range(len(case.images) * channels // SCORED):
                case.model(case.images[:1].expand(SCORED, -1, -1, -1))

    targets = [ClassifierOutputTarget(label) for label in case.classes.tolist()]

    def theirs() -> object:
        with ScoreCAM(case.model, [case.model.get_submodule(layer)]) as explainer:
            return explainer(case.images, targets)

    def of_torchcam() -> object:
        with torchcam.methods.ScoreCAM(case.model, layer) as extractor:
            return extractor(case.classes.tolist(), case.model(case.images))

    return {
        SCORES: passes,
        "ours, ScoreCAM": lambda: cam_core.cams(case.model, case.images, [layer], case.classes, method="scorecam"),
        "grad-cam, ScoreCAM": theirs,
        "torchcam, ScoreCAM": of_torchcam,
    }


def peak(name: str, layers: int, batch: int, run: str) -> float:
    """How many MiB a run needs above the network and the images, in a new process."""
    code = f"from benchmarks.cam_large import own_peak; print(own_peak({name!r}, {layers}, {batch}, {run!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout)


def own_peak(name: str, layers: int, batch: int, run: str) -> float:
    """The same in this process, whose peak nothing else may have raised."""
    some = case(name, layers, batch)
    with torch.no_grad():
        some.model(some.images[:1])  # libraries allocate when they first run
    before = _status("VmRSS")
    gradient_runs(name, layers)[run](some)
    return _status("VmHWM") - before


def _status(entry: str) -> float:
    (found,) = re.findall(rf"{entry}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found) / 1024


def report(quick: bool) -> Iterator[str]:
    """The lines of all tables."""
    for name in ("resnet50",) if quick else LAYERS:
        for layers in (1,) if quick else (1, 4):
            runs = gradient_runs(name, layers)
            some = case(name, layers)
            timings = interleaved({label: partial(run, some) for label, run in runs.items()}, 1 if quick else 5, 1)
            yield from ("", f"### {name}, {BATCH} images, {layers} layers", "", *table(timings))
            others = [timings[label] for label in runs if label.startswith(("torchcam, G", "captum", "grad-cam"))]
            if others:
                slower = max(ratio(timings["ours, GradCAM"], other)[0] for other in others)
                yield from ("", f"ours, GradCAM / the fastest other: {slower:.2f} (aim: at most 1.03)")
            yield from ("", "| run | peak memory, MiB |", "|---|---|")
            yield from (f"| {label} | {peak(name, layers, BATCH, label):,.0f} |" for label in runs)
    yield from ("", "### ResNet-50, 16 images, the last layer: peak memory", "")
    for label in ("bare limit: forward, gradient at the first layer", "ours, GradCAM"):
        yield f"* {label}: {peak('resnet50', 1, 16, label):,.0f} MiB"
    if not quick:
        timings = interleaved(score_runs(cam_runs.case("resnet18", 4, torch.device("cpu"))), 2)
        yield from ("", "### ResNet-18, 4 images of 32 pixels, 512 channels", "", *table(timings), "")
        yield aim_row(Aim("ours, ScoreCAM", SCORES, at_most=1.05), timings)


def main() -> None:
    """Prints the tables as they are measured."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--quick", action="store_true", help="one round of the smallest case")
    for line in report(options.parse_args().quick):
        print(line, flush=True)


if __name__ == "__main__":
    main()
