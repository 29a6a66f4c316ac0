"""Several variants, one or more seeds each: what is missing is trained, then everything is laid side by side."""

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict

import numpy as np
import pandas as pd
import torch
from rich.console import Console
from rich.table import Table as Columns

from cam_core import relative_to_mean
from experiments import charts, gallery, outcomes, report, selection, tracking, variant, views
from experiments.config import CHOOSING, CompareSettings, Training
from experiments.data import Dataset
from experiments.evaluation import Predictions
from experiments.findings import Findings, Measure, Member, Pair
from experiments.probes import SPLIT
from experiments.progress import Printer, Reporter, shown
from experiments.records import KeyedPicture, Metrics, Param, Picture, Record, Table, Tag, Text
from experiments.tracking import FinishedRun
from experiments.variant import Prepared

COLUMNS = 4  # variants beside each other on a terminal of 80 columns
FINISHED = (*CHOOSING, "allow_same", "quiet", "data_dir")
AXES = 6  # settings, and measures, in the view's parallel coordinates: more cannot be told apart
NOTED = 6  # sentences in the note above the comparison's run, which the UI shows beside its name


def compare(settings: CompareSettings, given: Mapping[str, object], trainings: Sequence[Training]) -> Findings:
    """Trains what has no finished run yet, logs the comparison to a run of its own, and prints where to look.

    Raises:
        SettingsError: where two variants are the same training under two names.
    """
    reporter = Reporter() if settings.quiet else Printer()
    dataset = variant.load_dataset(trainings[0].settings, reporter)
    prepared = [
        variant.prepare(training.settings, training.given, name=training.name, dataset=dataset)
        for training in trainings
    ]
    selection.refuse_same(trainings, prepared, allow_same=settings.allow_same)
    name = comparison_name(settings, trainings, dataset)
    with tracking.open_run(kind="compare", name=name, tags={"camparison.dataset": dataset.name}) as run:
        run.log(iter_options(settings, given))
        findings = Findings(train_missing(trainings, prepared, run.id, quiet=settings.quiet), dataset)
        link = conclude(run, findings, name, given)
    announce(findings, link, run, quiet=settings.quiet)
    return findings


def compare_finished(settings: CompareSettings, given: Mapping[str, object]) -> Findings:
    """Compares the finished runs that `runs` or `filter` names; trains nothing.

    Raises:
        SettingsError: where they cannot be compared, with the reason.
    """
    members = selection.members(settings)
    dataset = selection.load_dataset(members, settings, Reporter() if settings.quiet else Printer())
    findings = Findings(members, dataset)
    name = f"{' vs '.join(findings.variants)}: {dataset.name}, {len(members)} finished runs"
    with tracking.open_run(kind="compare", name=name, tags={"camparison.dataset": dataset.name}) as run:
        run.log(iter_options(settings, given))
        link = conclude(run, findings, name, given)
    announce(findings, link, run, quiet=settings.quiet)
    return findings


def iter_options(settings: CompareSettings, given: Mapping[str, object]) -> Iterator[Record]:
    """The options as they were given; of finished runs only those that matter for them."""
    options = FINISHED if settings.finished_by else tuple(type(settings).model_fields)
    for option in options:
        yield Param(option, str(given.get(option, settings.default_text(option))))


def conclude(run: tracking.Run, findings: Findings, name: str, given: Mapping[str, object]) -> str:
    """Saves the view and logs everything the comparison leaves in its run; the last part of the view's link."""
    link = write_view(findings, run.experiment_id, name)
    run.log(iter_records(findings, name, link, given))
    return link


