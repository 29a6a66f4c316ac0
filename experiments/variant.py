"""One variant from data to a finished MLflow run: prepared, trained, evaluated, explained, logged."""

import hashlib
import json
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int64

import cam_core
from cam_core import Cams, cams, cams_of_methods, relative_to_mean
from cam_core.sheets import map_tiles
from experiments import data, evaluation, focus, gallery, parallel, tracking
from experiments.augment import Augmentation, to_tensor
from experiments.batch_augment import augmentation
from experiments.checkpoints import AUTO_EVERY_S, Checkpoint, CheckpointError, Keeper, check_place, of_this_training
from experiments.config import AUTO, NONE, TrainSettings
from experiments.data import Dataset
from experiments.evaluation import Predictions, predict
from experiments.explaining import Explaining, resolve_explaining
from experiments.models import Network
from experiments.probes import SPLIT, Probes, in_turn, probes
from experiments.progress import Reporter
from experiments.recipes import as_toml
from experiments.records import (
    Arrays,
    DatasetUse,
    KeyedPicture,
    Metrics,
    Model,
    Param,
    Picture,
    Record,
    Table,
    Tag,
    Text,
)
from experiments.training import Machine, build_model, fit, resolve_machine, steps_of

EXPLAINING = 0.1  # share of the work after the training, for the progress bar

BACKGROUNDS = ("own", "other", "background_only", "object_only")
"""Splits of the scenes that show the objects of the test images on backgrounds of all kinds."""

# The code that decides a result. A run made by other code is not the same run.
_CODE = (
    *("augment", "batch_augment", "data", "scenes", "models", "optimisers", "schedule", "training", "parallel"),
    *("evaluation", "explaining", "focus", "probes", "notation"),
)

# Options that change where or how fast something is computed, or that the data set's digest stands for.
_NOT_IDENTITY = {
    *("recipe", "dataset", "data_dir", "background_bias", "image_size", "train_images", "holdout"),
    *("device", "precision", "channels_last", "compile", "threads", "augment", "checkpoint", "resume"),
}


@dataclass(frozen=True)
class Prepared:
    """Everything a training needs, checked; nothing has been trained or logged yet."""

    name: str
    settings: TrainSettings
    given: Mapping[str, object]
    dataset: Dataset
    machine: Machine
    augmentation: Augmentation
    explaining: Explaining
    fingerprint: str
    checkpoint: Checkpoint | None
    clock: "Clock"


OnEpoch = Callable[[int, Mapping[str, float]], None]
Finds = Callable[[Prepared, Network], Iterable[Record]]


def no_further(prepared: Prepared, model: Network) -> Iterable[Record]:
    """Nothing beyond what every run finds out."""
    return ()


@dataclass
class Clock:
    """Wall and CPU seconds of each phase."""

    wall: dict[str, float] = field(default_factory=dict)
    cpu: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def measuring(self, phase: str) -> Iterator[None]:
        """Adds the time spent inside to `phase`."""
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.wall[phase] = self.wall.get(phase, 0.0) + time.perf_counter() - wall
        self.cpu[phase] = self.cpu.get(phase, 0.0) + time.process_time() - cpu

    def add(self, before: Mapping[str, Mapping[str, float]]) -> None:
        """Adds the training seconds of a run that this one carries on."""
        for own, earlier in ((self.wall, before["wall"]), (self.cpu, before["cpu"])):
            own["train"] = own.get("train", 0.0) + earlier.get("train", 0.0)

    def metrics(self) -> dict[str, float]:
        """Named as they are logged: `time/<phase>_s` and `time/<phase>_cpu_s`."""
        return {f"time/{phase}_s": seconds for phase, seconds in self.wall.items()} | {
            f"time/{phase}_cpu_s": seconds for phase, seconds in self.cpu.items()
        }


