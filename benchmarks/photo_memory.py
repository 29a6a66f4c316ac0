"""How much memory a training on photographs takes: 216 images of 224 pixels, and more and more of them.

    python -m benchmarks.photo_memory [networks | images] ...

`networks` trains networks for one epoch on 216 generated photographs, with evaluation, maps and pictures, each in a
process of its own, and shows the most memory that this process had (`ru_maxrss`). `images` decodes more and more images
into a mapped file and trains a tiny network on them, and shows what the process had of its own (RssAnon).
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

SIDE, PHOTOS, CLASSES = 224, 216, 3
LIMITS = {"ResNet-18": 2.0, "ResNet-50": 4.0}  # GiB
NETWORKS: Mapping[str, Mapping[str, str]] = {
    "ResNet-18": {"model": "torchvision:resnet18", "sides": "none"},
    "ResNet-18, fp32": {"model": "torchvision:resnet18", "sides": "none", "precision": "fp32"},
    "ResNet-50": {"recipe": "finetune", "weights": "none"},  # random ones take as much memory as published ones
    "ResNet-50, fp32": {"recipe": "finetune", "weights": "none", "precision": "fp32"},
    "fastnet": {"sides": "none"},
}
TINY = """from torch import nn

def build(classes):
    convolutions = nn.Conv2d(3, 8, 7, 16), nn.ReLU(), nn.AdaptiveAvgPool2d(1)
    return nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(8, classes))
"""
COUNTS = (1_000, 4_000, 16_000)


def photographs(folder: Path, count: int) -> None:
    """Smooth random images of different sizes, as JPEG, in one folder per class."""
    rng = np.random.default_rng(0)
    for number in range(count):
        place = folder / f"class{number % CLASSES}" / f"{number}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8))
        coarse.resize((320, 240), Image.Resampling.BICUBIC).save(place, quality=85)


def trained(where: Path, module: str, photos: Path, options: Mapping[str, str]) -> tuple[float, float, float]:
    """Most resident memory and most memory of its own in GiB, and seconds, of a training in a process of its own."""
    given = {"dataset": f"folder:{photos}", "image_size": str(SIDE), "epochs": "1", "resume": "none", **options}
    project = Path(__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": str(project), "MLFLOW_TRACKING_URI": f"sqlite:///{where}/mlflow.db"}
    words = [sys.executable, "-m", module, *(f"--{name}={value}" for name, value in given.items())]
    start, own = time.perf_counter(), 0
    with (where / "output.txt").open("w") as output:
        process = subprocess.Popen(words, cwd=where, env=environment, stdout=output, stderr=subprocess.STDOUT)
        while True:
            pid, status, used = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            own = max(own, _own_kib(process.pid))
            time.sleep(0.05)
    if status:
        raise SystemExit((where / "output.txt").read_text())
    return used.ru_maxrss / 2**20, own / 2**20, time.perf_counter() - start


def _own_kib(pid: int) -> int:
    """Memory that is no part of a file: the kernel cannot take it back."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith("RssAnon")), 0)


def of_networks(where: Path) -> Iterator[str]:
    """A row for each network."""
    yield "| network | most memory, GiB | of its own, GiB | limit, GiB | s |"
    yield "|---|---|---|---|---|"
    photographs(where / "photos", PHOTOS)
    for name, options in NETWORKS.items():
        most, own, seconds = trained(where, "experiments.train", where / "photos", options)
        limit = LIMITS.get(name.partition(",")[0])
        yield f"| {name} | {most:.2f} | {own:.2f} | {limit or '-'} | {seconds:.0f} |"


def of_images(where: Path) -> Iterator[str]:
    """A row for each number of images; a tiny network, so that nearly all memory is that of the images."""
    yield "| images | decoded, GiB | of its own, GiB | most, with pages of the file, GiB | s |"
    yield "|---|---|---|---|---|"
    (where / "tiny.py").write_text(TINY)
    options = {"model": "tiny.py:build", "sides": "none", "batch_size": "256", "optimizer": "sgd", "nesterov": "false"}
    for count in COUNTS:
        photographs(where / str(count), count)
        most, own, seconds = trained(where, "benchmarks.photo_memory", where / str(count), options)
        yield f"| {count:,} | {count * SIDE**2 * 3 / 2**30:.2f} | {own:.2f} | {most:.2f} | {seconds:.0f} |"


def train_only(words: list[str]) -> None:
    """A training without MLflow, evaluation and maps, with the options of `experiments.train`."""
    from experiments.runs.prepare import prepare
    from experiments.settings.train import TrainSettings
    from experiments.system.progress import Printer
    from experiments.training.loop import build_model, fit

    settings = TrainSettings.of(**dict(word.removeprefix("--").split("=", 1) for word in words))
    ready = prepare(settings, reporter=Printer())
    model = build_model(settings, len(ready.dataset.classes), *ready.dataset.statistics)
    for _ in fit(model, ready.dataset, ready.augmentation, settings, ready.machine):
        pass


def main(chosen: list[str]) -> None:
    """Prints the tables."""
    if chosen and chosen[0].startswith("--"):
        train_only(chosen)
        return
    for name, table in {"networks": of_networks, "images": of_images}.items():
        if name in chosen or not chosen:
            with TemporaryDirectory(dir=Path.cwd()) as where:
                for line in table(Path(where)):
                    print(line, flush=True)
            print()


if __name__ == "__main__":
    main(sys.argv[1:])