def comparison_name(settings: CompareSettings, trainings: Sequence[Training], dataset: Dataset) -> str:
    """What the comparison's run and view are called: what was compared, on what, for how long."""
    names = " vs ".join(dict.fromkeys(training.variant for training in trainings))
    recipes = "/".join(dict.fromkeys(training.settings.recipe for training in trainings))
    epochs = "/".join(str(n) for n in sorted({training.settings.epochs for training in trainings}))
    seeds = f"{settings.seeds} seeds" if settings.seeds > 1 else f"seed {settings.seed}"
    plural = "" if epochs == "1" else "s"
    return f"{names}: {dataset.name}, {recipes}, {epochs} epoch{plural}, {seeds}"


def train_missing(
    trainings: Sequence[Training], prepared: Sequence[Prepared], parent_run_id: str, *, quiet: bool = False
) -> tuple[Member, ...]:
    """A finished run for each training: one with the same fingerprint where there is one, else a new child run."""
    found = [tracking.completed_run(ready.fingerprint) for ready in prepared]
    missing = [ready for ready, run in zip(prepared, found, strict=True) if run is None]
    members: list[Member] = []
    trained: dict[str, FinishedRun] = {}
    with nullcontext(Reporter()) if quiet else shown(sum(variant.work(ready) for ready in missing)) as reporter:
        reporter.say(f"{len(missing)} of {len(prepared)} runs to train, {len(prepared) - len(missing)} finished before")
        for training, ready, run in zip(trainings, prepared, found, strict=True):
            # One training under two names, as allow_same permits, is done once.
            done = run or trained.get(ready.fingerprint) or variant.train(ready, reporter, parent_run_id=parent_run_id)
            trained[ready.fingerprint] = done
            members.append(Member(training.variant, training.settings.seed, done, reused=run is not None))
    return tuple(members)


def iter_records(findings: Findings, name: str, link: str, given: Mapping[str, object]) -> Iterator[Record]:
    """Everything the comparison leaves in its MLflow run."""
    for measure in findings.measures:
        means = findings.summary[measure.metric, "mean"]
        yield Metrics({f"{measure.metric}/{name}": float(mean) for name, mean in means.dropna().items()}, 0)
    for row in findings.differences.to_dict("records"):
        yield Metrics({f"difference/{row['measure']}/{row['variant']}": float(row["mean"])}, 0)
    yield from iter_tables(findings)
    pictures = dict(iter_pictures(findings))
    for path, picture in pictures.items():
        yield Picture(path, picture)
    address, hint = tracking.ui_address(link), tracking.ui_hint()
    sentences = [f"**{answer.question}** {answer.sentence}" for answer in findings.answers[:NOTED]]
    yield Tag(tracking.NOTE, "\n\n".join([*sentences, f"[Pictures side by side]({link})"]))
    yield Text("comparison.json", json.dumps(summary_for_machines(findings, name, address), indent=2))
    # MLflow passes every option, most with their defaults.
    by_hand = {option: value for option, value in given.items() if str(value) != CompareSettings.default_text(option)}
    words = [word for option, value in by_hand.items() for word in (f"--{option}", str(value))]
    page = report.html(
        name,
        findings,
        table_rows(findings),
        pictures,
        address,
        hint,
        command=shlex.join(["python", "-m", "experiments.compare", *words]),
        chosen=" ".join(f"{option}={by_hand[option]}" for option in CHOOSING if option in by_hand),
    )
    yield Text("report.html", page)


def iter_tables(findings: Findings) -> Iterator[Table]:
    """Every table as CSV; the two that people read first also where MLflow's UI shows tables."""
    tables = {
        "runs": findings.runs,
        "summary": flat(findings.summary),
        "differences": findings.differences,
        "where": findings.where,
        "look_differences": findings.look_differences,
        "classes": findings.classes,
        "networks": findings.networks,
        "agreement": findings.agreement,
    }
    for name, table in tables.items():
        if len(table):
            yield Table(f"{name}.csv", table.assign(per_seed=_per_seed(table)) if "per_seed" in table else table)
    for name in ("summary", "differences"):
        yield Table(f"tables/{name}.json", tables[name].drop(columns="per_seed", errors="ignore"))


