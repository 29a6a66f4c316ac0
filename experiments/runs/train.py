"""One training in a run of its own: described, trained, evaluated, explained, logged."""

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from ..explaining.probes import in_turn
from ..models.foreign import network_of
from ..pictures import sheets
from ..pictures.style import take_failures
from ..system.progress import Reporter
from ..tracking.client import FINGERPRINT, TRAIN
from ..tracking.lifetime import open_run
from ..tracking.reading import FinishedRun, finished_run
from ..tracking.records import DatasetUse, Metrics, Record, Tag, Text
from ..tracking.ui import ui_address, ui_hint
from ..tracking.writing import Run
from ..training import distributed
from ..training.checkpoints import Checkpoint, CheckpointError
from ..training.loop import build_model, fit, steps_of
from .contents import (
    AUGMENTED,
    LEFT_OUT,
    MASKED,
    NEAR_CHANCE,
    RunConfig,
    UsedData,
    config_records,
    picture,
    setting_params,
)
from .evaluate import iter_findings, model_record
from .prepare import Prepared, keeper_of

EXPLAINING = 0.1  # share of the evaluation in the progress bar, relative to the training
OnEpoch = Callable[[int, Mapping[str, float]], None]
Finds = Callable[[Prepared, nn.Module], Iterable[Record]]


def work(prepared: Prepared) -> int:
    """Steps of the progress bar: the training steps, and a share for the evaluation."""
    done = prepared.checkpoint.epochs if prepared.checkpoint else 0
    return (prepared.settings.epochs - done) * _steps_of_an_epoch(prepared) + _explaining_steps(prepared)


def _steps_of_an_epoch(prepared: Prepared) -> int:
    return steps_of(len(prepared.dataset.splits["train"]), prepared.settings.step_images)


def _explaining_steps(prepared: Prepared) -> int:
    return max(1, round(EXPLAINING * prepared.settings.epochs * _steps_of_an_epoch(prepared)))


def iter_settings(prepared: Prepared) -> Iterator[Record]:
    """The settings of a training, its data, and examples of augmented images."""
    config, dataset = run_config(prepared), prepared.dataset
    yield from setting_params(config.resolved)
    yield DatasetUse(dataset.name, dataset.digest, dataset.source, config.dataset.sizes)
    yield from config_records(config)
    for name, text in prepared.augmentation.sources.items():
        yield Text(f"augmentation/{name}", text)
    for path, text in network_of(prepared.settings).sources.items():
        yield Text(f"network/{path}", text)
    train = dataset.splits["train"]
    chosen = in_turn(train.labels, np.ones(len(train), bool), 16)
    if dataset.left_out:
        yield Text(LEFT_OUT, "\n".join(dataset.left_out))
    if (masks := train.masks) is not None:
        yield picture(MASKED, lambda: sheets.masked(train.images[chosen], masks[chosen]))
    yield picture(AUGMENTED, lambda: sheets.augmented(prepared.augmentation.examples(train.images[chosen])))


def run_config(prepared: Prepared) -> RunConfig:
    """The settings as the run records them."""
    dataset, sizes = prepared.dataset, {name: len(split) for name, split in prepared.dataset.splits.items()}
    return RunConfig(
        name=prepared.name,
        fingerprint=prepared.fingerprint,
        given=prepared.settings.given,
        settings=prepared.settings,
        machine=prepared.machine,
        processes=distributed.size(),
        layers=prepared.explaining.layers,
        dataset=UsedData(
            dataset.name, dataset.digest, dataset.source, tuple(dataset.classes), prepared.settings.side, sizes
        ),
        software={"python": platform.python_version(), "torch": torch.__version__}
        | {name: version(name) for name in network_of(prepared.settings).libraries},
        methods=prepared.explaining.methods,
        augmentation=str(prepared.augmentation),
        network=prepared.network,
    )


def train(prepared: Prepared, reporter: Reporter, *, parent_run_id: str | None = None) -> FinishedRun:
    """Trains, evaluates and explains the variant in its own MLflow run, and returns that run.

    Raises:
        TrainingDiverged: the loss is no longer finite; the run is then marked as failed.
    """
    with open_run(kind=TRAIN, name=prepared.name, tags=tags_of(prepared), parent_run_id=parent_run_id) as run:
        train_into(run, prepared, reporter)
    finish(prepared)
    return finished_run(run.id)


def tags_of(prepared: Prepared) -> dict[str, str]:
    """The tags that the run has from its beginning."""
    return {FINGERPRINT: prepared.fingerprint, "camparison.dataset": prepared.dataset.name}


def finish(prepared: Prepared) -> None:
    """Deletes the automatic checkpoint, which a completed run no longer needs."""
    if keeper := keeper_of(prepared):
        keeper.finish()