def prepare(
    settings: TrainSettings,
    given: Mapping[str, object],
    *,
    name: str | None = None,
    dataset: Dataset | None = None,
    reporter: Reporter | None = None,
) -> Prepared:
    """Loads the data set (unless it is passed) and resolves what was left to the machine.

    Raises:
        SettingsError, data.DataError, CheckpointError: when the training cannot be started as asked.
    """
    clock = Clock()
    machine = resolve_machine(settings)
    torch.set_num_threads(machine.threads)
    explaining = resolve_explaining(settings)
    with clock.measuring("data"):
        if dataset is None:
            dataset = load_dataset(settings, reporter or Reporter())
        mean, _ = dataset.statistics
    identity = fingerprint(settings, dataset, machine)
    if settings.checkpoint not in (AUTO, NONE):
        check_place(Path(settings.checkpoint).expanduser())
    return Prepared(
        name=name or default_name(settings),
        settings=settings,
        given=given,
        dataset=dataset,
        machine=machine,
        augmentation=augmentation(settings, settings.side, mean, machine.device, machine.memory_format),
        explaining=explaining,
        fingerprint=identity,
        checkpoint=find_checkpoint(settings, identity, reporter or Reporter()),
        clock=clock,
    )


def load_dataset(settings: TrainSettings, reporter: Reporter) -> Dataset:
    """The data set that the settings name; says which one `auto` became."""
    name = data.resolve_name(settings.dataset, settings.data_dir, reporter.say)
    dataset = data.load(
        name,
        data_dir=settings.data_dir,
        image_size=settings.image_size,
        background_bias=settings.background_bias,
        train_images=settings.train_images,
        holdout=settings.holdout,
        progress=reporter.say,
    )
    sizes = ", ".join(
        f"{len(dataset.splits[split]):,} {split}" for split in ("train", "val", "test") if split in dataset.splits
    )
    reporter.say(f"data set {dataset.name}: {sizes} images ({dataset.source})")
    return dataset


def default_name(settings: TrainSettings) -> str:
    """What the run is called in MLflow unless it has a name."""
    variant = f"cutout {settings.cutout_size} px" if settings.cutout else "baseline"
    return f"{variant}, seed {settings.seed}"


def fingerprint(settings: TrainSettings, dataset: Dataset, machine: Machine) -> str:
    """20 hex digits that are the same where settings, data, number format, code and libraries decide the same result.

    The same up to rounding: threads and compilation are left out, as are options without effect.
    """
    left_out = settings.idle().keys() | _NOT_IDENTITY
    options = {name: value for name, value in settings.as_params().items() if name not in left_out}
    here = Path(__file__).parent
    sources = [here / f"{module}.py" for module in _CODE] + sorted(Path(cam_core.__file__).parent.glob("*.py"))
    code = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()
    libraries = [version(name) for name in ("torch", "albumentations", "opencv-python-headless")]
    # In another memory layout the state of an optimizer means another thing.
    computed = [machine.device, machine.precision, machine.channels_last, settings.augment_path]
    identity = [options, dataset.digest, *computed, code, libraries]
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:20]


def work(prepared: Prepared) -> int:
    """Steps of the progress bar: the training steps and a share for what follows them."""
    done = prepared.checkpoint.epochs if prepared.checkpoint else 0
    return _training_steps(prepared) - done * _steps_of_an_epoch(prepared) + _explaining_steps(prepared)


def _training_steps(prepared: Prepared) -> int:
    return prepared.settings.epochs * _steps_of_an_epoch(prepared)


def _steps_of_an_epoch(prepared: Prepared) -> int:
    return steps_of(len(prepared.dataset.splits["train"]), prepared.settings.batch_size)


def _explaining_steps(prepared: Prepared) -> int:
    return max(1, round(EXPLAINING * _training_steps(prepared)))


def train(prepared: Prepared, reporter: Reporter, *, parent_run_id: str | None = None) -> tracking.FinishedRun:
    """Trains, evaluates and explains the variant in an MLflow run of its own, and returns that run.

    Raises:
        TrainingDiverged: when the loss is no longer finite; the run is then marked as failed.
    """
    with tracking.open_run(
        kind=tracking.TRAIN, name=prepared.name, tags=tags_of(prepared), parent_run_id=parent_run_id
    ) as run:
        train_into(run, prepared, reporter)
    finish(prepared)
    return tracking.finished_run(run.id)


def tags_of(prepared: Prepared) -> dict[str, str]:
    """The tags that a run of this training carries from its beginning."""
    return {tracking.FINGERPRINT: prepared.fingerprint, "camparison.dataset": prepared.dataset.name}


def finish(prepared: Prepared) -> None:
    """The run is complete: a checkpoint that was kept in passing has done its work."""
    if keeper := keeper_of(prepared):
        keeper.finish()


