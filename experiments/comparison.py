"""Several variants, one or more seeds each: what is missing is trained, then everything is laid side by side."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
import torch
from rich.console import Console
from rich.table import Table as Columns

from cam_core import relative_to_mean
from experiments import gallery, report, tracking, variant, views
from experiments.config import CompareSettings, SettingsError, Training
from experiments.data import Dataset
from experiments.evaluation import predictions_of
from experiments.probes import SPLIT, Probes, probes
from experiments.progress import Printer, shown
from experiments.records import KeyedPicture, Metrics, Param, Picture, Record, Table, Text
from experiments.statistics import paired_difference, sentence
from experiments.tracking import FinishedRun
from experiments.variant import Prepared


@dataclass(frozen=True)
class Measure:
    """A number of each run that the table shows: its metric (`last` is the last layer) and how it is written."""

    metric: str
    heading: str
    format: str
    meaning: str

    def key(self, run: FinishedRun) -> str:
        """The name of the run's metric."""
        return self.metric.replace("last", last_layer(run))

    def of(self, run: FinishedRun) -> float:
        """The run's value, NaN where it has no such number."""
        return run.metrics.get(self.key(run), math.nan)

    def written(self, mean: float, deviation: float, count: int, seeds: int) -> str:
        """The mean and standard deviation over the `count` runs that have a value; says so where not all `seeds` do."""
        if not count:
            return "none"
        text = self.format.format(mean)
        text = text if math.isnan(deviation) else f"{text} ± {self.format.format(deviation)}"
        return text if count == seeds else f"{text} (n={count})"


LONG = 60  # epochs from which nothing is said about the length of the training
SHORT = (
    "Cutout pays in long trainings (DeVries and Taylor 2017 train 200 epochs); in a short one (here epochs={epochs}) "
    "it can lower accuracy. This comparison says nothing about long ones."
)
COLUMNS = 4  # variants beside each other on a terminal of 80 columns

MEASURES = (
    Measure("test/accuracy", "test accuracy", "{:z.2%}", "share of the test images classified correctly"),
    Measure("val/accuracy", "val accuracy", "{:z.2%}", "the same on the validation images"),
    Measure(
        "shift/background_gap",
        "background gap",
        "{:z.1%}",
        "accuracy on the own class's background minus that on another's, same objects; 0 = background does not matter",
    ),
    Measure(
        "cam/last/focus",
        "focus index",
        "{:z.3f}",
        "where the last layer's map lies: 0 = as a uniform map, 1 = as the object itself at that resolution",
    ),
    Measure("cam/last/energy", "map on object", "{:z.1%}", "share of the last layer's map inside the object's mask"),
    Measure(
        "cam/last/coverage",
        "map area",
        "{:z.1%}",
        "share of the image where the last layer's map reaches half of its maximum; a size, not a quality",
    ),
)


@dataclass(frozen=True)
class Member:
    """A finished run of a comparison: which variant and seed it is."""

    variant: str
    seed: int
    run: FinishedRun
    reused: bool


@dataclass(frozen=True)
class Comparison:
    """The finished runs, what they were judged on, and the tables made of them."""

    members: tuple[Member, ...]
    dataset: Dataset
    probes: Probes
    runs: pd.DataFrame
    summary: pd.DataFrame
    sentences: tuple[str, ...]

    @property
    def variants(self) -> tuple[str, ...]:
        """The names, the one that the others are compared with first."""
        return tuple(dict.fromkeys(member.variant for member in self.members))

    @property
    def last_layers(self) -> tuple[str, ...]:
        """The deepest layer of each variant."""
        return tuple(last_layer(run) for run in self.first_seed().values())

    def first_seed(self) -> dict[str, FinishedRun]:
        """Of each variant the run with the lowest seed: those whose pictures are shown."""
        lowest = min(member.seed for member in self.members)
        return {member.variant: member.run for member in self.members if member.seed == lowest}