def train_into(
    run: Run,
    prepared: Prepared,
    reporter: Reporter,
    on_epoch: OnEpoch = lambda epoch, metrics: None,
    further: Finds = lambda prepared, model: (),
    *,
    keep_model: bool = True,
) -> None:
    """Trains, evaluates and explains the variant, and logs everything into `run`, which stays open.

    `on_epoch` is called with each epoch, counted from 1, and its metrics, before they are logged; an exception in it
    ends the training. `further` yields more records about the trained network. With `keep_model` the network itself is
    logged too.

    Raises:
        TrainingDiverged: the loss is no longer finite.
    """
    settings, dataset, clock = prepared.settings, prepared.dataset, prepared.clock

    def log(records: Sequence[Record]) -> None:
        with clock.measuring("tracking"):
            run.log(records)

    reporter.stage(prepared.name)
    log(list(iter_settings(prepared)))
    model = build_model(settings, len(dataset.classes), *dataset.statistics)
    if prepared.network:
        reporter.say(f"{prepared.name}: {prepared.network}")
    history: dict[int, dict[str, float]] = {}
    if before := prepared.checkpoint:
        history = {epoch: dict(metrics) for epoch, metrics in before.history.items()}
        clock.add(before.clock)
        logged = [Metrics(metrics, epoch) for epoch, metrics in history.items()]
        log([Tag("camparison.resumed_after_epoch", str(before.epochs)), *logged])
        reporter.say(f"{prepared.name}: resumes after epoch {before.epochs} of {settings.epochs}")
    keeper = keeper_of(prepared)
    state = before.state if before else None
    results = fit(model, dataset, prepared.augmentation, settings, prepared.machine, reporter.advance, state)
    while True:
        with clock.measuring("train"):
            result = next(results, None)
        if result is None:
            break
        history[result.epoch] = result.metrics
        on_epoch(result.epoch, result.metrics)
        log([Metrics(result.metrics, result.epoch)])
        if keeper:
            try:
                with clock.measuring("checkpoint"):
                    keeper.keep(_checkpoint(prepared, history, result.state()))
            except CheckpointError as error:  # a lost checkpoint must not end hours of training
                reporter.say(f"{prepared.name}: {error}")
    reporter.stage(f"{prepared.name}: explaining")
    for records in iter_findings(prepared, model, pd.DataFrame.from_dict(history, orient="index")):
        log(records)
        for doubt in (r.value for r in records if isinstance(r, Tag) and r.key == NEAR_CHANCE):
            reporter.say(f"{prepared.name}: {doubt}")
    log(list(further(prepared, model)))
    if keep_model:
        log([model_record(prepared, model)])
    run.log([Metrics(clock.metrics(), settings.epochs)])
    reporter.advance(_explaining_steps(prepared))
    for failure in take_failures():
        reporter.say(f"{prepared.name}: {failure}")


def _checkpoint(prepared: Prepared, history: Mapping[int, dict[str, float]], state: Mapping[str, Any]) -> Checkpoint:
    """What the training needs to resume after the last epoch of `history`."""
    return Checkpoint(prepared.fingerprint, prepared.settings.as_params(), dict(history), asdict(prepared.clock), state)


def assist(prepared: Prepared) -> None:
    """The part of every further process: trains along with rank 0, which runs `train`; logs and writes nothing.

    Raises:
        TrainingDiverged, ProcessLost: as on rank 0.
    """
    settings, dataset = prepared.settings, prepared.dataset
    model = build_model(settings, len(dataset.classes), *dataset.statistics)
    for _ in fit(model, dataset, prepared.augmentation, settings, prepared.machine):
        pass


def headline(run: FinishedRun) -> str:
    """The run's accuracies and its link, for the terminal."""
    link = ui_address(f"#/experiments/{run.experiment_id}/runs/{run.id}")
    metrics = run.metrics
    words = [f"{run.name}: test accuracy {metrics['test/accuracy']:.2%}"]
    if "test/worst_group_accuracy" in metrics:
        words.append(f"in its worst group {metrics['test/worst_group_accuracy']:.2%}")
    if "val/accuracy" in metrics:
        words.append(f"validation {metrics['val/accuracy']:.2%}")
    if "test/best_accuracy" in metrics:
        best = f"{metrics['test/best_accuracy']:.2%} in epoch {metrics['test/best_epoch']:.0f}"
        words.append(f"after the last epoch; best of its epochs {best}, chosen on the test images")
    where = f"in the outbox:\n  {run.waits_in}" if run.waits_in else f"in MLflow{ui_hint()}:\n  {link}"
    return f"{', '.join(words)} (one seed)\n{where}"