def _per_seed(table: pd.DataFrame) -> list[str]:
    return [" ".join(f"{value:+.4f}" for value in values) for values in table["per_seed"]]


def summary_for_machines(findings: Findings, name: str, link: str) -> dict[str, object]:
    """The comparison as JSON: what was compared, the numbers of the tables, and the sentences."""
    return {
        "name": name,
        "link": link,
        "dataset": {"name": findings.dataset.name, "digest": findings.dataset.digest},
        "variants": list(findings.variants),
        "runs": _records(findings.runs),
        "summary": _records(flat(findings.summary)),
        "differences": _records(findings.differences),
        "primary": [
            {"variant": primary.pair.variant, "against": primary.pair.against, "quantity": primary.quantity.name}
            | asdict(primary.difference)
            | {"p_holm": primary.p_holm}
            for primary in findings.primary
        ],
        "look_differences": _records(findings.look_differences),
        "classes": _records(findings.classes),
        "networks": _records(findings.networks),
        "agreement": _records(findings.agreement),
        "calibration": {
            name: [{"ece": found.ece, "brier": found.brier} for found in several]
            for name, several in findings.calibrations.items()
        },
        "answers": [{"question": answer.question, "sentence": answer.sentence} for answer in findings.answers],
    }


def _records(table: pd.DataFrame) -> list[dict[str, object]]:
    """The rows, with null where there is no number, which JSON cannot write."""
    return json.loads(table.to_json(orient="records", double_precision=15))


def table_rows(findings: Findings) -> list[dict[str, str]]:
    """A row per variant, written out for people."""
    rows = []
    for name, row in findings.summary.iterrows():
        seeds = int(row["test/accuracy", "count"])
        values = {measure.heading: _written(measure, row, seeds) for measure in findings.measures}
        rows.append({"variant": str(name), "seeds": str(seeds)} | values)
    return rows


def _written(measure: Measure, row: pd.Series, seeds: int) -> str:
    mean, deviation, count = (row[measure.metric, column] for column in ("mean", "std", "count"))
    return measure.written(mean, deviation, int(count), seeds)


def flat(summary: pd.DataFrame) -> pd.DataFrame:
    """The summary with one row of column names."""
    table = summary.copy()
    table.columns = [" ".join(names) for names in summary.columns]
    return table.reset_index()


def iter_pictures(findings: Findings) -> Iterator[tuple[str, gallery.Picture]]:
    """Path and picture: maps side by side at every layer that all variants have, what changed, means, and charts."""
    yield from iter_sheets(findings)
    for pair in findings.pairs:
        yield f"changed/{pair.variant}.png", _changed(findings, pair)
    yield from iter_means(findings)
    yield from iter_charts(findings)


def iter_sheets(findings: Findings) -> Iterator[tuple[str, gallery.Picture]]:
    """The maps of each variant's first seed beside each other, at the last layer and at each that all variants have."""
    runs = findings.first_seed
    arrays = {name: run.read_arrays("maps.npz") for name, run in runs.items()}
    said = {name: verdicts_of(findings, run) for name, run in runs.items()}
    layers = [[str(layer) for layer in maps["layers"]] for maps in arrays.values()]
    deepest = " / ".join(dict.fromkeys(findings.last_layers))
    last = {name: maps["maps"][-1] for name, maps in arrays.items()}
    yield "side_by_side.png", _sheet(findings, last, said, f"{deepest}, the last layer")
    for layer in layers[0]:
        if all(layer in others for others in layers):
            at_layer = {name: maps["maps"][list(maps["layers"]).index(layer)] for name, maps in arrays.items()}
            yield f"side_by_side/{layer}.png", _sheet(findings, at_layer, said, layer)


def _sheet(
    findings: Findings, maps: Mapping[str, np.ndarray], said: Mapping[str, list[gallery.Verdict]], where: str
) -> gallery.Picture:
    chosen = findings.probes
    drawn = {name: _relative(values) for name, values in maps.items()}
    title = f"Maps at {where}, {findings.seeds_shown}"
    return gallery.side_by_side(chosen.images, drawn, said, chosen.masks, findings.probe_labels, title)