def train_into(
    run: tracking.Run,
    prepared: Prepared,
    reporter: Reporter,
    on_epoch: OnEpoch = lambda epoch, metrics: None,
    further: Finds = no_further,
    *,
    keep_model: bool = True,
) -> None:
    """Trains, evaluates and explains the variant, and logs everything into `run`, which stays open.

    `on_epoch` is called with each epoch, counted from 1, and its metrics before they are logged; what it raises ends
    the training. `further` finds out more about the trained network than every run does. With `keep_model` the run
    holds the network itself.

    Raises:
        TrainingDiverged: when the loss is no longer finite.
    """
    settings, dataset, clock = prepared.settings, prepared.dataset, prepared.clock

    def log(records: Sequence[Record]) -> None:
        with clock.measuring("tracking"):
            run.log(records)

    reporter.stage(prepared.name)
    log(list(iter_settings(prepared)))
    model = build_model(settings, len(dataset.classes), *dataset.statistics)
    history: dict[int, dict[str, float]] = {}
    if before := prepared.checkpoint:
        history = {epoch: dict(metrics) for epoch, metrics in before.history.items()}
        clock.add(before.clock)
        log(
            [
                Tag("camparison.resumed_after_epoch", str(before.epochs)),
                *(Metrics(metrics, epoch) for epoch, metrics in history.items()),
            ]
        )
        reporter.say(f"{prepared.name}: carries on after epoch {before.epochs} of {settings.epochs}")
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
                    keeper.keep(checkpoint_of(prepared, history, result.state()))
            except CheckpointError as error:  # hours of training are worth more than the state of one epoch
                reporter.say(f"{prepared.name}: {error}")
    reporter.stage(f"{prepared.name}: explaining")
    for records in iter_findings(prepared, model, pd.DataFrame.from_dict(history, orient="index")):
        log(records)
    log(list(further(prepared, model)))
    if keep_model:
        log([model_record(prepared, model)])
    run.log([Metrics(clock.metrics(), settings.epochs)])
    reporter.advance(_explaining_steps(prepared))


def assist(prepared: Prepared) -> None:
    """Trains along with the first of several processes, which runs `train`; nothing is logged or kept.

    Raises:
        TrainingDiverged, parallel.ProcessLost: as in the first process.
    """
    settings, dataset = prepared.settings, prepared.dataset
    model = build_model(settings, len(dataset.classes), *dataset.statistics)
    for _ in fit(model, dataset, prepared.augmentation, settings, prepared.machine):
        pass


def checkpoint_of(prepared: Prepared, history: Mapping[int, dict[str, float]], state: Mapping[str, Any]) -> Checkpoint:
    """What the training needs to carry on after the last epoch of `history`."""
    return Checkpoint(prepared.fingerprint, prepared.settings.as_params(), dict(history), asdict(prepared.clock), state)


def keeper_of(prepared: Prepared) -> Keeper | None:
    """What writes the checkpoints that the settings ask for."""
    where = prepared.settings.checkpoint
    if where == NONE:
        return None
    if where == AUTO:
        return Keeper(_own_checkpoint(prepared.settings, prepared.fingerprint), AUTO_EVERY_S, passing=True)
    return Keeper(Path(where).expanduser(), 0.0, passing=False)


def find_checkpoint(settings: TrainSettings, fingerprint_: str, reporter: Reporter) -> Checkpoint | None:
    """The checkpoint that the settings say to carry on from, or None.

    Raises:
        CheckpointError: a file was named that is no checkpoint of this training.
    """
    if settings.resume == NONE:
        return None
    named = settings.checkpoint if settings.resume == AUTO else settings.resume
    if named not in (AUTO, NONE):
        path = Path(named).expanduser()
        return None if settings.resume == AUTO and not path.exists() else _checkpoint_in(path, settings, fingerprint_)
    own = _own_checkpoint(settings, fingerprint_)
    try:
        return _checkpoint_in(own, settings, fingerprint_) if own.exists() else None
    except CheckpointError as error:
        reporter.say(f"starts over: {error}")
        return None


def _checkpoint_in(path: Path, settings: TrainSettings, fingerprint_: str) -> Checkpoint:
    return of_this_training(path, fingerprint_, settings.as_params())


def _own_checkpoint(settings: TrainSettings, fingerprint_: str) -> Path:
    return Path(settings.data_dir).expanduser() / "checkpoints" / f"{fingerprint_}.pt"