def compare(settings: CompareSettings, given: Mapping[str, object], trainings: Sequence[Training]) -> Comparison:
    """Trains what has no finished run yet, logs the comparison to a run of its own, and prints where to look.

    Raises:
        SettingsError: where two variants are the same training under two names.
    """
    dataset = variant.load_dataset(trainings[0].settings, Printer())
    prepared = [
        variant.prepare(training.settings, training.given, name=training.name, dataset=dataset)
        for training in trainings
    ]
    _refuse_same(trainings, prepared)
    name = comparison_name(settings, trainings, dataset)
    with tracking.open_run(kind="compare", name=name, tags={"camparison.dataset": dataset.name}) as run:
        run.log(
            Param(option, str(given.get(option, settings.default_text(option))))
            for option in type(settings).model_fields
        )
        members = train_missing(trainings, prepared, run.id)
        result = summarise(members, dataset)
        link = write_view(result, run.experiment_id, name)
        run.log(iter_records(result, name, link))
    print_result(result, link, tracking.file_address(run, "report.html"))
    return result


def comparison_name(settings: CompareSettings, trainings: Sequence[Training], dataset: Dataset) -> str:
    """What the comparison's run and view are called: what was compared, on what, for how long."""
    names = " vs ".join(dict.fromkeys(training.variant for training in trainings))
    recipes = "/".join(dict.fromkeys(training.settings.recipe for training in trainings))
    epochs = "/".join(str(n) for n in sorted({training.settings.epochs for training in trainings}))
    seeds = f"{settings.seeds} seeds" if settings.seeds > 1 else f"seed {settings.seed}"
    plural = "" if epochs == "1" else "s"
    return f"{names}: {dataset.name}, {recipes}, {epochs} epoch{plural}, {seeds}"


def _refuse_same(trainings: Sequence[Training], prepared: Sequence[Prepared]) -> None:
    seen: dict[str, str] = {}
    for training, ready in zip(trainings, prepared, strict=True):
        twin = seen.setdefault(ready.fingerprint, training.name)
        if twin != training.name:
            raise SettingsError([f"variants: {twin!r} and {training.name!r} are the same training; change or drop one"])


def train_missing(
    trainings: Sequence[Training], prepared: Sequence[Prepared], parent_run_id: str
) -> tuple[Member, ...]:
    """A finished run for each training: one with the same fingerprint where there is one, else a new child run."""
    found = [tracking.completed_run(ready.fingerprint) for ready in prepared]
    missing = [ready for ready, run in zip(prepared, found, strict=True) if run is None]
    members = []
    with shown(sum(variant.work(ready) for ready in missing)) as reporter:
        reporter.say(f"{len(missing)} of {len(prepared)} runs to train, {len(prepared) - len(missing)} finished before")
        for training, ready, run in zip(trainings, prepared, found, strict=True):
            done = run or variant.train(ready, reporter, parent_run_id=parent_run_id)
            members.append(Member(training.variant, training.settings.seed, done, reused=run is not None))
    return tuple(members)


def summarise(members: tuple[Member, ...], dataset: Dataset) -> Comparison:
    """The tables and sentences that follow from the finished runs."""
    rows = [
        {"variant": member.variant, "seed": member.seed, "run": member.run.id, "reused": member.reused}
        | {measure.metric: measure.of(member.run) for measure in MEASURES}
        for member in members
    ]
    runs = pd.DataFrame(rows).dropna(axis="columns", how="all")
    values = runs.drop(columns=["seed", "run", "reused"]).groupby("variant", sort=False)
    summary = values.agg(["mean", "std", "count"])
    first, *others = summary.index
    accuracy = {name: runs.loc[runs.variant == name, "test/accuracy"].tolist() for name in summary.index}
    sentences = [sentence(name, first, paired_difference(accuracy[name], accuracy[first])) for name in others]
    sentences += [SHORT.format(epochs=epochs) for epochs in _short_with_cutout(members)]
    return Comparison(members, dataset, probes(dataset), runs, summary, tuple(sentences))