def _relative(maps: np.ndarray) -> np.ndarray:
    return relative_to_mean(torch.from_numpy(maps.astype(np.float32))).numpy()


def verdicts_of(findings: Findings, run: FinishedRun) -> list[gallery.Verdict]:
    """What the finished run said of each probe image."""
    return gallery.verdicts(findings.predictions(run), findings.probes.indices, findings.dataset.classes)


def _changed(findings: Findings, pair: Pair) -> gallery.Picture:
    """The page of what changed between the pair's first seeds."""
    networks, split = {}, findings.dataset.splits[SPLIT]
    for name in (pair.against, pair.variant):
        run = findings.first_seed[name]
        arrays, said = run.read_arrays("maps.npz"), findings.predictions(run)
        indices = arrays["sample_indices"]
        predictions = Predictions(said.logits[indices], said.labels[indices])
        networks[name] = outcomes.Network(predictions, arrays["sample_maps"].astype(np.float32))
    masks = None if split.masks is None else split.masks[indices]
    title = f"{pair.variant} against {pair.against}, {findings.seeds_shown}: what changed"
    return outcomes.changed(split.images[indices], networks, masks, findings.dataset.classes, title)


def iter_means(findings: Findings) -> Iterator[tuple[str, gallery.Picture]]:
    """What the maps of all seeds have in common: on the images that every run explains, and class by class."""
    chosen, split = findings.probes, findings.dataset.splits[SPLIT]
    arrays = {name: [member.run.read_arrays("maps.npz") for member in findings.of(name)] for name in findings.variants}
    seeds = max(len(some) for some in arrays.values())
    if seeds > 1:
        maps = {name: np.stack([_relative(own["maps"][-1]) for own in some]) for name, some in arrays.items()}
        title = "Maps at the last layer, mean and spread over seeds"
        yield "over_seeds.png", outcomes.over_seeds(chosen.images, maps, chosen.masks, findings.probe_labels, title)
    indices = next(iter(arrays.values()))[0]["sample_indices"]
    maps_of = {name: [own["sample_maps"].astype(np.float32) for own in some] for name, some in arrays.items()}
    title = f"Mean map of {len(indices):,} test images at the last layer"
    images, labels = split.images[indices], split.labels[indices]
    yield "mean_maps.png", outcomes.mean_maps(images, labels, maps_of, findings.dataset.classes, title)


def iter_charts(findings: Findings) -> Iterator[tuple[str, gallery.Picture]]:
    """Differences with their intervals, every run, curves, reliability, classes, and how alike maps are."""
    quantities = {measure.metric: measure.quantity for measure in findings.measures}
    if len(findings.differences):
        yield "charts/forest.png", charts.forest(findings.differences, quantities)
    yield "charts/seeds.png", charts.seeds(findings.runs, quantities)
    yield "charts/curves.png", charts.curves(histories(findings))
    yield "charts/reliability.png", charts.reliability(findings.calibrations)
    yield "charts/classes.png", charts.per_class(findings.classes)
    if len(findings.agreement):
        yield "charts/agreement.png", charts.agreement(findings.agreement)


def histories(findings: Findings) -> dict[str, list[pd.DataFrame]]:
    """Loss and accuracy per epoch of every run, by variant."""
    keys = [f"{split}/{measure}" for split in ("train", _followed(findings)) for measure in ("loss", "accuracy")]
    return {
        name: [
            pd.DataFrame({key: dict(member.run.metric_history(key)) for key in keys}) for member in findings.of(name)
        ]
        for name in findings.variants
    }


def _followed(findings: Findings) -> str:
    """The split whose curves are drawn: test where no run kept validation images apart."""
    return "val" if any("val/accuracy" in member.run.metrics for member in findings.members) else "test"