def headline(run: tracking.FinishedRun) -> str:
    """What the run achieved and where to look, for the terminal."""
    link = tracking.ui_address(f"#/experiments/{run.experiment_id}/runs/{run.id}")
    metrics = run.metrics
    words = [f"{run.name}: test accuracy {metrics['test/accuracy']:.2%}"]
    if "val/accuracy" in metrics:
        words.append(f"validation {metrics['val/accuracy']:.2%}")
    if "test/best_accuracy" in metrics:
        best = f"{metrics['test/best_accuracy']:.2%} in epoch {metrics['test/best_epoch']:.0f}"
        words.append(f"after the last epoch; best of its epochs {best}, chosen on the test images")
    return f"{', '.join(words)} (one seed)\nin MLflow{tracking.ui_hint()}:\n  {link}"


def iter_settings(prepared: Prepared) -> Iterator[Record]:
    """What was given, what it became, and the data."""
    settings, dataset = prepared.settings, prepared.dataset
    for name in TrainSettings.model_fields:
        yield Param(name, str(prepared.given.get(name, _default(name))))
    resolved = settings.as_params() | {key: str(value).lower() for key, value in asdict(prepared.machine).items()}
    resolved |= {"dataset": dataset.name, "image_size": str(settings.side), "augmentation": str(prepared.augmentation)}
    resolved["augment"] = settings.augment_path
    resolved["layers"] = " ".join(prepared.explaining.layers)
    resolved["cam_method"] = prepared.explaining.method
    resolved["cam_methods"] = " ".join(prepared.explaining.methods)
    for name, value in resolved.items():
        yield Param(f"resolved.{name}", value)
    sizes = {name: len(split) for name, split in dataset.splits.items()}
    yield DatasetUse(dataset.name, dataset.digest, dataset.source, sizes)
    yield Text("config.json", json.dumps(_config(prepared, sizes), indent=2))
    yield Text("recipe.toml", as_toml(f"as in the run {prepared.name}", settings.recipe_values))
    train = dataset.splits["train"]
    chosen = in_turn(train.labels, np.ones(len(train), bool), 16)
    examples = prepared.augmentation.examples(train.images[chosen])
    yield Picture("augmented.png", gallery.augmented(examples))


def _default(name: str) -> str:
    return TrainSettings.default_text(name)


def _config(prepared: Prepared, sizes: Mapping[str, int]) -> dict[str, object]:
    dataset = prepared.dataset
    return {
        "name": prepared.name,
        "fingerprint": prepared.fingerprint,
        "given": {name: str(value) for name, value in prepared.given.items() if str(value) != _default(name)},
        "settings": prepared.settings.model_dump(),
        "machine": asdict(prepared.machine) | {"processes": parallel.size()},
        "layers": list(prepared.explaining.layers),
        "dataset": {"name": dataset.name, "digest": dataset.digest, "source": dataset.source}
        | {"classes": list(dataset.classes), "image_size": prepared.settings.side, "sizes": dict(sizes)},
        "software": {"python": platform.python_version(), "torch": torch.__version__},
    }


def iter_findings(prepared: Prepared, model: Network, history: pd.DataFrame) -> Iterator[list[Record]]:
    """What the trained network does and where it looks, in portions; the time each takes goes to the clock."""
    clock, dataset, explaining = prepared.clock, prepared.dataset, prepared.explaining
    split, epoch = dataset.splits[SPLIT], int(history.index[-1])
    with clock.measuring("evaluate"):
        predictions = predict(model, split.images, split.labels, prepared.machine.device)
        evaluated = [*iter_evaluation(prepared, model, predictions, epoch), *iter_best_epoch(history)]
    yield evaluated
    with clock.measuring("cam"):
        chosen = probes(dataset)
        maps = cams_of_methods(
            model,
            to_tensor(chosen.images),
            explaining.layers,
            torch.from_numpy(chosen.labels),
            methods=explaining.all_methods,
        )
        looked = list(iter_looks(prepared, model, chosen, maps[explaining.method], predictions, epoch))
    yield looked
    with clock.measuring("faithfulness"):
        asked = list(iter_faithfulness(prepared, model, epoch))
    yield asked
    with clock.measuring("pictures"):
        pictures = [
            *iter_probe_records(prepared, chosen, maps, predictions, epoch),
            *iter_galleries(prepared, model, predictions),
            Picture("curves.png", gallery.curves(history, curves_title(prepared, history))),
        ]
    yield pictures