def _short_with_cutout(members: Sequence[Member]) -> list[int]:
    """The length, in epochs, of the shortest training with Cutout, if that is short and others have none."""
    lengths = [int(m.run.params["resolved.epochs"]) for m in members if m.run.params["resolved.cutout"] == "true"]
    return [min(lengths)] if lengths and len(lengths) < len(members) and min(lengths) < LONG else []


def last_layer(run: FinishedRun) -> str:
    """The deepest layer that the run explained."""
    return run.params["resolved.layers"].split()[-1]


def iter_records(result: Comparison, name: str, link: str) -> Iterator[Record]:
    """Everything the comparison leaves in its MLflow run."""
    for measure in shown_measures(result):
        means = result.summary[measure.metric, "mean"]
        yield Metrics({f"{measure.metric}/{name}": float(mean) for name, mean in means.dropna().items()}, 0)
    yield Table("runs.csv", result.runs)
    yield Table("summary.csv", flat(result.summary))
    yield Table("differences.csv", differences(result))
    pictures = dict(iter_pictures(result))
    for path, picture in pictures.items():
        yield Picture(path, picture)
    address, hint = tracking.ui_address(link), tracking.ui_hint()
    page = report.html(name, result, table_rows(result), shown_measures(result), pictures, address, hint)
    yield Text("report.html", page)


def shown_measures(result: Comparison) -> list[Measure]:
    """The measures that this data set has."""
    return [measure for measure in MEASURES if measure.metric in result.runs]


def table_rows(result: Comparison) -> list[dict[str, str]]:
    """A row per variant, written out for people."""
    rows = []
    for name, row in result.summary.iterrows():
        seeds = int(row["test/accuracy", "count"])
        values = {
            measure.heading: measure.written(
                row[measure.metric, "mean"], row[measure.metric, "std"], int(row[measure.metric, "count"]), seeds
            )
            for measure in shown_measures(result)
        }
        rows.append({"variant": str(name), "seeds": str(seeds)} | values)
    return rows


def differences(result: Comparison) -> pd.DataFrame:
    """A row per measure and variant: its difference to the first variant, paired by seed, with the 95 % interval.

    `low` and `high` are NaN below three seeds. Measures that a run has not are left out.
    """
    first, *others = result.variants
    rows = []
    for measure in shown_measures(result):
        values = {name: table[measure.metric].tolist() for name, table in result.runs.groupby("variant")}
        for name in others:
            if not pd.isna([*values[name], *values[first]]).any():
                difference = paired_difference(values[name], values[first])
                named = {"measure": measure.metric, "variant": name, "against": first}
                rows.append(
                    named | asdict(difference) | {"per_seed": " ".join(f"{d:+.4f}" for d in difference.per_seed)}
                )
    return pd.DataFrame(rows)


def flat(summary: pd.DataFrame) -> pd.DataFrame:
    """The summary with one row of column names."""
    table = summary.copy()
    table.columns = [" ".join(names) for names in summary.columns]
    return table.reset_index()


def iter_pictures(result: Comparison) -> Iterator[tuple[str, gallery.Picture]]:
    """Path and picture: the maps side by side at the last layer and at each layer all variants have, and the curves."""
    arrays = {name: run.read_arrays("maps.npz") for name, run in result.first_seed().items()}
    said = {name: verdicts_of(result, run) for name, run in result.first_seed().items()}
    last = {name: maps["maps"][-1] for name, maps in arrays.items()}
    layers = [[str(layer) for layer in maps["layers"]] for maps in arrays.values()]
    deepest = " / ".join(dict.fromkeys(result.last_layers))
    yield "side_by_side.png", _sheet(result, last, said, f"{deepest}, the last layer")
    for layer in layers[0]:
        if all(layer in others for others in layers):
            at_layer = {name: maps["maps"][list(maps["layers"]).index(layer)] for name, maps in arrays.items()}
            yield f"side_by_side/{layer}.png", _sheet(result, at_layer, said, layer)
    title = "Training (dotted, on augmented images) and validation (solid), first seed"
    yield "curves.png", gallery.curves_of_runs(_histories(result), title)


