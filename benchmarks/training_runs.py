"""The runs that `benchmarks.training` measures: the same training by this project, a typical plain loop and Lightning.

All train the same network with the same shuffled images, batch size and augmentations, without evaluation. Ours does
the same as `experiments.train`. The others use float32 and two DataLoader workers that stay alive between epochs, and
read the loss in every step, like the training loops of many course projects (after kuangliu/pytorch-cifar, main.py).
If our run clips holes at the border, the others use whole holes.
"""

import math
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any

from experiments.data.dataset import Dataset as ImageDataset
from experiments.runs.prepare import Prepared, prepare
from experiments.training import loop
from experiments.training.machine import Machine, resolve_machine

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # no request to the package index in every process

import albumentations as A
import numpy as np
import torch
from albumentations.pytorch import ToTensorV2
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode
from torchvision.transforms import InterpolationMode, v2

from benchmarks.timing import WARM_UP, Report, Run
from experiments.augmentation.declared import BORDERS, mean_pixel
from experiments.data.dataset import Split
from experiments.settings.train import TrainSettings
from experiments.system.allocator import keep_freed_memory

CLASSES = 10
WORKERS = 2

OURS = "ours"
PLAIN = "plain loop, DataLoader with albumentations"
TORCHVISION = "plain loop, DataLoader with torchvision v2"
LIGHTNING = "Lightning's Trainer, DataLoader with albumentations"

WHOLE_BATCH = "ours, whole batches"
ONE_BY_ONE = "ours, albumentations in the training's process"
WORKERS_ALBUMENTATIONS = f"DataLoader with albumentations, {WORKERS} workers"
WORKERS_TORCHVISION = f"DataLoader with torchvision v2, {WORKERS} workers"

Batches = Iterable[tuple[Tensor, Tensor]]
Loader = DataLoader[Any]


@dataclass(frozen=True)
class Case:
    """The settings of a training, and the number of images per epoch."""

    settings: TrainSettings
    images: int

    @property
    def machine(self) -> Machine:
        return resolve_machine(self.settings)

    def where(self, **options: object) -> "Case":
        """The same case with other options."""
        return Case(self.settings.model_copy(update=options), self.images)