def write_view(findings: Findings, experiment_id: str, name: str) -> str:
    """Saves the view of the runs in MLflow and returns the link's last part; of too many runs one for each variant."""
    shown_runs = findings.shown_in_grid(views.MAX_RUNS_IN_GRID)
    runs = [member.run for member in shown_runs]
    step = max(map(_last_epoch, runs))
    for run in runs:
        # MLflow's grid shows one step: a shorter training must have its pictures there too.
        if step not in run.picture_steps():
            tracking.append(run.id, iter_keyed(findings, run, step))
    followed = _followed(findings)
    curves = ["train/loss", f"{followed}/loss", f"{followed}/accuracy"]
    bars = sorted({measure.key(run) for measure in findings.measures for run in runs})
    colours = dict(zip(findings.variants, gallery.COLOURS, strict=False))
    view = views.comparison_view(
        name if len(shown_runs) == len(findings.members) else f"{name} (the run of median accuracy of each)",
        [run.id for run in runs],
        list(findings.probes.keys),
        step,
        curves=curves,
        bars=bars,
        columns=[
            "metrics.`test/accuracy`",
            *(["metrics.`val/accuracy`"] if followed == "val" else []),
            "params.`resolved.cutout`",
            "params.`resolved.seed`",
        ],
        hidden_metrics=sorted({key for run in runs for key in run.metrics} - {*curves, *bars}),
        colours=[colours[member.variant] for member in shown_runs],  # as in the charts
        parallel=(_varied(runs), list(dict.fromkeys(measure.key(runs[0]) for measure in findings.measures))[:AXES]),
    )
    return tracking.write_view(experiment_id, view)


def _varied(runs: Sequence[FinishedRun]) -> list[str]:
    """The settings in which the runs differ."""
    names = [name for name in runs[0].params if name.startswith("resolved.")]
    return [name for name in names if len({run.params.get(name) for run in runs}) > 1][:AXES]


def _last_epoch(run: FinishedRun) -> int:
    return run.metric_history("test/accuracy")[-1][0]


def iter_keyed(findings: Findings, run: FinishedRun, step: int) -> Iterator[KeyedPicture]:
    """The run's pictures for MLflow's image grid, as they were at its end, at another step."""
    chosen = findings.probes
    drawn = _relative(run.read_arrays("maps.npz")["maps"][-1])
    pictures = gallery.keyed(chosen.images, drawn, verdicts_of(findings, run), chosen.masks)
    for key, picture in zip(chosen.keys, pictures, strict=True):
        yield KeyedPicture(key, picture, step)


def announce(findings: Findings, link: str, run: tracking.Run, *, quiet: bool) -> None:
    """The table, the sentences and where to look, on the terminal; for scripts only where the JSON is."""
    if quiet:
        print(tracking.file_address(run, "comparison.json"))
        return
    console = Console(soft_wrap=True, markup=False)
    rows = table_rows(findings)
    images = len(findings.dataset.splits[SPLIT])
    console.print(
        f"\n{findings.dataset.name}, {images:,} test images; mean ± standard deviation over seeds", highlight=False
    )
    for start in range(0, len(rows), COLUMNS):
        console.print(_columns(rows[start : start + COLUMNS]))
    for answer in findings.answers:
        console.print(f"{answer.question} {answer.sentence}", highlight=False)
    console.print(f"\nside by side in MLflow{tracking.ui_hint()}:\n  {tracking.ui_address(link)}", highlight=False)
    console.print(f"report:\n  {tracking.file_address(run, 'report.html')}", highlight=False)


def _columns(rows: Sequence[Mapping[str, str]]) -> Columns:
    """A column per variant: a row per variant would be wider than a terminal."""
    table = Columns("")
    for row in rows:
        table.add_column(row["variant"], justify="right", overflow="fold")
    for heading in list(rows[0])[1:]:
        table.add_row(heading, *(row[heading] for row in rows))
    return table