def _sheet(
    result: Comparison,
    maps: Mapping[str, np.ndarray],
    said: Mapping[str, list[gallery.Verdict]],
    where: str,
) -> gallery.Picture:
    chosen = result.probes
    drawn = {name: relative_to_mean(torch.from_numpy(values)).numpy() for name, values in maps.items()}
    seed = min(member.seed for member in result.members)
    labels = [result.dataset.classes[label] for label in chosen.labels]
    return gallery.side_by_side(chosen.images, drawn, said, chosen.masks, labels, f"Maps at {where}, seed {seed}")


def verdicts_of(result: Comparison, run: FinishedRun) -> list[gallery.Verdict]:
    """What the finished run said of each probe image."""
    predictions = predictions_of(run.read_table("predictions.parquet"), result.dataset.classes)
    return gallery.verdicts(predictions, result.probes.indices, result.dataset.classes)


def _histories(result: Comparison) -> dict[str, pd.DataFrame]:
    keys = [f"{split}/{measure}" for split in ("train", "val") for measure in ("loss", "accuracy")]
    return {
        name: pd.DataFrame({key: dict(run.metric_history(key)) for key in keys})
        for name, run in result.first_seed().items()
    }


def write_view(result: Comparison, experiment_id: str, name: str) -> str:
    """Saves the view of the first seed's runs in MLflow and returns the link's last part."""
    runs = list(result.first_seed().values())
    step = max(map(_last_epoch, runs))
    for run in runs:
        # MLflow's grid shows one step: a shorter training must have its pictures there too.
        if step not in run.picture_steps():
            tracking.append(run.id, iter_keyed(result, run, step))
    curves = ["train/loss", "val/loss", "val/accuracy"]
    bars = sorted({measure.key(run) for measure in shown_measures(result) for run in runs})
    view = views.comparison_view(
        name,
        [run.id for run in runs],
        list(result.probes.keys),
        step,
        curves=curves,
        bars=bars,
        columns=["metrics.`test/accuracy`", "metrics.`val/accuracy`", "params.`resolved.cutout`"],
        hidden_metrics=sorted({key for run in runs for key in run.metrics} - {*curves, *bars}),
        colours=gallery.COLOURS,  # as in the curves' picture
    )
    return tracking.write_view(experiment_id, view)


def _last_epoch(run: FinishedRun) -> int:
    return run.metric_history("test/accuracy")[-1][0]


def iter_keyed(result: Comparison, run: FinishedRun, step: int) -> Iterator[KeyedPicture]:
    """The run's pictures for MLflow's image grid, as they were at its end, at another step."""
    chosen = result.probes
    drawn = relative_to_mean(torch.from_numpy(run.read_arrays("maps.npz")["maps"][-1])).numpy()
    pictures = gallery.keyed(chosen.images, drawn, verdicts_of(result, run), chosen.masks)
    for key, picture in zip(chosen.keys, pictures, strict=True):
        yield KeyedPicture(key, picture, step)


def print_result(result: Comparison, link: str, report_path: str) -> None:
    """The table, the sentences and where to look, on the terminal."""
    console = Console(soft_wrap=True, markup=False)
    rows = table_rows(result)
    images = len(result.dataset.splits[SPLIT])
    console.print(
        f"\n{result.dataset.name}, {images:,} test images; mean ± standard deviation over seeds", highlight=False
    )
    for start in range(0, len(rows), COLUMNS):
        console.print(_columns(rows[start : start + COLUMNS]))
    for text in result.sentences:
        console.print(text, highlight=False)
    console.print(f"\nside by side in MLflow{tracking.ui_hint()}:\n  {tracking.ui_address(link)}", highlight=False)
    console.print(f"report:\n  {report_path}", highlight=False)


def _columns(rows: Sequence[Mapping[str, str]]) -> Columns:
    """A column per variant: a row per variant would be wider than a terminal."""
    table = Columns("")
    for row in rows:
        table.add_column(row["variant"], justify="right", overflow="fold")
    for heading in list(rows[0])[1:]:
        table.add_row(heading, *(row[heading] for row in rows))
    return table