def case(recipe: str, images: int, epochs: int, **options: object) -> Case:
    """A recipe with images at full size and only full batches: `images` without the remainder."""
    given = {"recipe": recipe, "epochs": epochs, "sides": "none", "checkpoint": "none", "resume": "none"} | options
    settings = TrainSettings.of(**given)
    return Case(settings, max(1, images // settings.batch_size) * settings.batch_size)


def made_up(count: int, side: int) -> ImageDataset:
    """Noise in a colour that depends on the class; the time of a step does not depend on the content of the images."""
    random = np.random.default_rng(0)
    labels = np.arange(count) % CLASSES
    colours = random.integers(0, 128, (CLASSES, 1, 1, 3), dtype=np.uint8)
    images = colours[labels] + random.integers(0, 128, (count, side, side, 3), dtype=np.uint8)
    return ImageDataset("made up", tuple("0123456789"), {"train": Split(images, labels, None)}, "", "drawn")


# Trainings


def trainings(case: Case) -> dict[str, Run]:
    """Ours first, on a GPU also compiled. Lightning is left out if it is not installed."""
    found: dict[str, Run] = {OURS: partial(ours, case)}
    if case.machine.device == "cuda":
        found[f"{OURS}, compiled"] = partial(ours, case.where(compile=True))
    found |= {PLAIN: partial(plain, case), TORCHVISION: partial(torchvision, case)}
    if find_spec("pytorch_lightning"):
        found[LIGHTNING] = partial(lightning, case)
    return found


def ours(case: Case, report: Report) -> None:
    """The part of `experiments.train` between loading the data and the evaluation."""
    prepared = prepared_case(case)
    dataset, settings = prepared.dataset, prepared.settings
    model = loop.build_model(settings, len(dataset.classes), *dataset.statistics)
    for result in loop.fit(model, dataset, prepared.augmentation, settings, prepared.machine):
        report(result.metrics["train/loss"])


def prepared_case(case: Case) -> Prepared:
    """The case as `experiments.train` prepares it, in a similar process."""
    keep_freed_memory()
    return prepare(case.settings, dataset=made_up(case.images, case.settings.side))


def plain(case: Case, report: Report) -> None:
    """The plain loop with albumentations."""
    plain_loop(case, albumentations_loader(case), report)


def torchvision(case: Case, report: Report) -> None:
    """The plain loop with torchvision's transforms."""
    plain_loop(case, torchvision_loader(case), report)


def plain_loop(case: Case, loader: Loader, report: Report) -> None:
    """A loop with float32 and SGD that reads the loss and the number of correct predictions in every step."""
    torch.set_num_threads(case.machine.threads)
    device = case.machine.device
    model = network(case).to(device)
    criterion = nn.CrossEntropyLoss(label_smoothing=case.settings.label_smoothing)
    optimizer = sgd(model)
    for _ in range(case.settings.epochs):
        model.train()
        total_loss, correct = 0.0, 0.0
        for images, labels in loader:
            images, labels = images.to(device), labels.to(device)
            optimizer.zero_grad()
            outputs = model(images)
            loss = criterion(outputs, labels)
            loss.backward()
            optimizer.step()
            total_loss += loss.item()
            correct += outputs.argmax(1).eq(labels).sum().item()
        report(total_loss / len(loader))


def sgd(model: nn.Module) -> torch.optim.SGD:
    """The optimiser of the other programs; the recipe's numbers may be for another one, but the time is the same."""
    return torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)


def lightning(case: Case, report: Report) -> None:
    """Lightning's Trainer, without logger, checkpoints or progress bar."""
    from benchmarks import training_lightning  # takes seconds; only its own process needs it

    torch.set_num_threads(case.machine.threads)
    model = network(case)
    module = training_lightning.Module(model, case.settings.label_smoothing, sgd(model))
    training_lightning.fit(module, albumentations_loader(case), case.settings.epochs, case.machine.device, report)


def network(case: Case) -> nn.Module:
    """The network of the case without its normalisation, which the transforms of the other programs do."""
    dataset = made_up(1, case.settings.side)
    model = loop.build_model(case.settings, CLASSES, *dataset.statistics)
    model.normalise = nn.Identity()
    return model


# Input


def inputs(case: Case) -> dict[str, Run]:
    """Both of our implementations and two DataLoaders; each makes the batches of an epoch, which are not used."""
    return {
        WHOLE_BATCH: partial(our_input, case.where(augment_by="batch")),
        ONE_BY_ONE: partial(our_input, case.where(augment_by="albumentations", augment_workers=0)),
        WORKERS_ALBUMENTATIONS: partial(loader_input, case, albumentations_loader),
        WORKERS_TORCHVISION: partial(loader_input, case, torchvision_loader),
    }


def our_input(case: Case, report: Report) -> None:
    """Makes the batches that `fit` would train on."""
    prepared = prepared_case(case)
    train = prepared.dataset.splits["train"]
    for epoch in range(case.settings.epochs):
        _exhaust(prepared.augmentation.batches(train.images, train.labels, epoch), case.machine.device)
        report(math.nan)


def loader_input(case: Case, loader: Callable[[Case], Loader], report: Report) -> None:
    """Makes the batches of a DataLoader and moves them to the device."""
    torch.set_num_threads(case.machine.threads)
    batches = loader(case)
    for _ in range(case.settings.epochs):
        _exhaust(batches, case.machine.device)
        report(math.nan)


def _exhaust(batches: Batches, device: str) -> None:
    for images, labels in batches:
        images.to(device), labels.to(device)


class Images(Dataset[tuple[Tensor, int]]):
    """Images with their class, transformed by albumentations when they are read."""

    def __init__(self, split: Split, transform: A.Compose) -> None:
        self.images, self.labels, self.transform = split.images, split.labels, transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(image=self.images[index])["image"], int(self.labels[index])


class PillowImages(Images):
    """The same images transformed by torchvision, from Pillow images as in torchvision's data sets."""

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), int(self.labels[index])


def albumentations_loader(case: Case) -> Loader:
    """Shuffled batches of an epoch, augmented and normalised by albumentations in workers."""
    dataset = made_up(case.images, case.settings.side)
    transform = albumentations_transform(case.settings, *dataset.statistics)
    return _loader(Images(dataset.splits["train"], transform), case.settings)


def torchvision_loader(case: Case) -> Loader:
    """The same with torchvision."""
    dataset = made_up(case.images, case.settings.side)
    transform = torchvision_transform(case.settings, *dataset.statistics)
    return _loader(PillowImages(dataset.splits["train"], transform), case.settings)


def _loader(images: Images, settings: TrainSettings) -> Loader:
    return DataLoader(
        images, batch_size=settings.batch_size, shuffle=True, num_workers=WORKERS, persistent_workers=True
    )


