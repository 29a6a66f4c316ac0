"""Two variants of one seed share everything random but the step that differs."""

from functools import partial

import numpy as np
import pytest
import torch

from experiments.augmentation.batch_colour import colour_steps
from experiments.augmentation.batch_geometry import geometry_steps
from experiments.augmentation.batch_holes import hole_steps
from experiments.augmentation.batch_step import Step
from experiments.augmentation.mixing import mixed
from experiments.augmentation.streams import stream
from experiments.augmentation.whole_batches import Augmentation
from experiments.settings.train import TrainSettings
from tests.augmentation.test_whole_batches import EVERYTHING, MEAN, chosen, pictures

pytestmark = pytest.mark.usefixtures("one_thread")

N = 300
ALL = {**EVERYTHING, "random_resized_crop": 0.5, "grayscale": 0.5, "gaussian_noise": 0.1, "random_erasing": 0.5}
# Each option that adds a step, with what takes the step away.
WITHOUT = {
    **{"hflip": 0.0, "affine_p": 0.0, "crop_padding": "0", "random_resized_crop": 0.0, "hsv_p": 0.0},
    **{"grayscale": 0.0, "gaussian_noise": 0.0, "cutout": False, "random_erasing": 0.0},
}


def steps_of(settings: TrainSettings, epoch: int = 2) -> list[Step]:
    streams = partial(stream, settings.seed, epoch)
    geometry, colour = geometry_steps(settings, 32, N, streams), colour_steps(settings, N, streams)
    return [*geometry, *colour, *hole_steps(settings, 32, MEAN, N, streams)]


def drawn(step: Step) -> tuple[bytes, ...]:
    """Everything random about a step, but noise that is drawn batch by batch."""
    return (step.chosen.tobytes(), *(array.tobytes() for array in step.drawn))


@pytest.mark.parametrize("option", WITHOUT)
def test_a_step_more_or_less_changes_no_other_step(option: str) -> None:
    every = [drawn(step) for step in steps_of(chosen(**ALL))]
    fewer = [drawn(step) for step in steps_of(chosen(**ALL | {option: WITHOUT[option]}))]
    assert len(every) == len(WITHOUT) == len(fewer) + 1
    place = list(WITHOUT).index(option)
    assert fewer == every[:place] + every[place + 1 :]


def test_steps_and_epochs_and_seeds_have_streams_of_their_own() -> None:
    draws = [stream(*key).random(4).tolist() for key in ((0, 0, "a"), (0, 0, "b"), (0, 1, "a"), (1, 0, "a"))]
    draws += [stream(0, 0, "a", place).random(4).tolist() for place in (1, 2)]
    assert len({tuple(draw) for draw in draws}) == len(draws)


@pytest.mark.parametrize("augment_by", ["batch", "albumentations"])
@pytest.mark.parametrize("option", ["cutout", "random_erasing", "grayscale"])
def test_images_without_the_changed_step_are_the_same_in_both_variants(option: str, augment_by: str) -> None:
    images = pictures(64)
    some = {"cutout": {"cutout_p": 0.5}, "grayscale": {"grayscale": 0.5}, "random_erasing": {"random_erasing": 0.5}}
    all_but_noise = {**ALL, "gaussian_noise": 0.0, "augment_by": augment_by, "batch_size": 16}
    epochs = []
    for extra in (some[option], {option: WITHOUT[option]}):
        path = Augmentation(chosen(**all_but_noise | extra), 32, MEAN, "cpu", torch.channels_last)
        batches = list(path.batches(images, np.arange(64), 3))
        epochs.append([torch.cat(parts) for parts in zip(*batches, strict=True)])
    assert torch.equal(epochs[0][1], epochs[1][1])  # the order
    same = (epochs[0][0] == epochs[1][0]).flatten(1).all(1).float().mean()
    assert 0.2 < same < 0.8


def test_mixup_of_two_variants_mixes_the_same_images_with_the_same_shares() -> None:
    images, labels = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 3
    plain, holed = (
        mixed(TrainSettings.of(mixup=0.3, cutout=cutout), images, labels, 3, 1, 5) for cutout in (True, False)
    )
    assert torch.equal(plain[0], holed[0])
    assert torch.equal(plain[1], holed[1])