def model_record(prepared: Prepared, model: Network) -> Model:
    """The trained network, with two test images and what it says of them."""
    split = prepared.dataset.splits[SPLIT]
    said = predict(model, split.images[:2], split.labels[:2], prepared.machine.device)
    return Model(model, to_tensor(split.images[:2]).numpy(), said.logits, prepared.settings.epochs)


def iter_evaluation(prepared: Prepared, model: Network, predictions: Predictions, epoch: int) -> Iterator[Record]:
    """Accuracy on the test images, every prediction, confusions; on the scenes also what the background does."""
    dataset = prepared.dataset
    if not prepared.settings.track_test:  # otherwise the last epoch has logged them
        yield Metrics({"test/loss": predictions.loss, "test/accuracy": predictions.accuracy}, epoch)
    if prepared.settings.test_flip:
        yield Metrics(dict(_accuracies_with_mirrors(prepared, model, predictions)), epoch)
    yield Table("predictions.parquet", evaluation.prediction_table(predictions, dataset.classes))
    counts = evaluation.confusion_matrix(predictions, len(dataset.classes))
    yield Picture("confusion.png", gallery.confusion(counts, dataset.classes))
    found = {
        name: predict(model, dataset.splits[name].images, dataset.splits[name].labels, prepared.machine.device)
        for name in BACKGROUNDS
        if name in dataset.splits
    }
    if found:
        yield Metrics(evaluation.shift(found), epoch)


def _accuracies_with_mirrors(
    prepared: Prepared, model: Network, predictions: Predictions
) -> Iterator[tuple[str, float]]:
    splits, device = prepared.dataset.splits, prepared.machine.device
    found = {SPLIT: evaluation.with_mirrors(predictions, model, splits[SPLIT].images, device)}
    if val := splits.get("val"):
        found["val"] = evaluation.predict_with_mirrors(model, val.images, val.labels, device)
    for name, averaged in found.items():
        yield f"{name}/accuracy_with_mirrors", averaged.accuracy


def iter_best_epoch(history: pd.DataFrame) -> Iterator[Metrics]:
    """The epoch that does best on the tracked test images: what a source may report, not an estimate."""
    if "test/accuracy" in history:
        best, accuracy = _best_epoch(history)
        found = {"test/best_accuracy": accuracy, "test/best_epoch": float(best)}
        yield Metrics(found, int(history.index[-1]))


def _best_epoch(history: pd.DataFrame) -> tuple[int, float]:
    """The epoch of the highest test accuracy, the first of equals, and that accuracy."""
    curve = history["test/accuracy"]
    return int(curve.index[int(curve.argmax())]), float(curve.max())


def curves_title(prepared: Prepared, history: pd.DataFrame) -> str:
    """The run's name, what its last and its best epoch reached where the test images were tracked, what train is of."""
    smoothing = prepared.settings.label_smoothing
    smoothed = f", labels smoothed by {smoothing:g}" if smoothing else ""
    what = f"train: mean over the epoch's steps, on augmented images{smoothed}"
    if "test/accuracy" not in history:
        return f"{prepared.name}\n{what}"
    (best, accuracy), last = _best_epoch(history), history["test/accuracy"].iloc[-1]
    found = f"{accuracy:.2%} in epoch {best}"
    reached = f"test accuracy {last:.2%} after the last epoch; best of {len(history)}: {found}"
    return f"{prepared.name}: {reached}\n{what}"


def iter_looks(
    prepared: Prepared, model: Network, chosen: Probes, own: Cams, predictions: Predictions, epoch: int
) -> Iterator[Record]:
    """Where it looks: measures of a sample of the test images, and its maps beside those of the images in `chosen`."""
    explaining, split = prepared.explaining, prepared.dataset.splits[SPLIT]
    looks = focus.measure(model, explaining.layers, split, predictions, explaining.method, prepared.machine.device)
    yield Metrics(focus.summary(looks.table), epoch)
    yield Table("cam_measures.parquet", looks.table)
    arrays = {"maps": own.maps.cpu().numpy(), "strength": own.strength.cpu().numpy()}
    arrays |= {"indices": chosen.indices, "labels": chosen.labels, "layers": np.array(own.layers)}
    yield Arrays("maps.npz", arrays | {"sample_indices": looks.indices, "sample_maps": looks.maps})


