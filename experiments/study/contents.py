"""What a study records: tables, charts, database, best settings, the comparison of winner and baseline, and a view."""

import json
import math
import shlex
import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path

from ..comparison import compare
from ..comparison.findings import Findings, Member
from ..data.dataset import Dataset
from ..explaining.probes import probes
from ..pictures.style import COLOURS
from ..runs.contents import config
from ..settings.recipes import as_toml
from ..settings.train import TrainSettings
from ..settings.variants import OWN
from ..system.secrets import without_password
from ..tracking import views
from ..tracking.client import NOTE
from ..tracking.lifetime import is_there
from ..tracking.reading import finished_run
from ..tracking.records import File, Metrics, Picture, Record, Table, Tag, Text
from ..tracking.ui import save_view, ui_address
from ..tracking.writing import Run
from . import charts
from .ledger import Ledger
from .results import Final, Results
from .settings import HOLE_OPTIONS, TuneSettings, common_options
from .space import Options, as_words
from .worker import metric_of

IN_VIEW = 50  # runs in the saved view; with more, MLflow does not store it
OTHERS = "#8c96a3"  # the colour of runs that are neither baseline nor winner


def conclude(run: Run, ledger: Ledger, found: Results, dataset: Dataset) -> str:
    """Saves the view and logs all records of the study; returns the last part of the link to the view."""
    link = write_view(run, found, dataset)
    run.log(list(iter_records(ledger, found, link)))
    if found.compared:
        title = f"study {found.settings.study}: confirmed"
        run.log(compare.iter_records(found.compared, title, link, {"study": found.settings.study}))
    # After the comparison, whose note it replaces.
    run.log([Tag(NOTE, note(found, link))])
    return link


def iter_records(ledger: Ledger, found: Results, link: str) -> Iterator[Record]:
    """Tables, charts, the database or its address, the best settings, metrics, and `tuning.json` for programs."""
    settings = found.settings
    for name, table in (("trials", found.table), ("candidates", found.standing)):
        if len(table):
            yield Table(f"{name}.csv", table)
            yield Table(f"tables/{name}.json", table)
    baselines = {
        candidate.name: candidate.search_score
        for candidate in found.candidates
        if candidate.search_scores and not candidate.name.startswith("trial ")
    }
    for path, picture in charts.iter_charts(ledger.search, settings.goals, baselines):
        yield Picture(path, picture)
    yield from iter_database(settings.storage)
    states = found.table["state"].tolist() if len(found.table) else []
    values = {f"tune/{state.replace(' ', '_')}": float(states.count(state)) for state in states}
    if found.best:
        yield Text("best.txt", f"{command(found.best.options, settings)}\n")
        summary = f"{found.best.name} of study {settings.study}"
        chosen = {"image_size": settings.image_size, "batch_size": settings.batch_size}  # by `auto`, for these images
        recipe = TrainSettings.of(**common_options(settings) | chosen | as_words(found.best.options)).recipe_values
        yield Text("best.toml", as_toml(summary, recipe))
        values["tune/search_score"] = found.best.search_score
    if (gain := found.gain) and found.final:
        values |= {"tune/gain": gain.mean, "tune/pairs": float(len(found.final.seeds))}
        bounds = {"tune/gain_low": gain.low, "tune/gain_high": gain.high}
        values |= {name: bound for name, bound in bounds.items() if bound is not None}
    if found.over_claim is not None:
        values["tune/over_claim"] = found.over_claim
    yield Metrics({name: value for name, value in values.items() if math.isfinite(value)}, 0)
    yield Text("tuning.json", json.dumps(for_machines(found, link), indent=2))


def iter_database(storage: str) -> Iterator[Record]:
    """A copy of the SQLite file as it is now, or the address of the server."""
    if not storage.startswith("sqlite"):
        yield Text("storage.txt", f"{without_password(storage)}\n")
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "study.db"
        source, target = sqlite3.connect(storage.removeprefix("sqlite:///")), sqlite3.connect(copy)
        with closing(source), closing(target):
            source.backup(target)
        yield File("study.db", copy.read_bytes())


def command(options: Options, settings: TuneSettings) -> str:
    """The command that trains these settings."""
    given = {name: text for name, text in common_options(settings).items() if name != "data_dir"}
    words = [f"-P {name}={shlex.quote(text)}" for name, text in (given | as_words(options)).items()]
    return " ".join(["mlflow run .", *words])