def albumentations_transform(settings: TrainSettings, mean: np.ndarray, std: np.ndarray) -> A.Compose:
    """The augmentations of the settings and normalisation, from an image to a tensor."""
    border = BORDERS[settings.border]
    steps: list[A.BasicTransform] = []
    if settings.hflip:
        steps += [A.HorizontalFlip(p=settings.hflip)]
    if settings.affine_p:
        affine = A.Affine(
            translate_percent=(-settings.shift, settings.shift),
            scale=(1 - settings.scale, 1 + settings.scale),
            keep_ratio=True,
            rotate=(-settings.rotate, settings.rotate),
            border_mode=border,
            p=settings.affine_p,
        )
        steps += [affine]
    if settings.padding:
        steps += [
            A.Pad(padding=settings.padding, border_mode=border),
            A.RandomCrop(height=settings.side, width=settings.side),
        ]
    if settings.hsv_p:
        steps += [A.HueSaturationValue(settings.hue, settings.saturation, settings.value, p=settings.hsv_p)]
    if settings.cutout:
        heights, widths = settings.cutout_sizes
        hole = A.CoarseDropout(
            num_holes_range=(settings.cutout_holes, settings.cutout_holes),
            hole_height_range=heights,
            hole_width_range=widths,
            fill=tuple(float(value) for value in mean_pixel(mean)),
            p=settings.cutout_p,
        )
        steps += [hole]
    return A.Compose([*steps, A.Normalize(mean.tolist(), std.tolist()), ToTensorV2()])


def torchvision_transform(settings: TrainSettings, mean: np.ndarray, std: np.ndarray) -> v2.Compose:
    """The same from a Pillow image; it multiplies saturation and value where albumentations adds, the closest option.

    At most one square hole with the same areas, because `RandomErasing` supports neither more holes nor given sides.
    """
    steps: list[nn.Module] = []
    if settings.hflip:
        steps += [v2.RandomHorizontalFlip(settings.hflip)]
    if settings.affine_p:
        affine = v2.RandomAffine(
            degrees=settings.rotate,
            translate=(settings.shift, settings.shift),
            scale=(1 - settings.scale, 1 + settings.scale),
            interpolation=InterpolationMode.BILINEAR,
        )
        steps += [v2.RandomApply([affine], settings.affine_p)]
    if settings.padding:
        mode = {"black": "constant", "reflect": "reflect"}[settings.border]
        steps += [v2.RandomCrop(settings.side, settings.padding, padding_mode=mode)]
    if settings.hsv_p:
        colour = v2.ColorJitter(
            brightness=settings.value / 255, saturation=settings.saturation / 255, hue=settings.hue / 180
        )
        steps += [v2.RandomApply([colour], settings.hsv_p)]
    steps += [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean.tolist(), std.tolist())]
    if settings.cutout:
        low, high = (height * width / settings.side**2 for height, width in zip(*settings.cutout_sizes, strict=True))
        steps += [v2.RandomErasing(settings.cutout_p, scale=(low, high), ratio=(1.0, 1.0))]
    return v2.Compose(steps)


# Operations of a training step, and the peak performance of the machine


def flops_per_image(run: Callable[[Case, Report], None], case: Case) -> float:
    """Floating-point operations of a training step per image; a multiplication and an addition count as two.

    It counts matrix products and convolutions in the forward pass, the backward pass and the optimiser, as the mean
    over the counted epochs. It does not count element-wise operations.
    """
    totals: list[int] = []
    with FlopCounterMode(display=False) as counter:
        run(Case(case.settings, case.settings.batch_size), lambda loss: totals.append(counter.get_total_flops()))
    return (totals[-1] - totals[WARM_UP - 1]) / (len(totals) - WARM_UP) / case.settings.batch_size


@dataclass(frozen=True)
class Operation:
    """An operation made of multiplications and additions, and its number of floating-point operations."""

    name: str
    work: Callable[[], object]
    flops: float


def operations(device: str, precision: str, side: int) -> list[Operation]:
    """A product of square matrices of `side`, and a 3x3 convolution of 256 channels with about the same work."""
    form = {"device": device, "dtype": {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]}
    left, right = torch.randn(2, side, side, **form)  # type: ignore[call-overload]
    channels, cells = 256, 16
    count = max(1, round(side**3 / (9 * channels**2 * cells**2)))
    images = torch.randn(count, channels, cells, cells, **form).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    kernel = torch.randn(channels, channels, 3, 3, **form).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return [
        Operation(f"matrix product, {side}", lambda: torch.mm(left, right), 2 * side**3),
        Operation(
            f"3x3 convolution, {channels} channels",
            lambda: F.conv2d(images, kernel, padding=1),
            2 * 9 * channels**2 * count * cells**2,
        ),
    ]