def iter_faithfulness(prepared: Prepared, model: Network, epoch: int) -> Iterator[Record]:
    """Whether the last layer's maps say what the network used, on fewer images."""
    explaining, split = prepared.explaining, prepared.dataset.splits[SPLIT]
    last = explaining.layers[-1]
    table = focus.faithfulness(model, last, split, explaining.method, prepared.machine.device)
    yield Metrics(focus.faithfulness_summary(table, last), epoch)
    yield Table("faithfulness.parquet", table)


def iter_probe_records(
    prepared: Prepared, chosen: Probes, maps: Mapping[str, Cams], predictions: Predictions, epoch: int
) -> Iterator[Record]:
    """The pictures of the images that every run explains."""
    classes, method, methods = prepared.dataset.classes, prepared.explaining.method, prepared.explaining.methods
    said = gallery.verdicts(predictions, chosen.indices, classes)
    own = maps[method]
    drawn = relative_to_mean(own.maps).cpu().numpy()
    for key, picture in zip(chosen.keys, gallery.keyed(chosen.images, drawn[-1], said, chosen.masks), strict=True):
        yield KeyedPicture(key, picture, epoch)
    title = f"{prepared.name}: {gallery.method_name(method)} of the images that every run explains"
    yield Picture(
        "gradcam/probes.png",
        gallery.layer_sheet(chosen.images, drawn, own.layers, chosen.labels, said, classes, title),
    )
    last = np.stack([relative_to_mean(maps[name].maps[-1]).cpu().numpy() for name in methods])
    title = f"{prepared.name}: CAM methods at {own.layers[-1]}"
    yield Picture(
        "gradcam/methods.png",
        gallery.layer_sheet(
            chosen.images, last, [gallery.method_name(name) for name in methods], chosen.labels, said, classes, title
        ),
    )


def iter_galleries(prepared: Prepared, model: Network, predictions: Predictions) -> Iterator[Record]:
    """Misclassified and correct test images, and where the network looks on them at every layer: of the misclassified
    on all, of the correct on half as many.
    """
    split, classes, size = prepared.dataset.splits[SPLIT], prepared.dataset.classes, prepared.settings.gallery_size
    explained = {"misclassified": size, "correct": (size + 1) // 2}
    for name, chosen in (("misclassified", ~predictions.right), ("correct", predictions.right)):
        indices = in_turn(split.labels, chosen, size)
        if not len(indices):
            continue
        title = f"{prepared.name}: {len(indices)} of {int(chosen.sum()):,} {name} test images"
        yield Picture(f"galleries/{name}.png", gallery.gallery(split.images, indices, predictions, classes, title))
        indices = indices[: explained[name]]
        title = f"{prepared.name}: {len(indices)} of {int(chosen.sum()):,} {name} test images"
        labels = split.labels[indices]
        found = _maps(prepared, model, indices, labels)
        yield Picture(f"gradcam/{name}.png", _sheet(prepared, predictions, indices, found, title))
        heats = _sheet(prepared, predictions, indices, found, f"{title}, the maps alone", tiles=gallery.heat_tiles)
        yield Picture(f"gradcam/{name}_heat.png", heats)
        if name == "misclassified":
            found = _maps(prepared, model, indices, predictions.classes[indices])
            footer = gallery.PREDICTED_EXPLAINED
            sheet = _sheet(prepared, predictions, indices, found, title, footer)
            yield Picture("gradcam/misclassified_predicted.png", sheet)


def _maps(
    prepared: Prepared, model: Network, indices: Int64[np.ndarray, "m"], explained: Int64[np.ndarray, "m"]
) -> Cams:
    """The maps of some test images at every layer, for the class in `explained` of each."""
    images = to_tensor(prepared.dataset.splits[SPLIT].images[indices])
    layers, method = prepared.explaining.layers, prepared.explaining.method
    return cams(model, images, layers, torch.from_numpy(explained), method=method)


def _sheet(
    prepared: Prepared,
    predictions: Predictions,
    indices: Int64[np.ndarray, "m"],
    found: Cams,
    title: str,
    footer: str = gallery.EXPLAINED,
    tiles: gallery.Tiles = map_tiles,
) -> gallery.Picture:
    """The maps beside their images, drawn by `tiles`."""
    split, classes = prepared.dataset.splits[SPLIT], prepared.dataset.classes
    said, drawn = gallery.verdicts(predictions, indices, classes), relative_to_mean(found.maps).cpu().numpy()
    images, labels = split.images[indices], split.labels[indices]
    return gallery.layer_sheet(images, drawn, found.layers, labels, said, classes, title, footer, tiles)