def for_machines(found: Results, link: str) -> dict[str, object]:
    """The study as JSON: the numbers, the verdict, the best settings."""
    final, gain = found.final, found.gain
    return {
        "study": found.settings.study,
        "link": ui_address(link),
        "objectives": list(found.settings.goals),
        "verdict": found.verdict,
        "shown": found.shown,
        "best": None if found.best is None else {"name": found.best.name, "options": dict(found.best.options)},
        "command": command(found.best.options, found.settings) if found.best else None,
        "over_claim": found.over_claim,
        "final": final and {"seeds": final.seeds} | _sides(final, found.settings.goals),
        "gain": gain and {"mean": gain.mean, "low": gain.low, "high": gain.high, "per_seed": gain.per_seed},
        "candidates": json.loads(found.standing.to_json(orient="records", double_precision=15)),
        "trials": json.loads(found.table.to_json(orient="records", double_precision=15)),
    }


def _sides(final: Final, goals: Sequence[str]) -> dict[str, object]:
    return {
        name: {
            "objectives": {goal: of[place] for goal, of in zip(goals, final.goals, strict=True)},
            "test/accuracy": final.test[place],
            "runs": final.runs[place],
        }
        for place, name in enumerate(("winner", "baseline"))
    }


def note(found: Results, link: str) -> str:
    """The text at the top of the page of the run."""
    lines = [*found.verdict]
    if found.best:
        lines.append(f"`{command(found.best.options, found.settings)}`")
    return "\n\n".join([*lines, f"[Pictures side by side]({link})"])


def findings_of(final: Final, dataset: Dataset) -> Findings:
    """The comparison of winner and baseline as two variants."""
    members = [
        Member(name, seed, finished_run(run), reused=False)
        for name, runs in final.sides
        for seed, run in zip(final.seeds, runs, strict=True)
    ]
    return Findings(tuple(members), dataset)


def write_view(run: Run, found: Results, dataset: Dataset) -> str:
    """Saves the view and returns the last part of its link; without completed runs, that of the page of the run.

    Baseline and winner come first, then the trials of the search, the best first.
    """
    goal = found.settings.goals[0]
    finals = [run for pair in zip(*reversed(found.final.runs), strict=True) for run in pair] if found.final else []
    completed, searched = found.table, []
    if len(found.table):
        completed = found.table[found.table["state"] == "complete"]
        searched = completed.sort_values(goal, ascending=not found.higher, kind="stable")["run"].tolist()
    there = (run_id for run_id in dict.fromkeys([*finals, *searched]) if is_there(run_id))
    shown_runs = list(islice(there, IN_VIEW))
    if not shown_runs:
        return f"#/experiments/{run.experiment_id}/runs/{run.id}"
    # The UI draws the last ten columns, in their order.
    columns = [*reversed(shown_runs[views.MAX_RUNS_IN_GRID :]), *shown_runs[: views.MAX_RUNS_IN_GRID]]
    # Baseline and winner have the colours of the charts of a comparison.
    known = {OWN: COLOURS[0]} | ({found.final.winner.name: COLOURS[1]} if found.final else {})
    name_of = dict(zip(completed["run"], completed["name"], strict=True))
    metrics = [metric_of(name) for name in found.settings.goals]
    first = finished_run(shown_runs[0])
    curves = [key for key in ("train/loss", "val/loss", "val/accuracy") if key in first.metrics]
    bars = list(dict.fromkeys([*metrics, "test/accuracy"]))
    settings = [f"resolved.{name}" for name in HOLE_OPTIONS]
    view = views.comparison_view(
        f"study {found.settings.study}: {dataset.name}",
        columns,
        list(probes(dataset).keys),
        config(first).settings.epochs,
        curves=curves,
        bars=bars,
        columns=[*(f"metrics.`{name}`" for name in bars), *(f"params.`{name}`" for name in settings)],
        hidden_metrics=sorted(first.metrics.keys() - {*curves, *bars}),
        colours=[known.get(name_of[run_id], OTHERS) for run_id in columns],
        parallel=(settings, bars),
    )
    return save_view(run.experiment_id, view)
