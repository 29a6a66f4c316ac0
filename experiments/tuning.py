"""A study from its first ticket to its verdict: opened, worked off by one or more processes, written into its run."""

import json
import math
import os
import shlex
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as Columns

from experiments import comparison, focus, gallery, study_charts, tracking, variant, views
from experiments.config import OWN, SettingsError, TrainSettings
from experiments.data import Dataset
from experiments.findings import Findings, Member
from experiments.ledger import Ledger, open_storage, telling_of_loss
from experiments.probes import probes
from experiments.processes import cores
from experiments.progress import Printer, Reporter, shown
from experiments.race import SEARCH_SHARE, next_stage
from experiments.recipes import as_toml
from experiments.records import File, Metrics, Param, Picture, Record, Table, Tag, Text
from experiments.space import Options, as_words
from experiments.study_results import Final, Results, results, trials, written
from experiments.study_worker import Worker, metric_of
from experiments.tune_settings import (
    HOLE_OPTIONS,
    STORAGE,
    StudyError,
    TuneSettings,
    common_options,
    without_password,
)

IN_VIEW = 50  # runs in the saved view: more make it longer than MLflow keeps
OTHERS = "#8c96a3"  # colour of what is neither baseline nor winner
LOOK_S = 1.0  # between two looks at what the workers have done
QUICK_DEATHS = 20  # in a row, after which a worker is not started again
QUICK_S = 30.0
STOP_S = 30.0  # for workers to close their runs


def tune(settings: TuneSettings, given: Mapping[str, object]) -> Results:
    """Carries the study on until it owes nothing, logs it to a run of its own, and prints the verdict.

    Raises:
        SettingsError, DataError, StudyError: the study cannot be started as asked; nothing is created then.
    """
    reporter = Printer()
    refuse_password_in_mlflow(settings)
    if not settings.storage.startswith("sqlite"):
        open_storage(settings.storage, settings.heartbeat)  # asked first: it answers, or not, within seconds
    dataset = variant.load_dataset(settings, reporter)
    check(settings, given, dataset)
    with telling_of_loss(settings.storage):
        ledger = Ledger.create(
            settings.study,
            settings.storage,
            settings.heartbeat,
            definition(settings, dataset),
            settings.directions,
        )
        commission(ledger, settings, given)
    reporter.say(f"searches {settings.space}")
    name = f"study {settings.study}: {dataset.name}, {settings.recipe}, {' and '.join(settings.goals)}"
    tags = {"camparison.dataset": dataset.name}
    with tracking.open_run(kind="tune", name=name, tags=tags) as run, telling_of_loss(settings.storage):
        run.log(iter_options(settings, given))
        adopt(ledger, run.id)
        work_off(ledger, settings, given, dataset)
        adopt(ledger, run.id)  # what others trained meanwhile
        found = results(ledger, settings)
        link = conclude(run, ledger, found, given, dataset)
    announce(found, given, link, run)
    return found


def definition(settings: TuneSettings, dataset: Dataset) -> dict[str, str]:
    """What makes two studies of one name the same, the images included."""
    return settings.definition() | {"dataset": dataset.name, "images": dataset.digest}


def refuse_password_in_mlflow(settings: TuneSettings) -> None:
    """Returns where no password is given to `mlflow run`, which writes every option into the run for all to see.

    Raises:
        SettingsError: one is.
    """
    shown_address = without_password(settings.storage)
    if "MLFLOW_RUN_ID" in os.environ and shown_address != settings.storage:
        raise SettingsError(
            [
                f"storage={shown_address}: MLflow shows every -P to everyone; "
                "change this password, delete the run, and give the new one as PGPASSWORD or in ~/.pgpass"
            ]
        )


def check(settings: TuneSettings, given: Mapping[str, object], dataset: Dataset) -> None:
    """Returns where every baseline can be trained and every objective measured.

    Raises:
        SettingsError: with the reasons.
    """
    problems = []
    for name, options in settings.baseline_options().items():
        try:
            own = TrainSettings.of(
                **common_options(settings, given) | dict(as_words(options)) | {"seed": settings.seed}
            )
        except SettingsError as error:
            problems += [f"baseline {name}: {problem}" for problem in error.problems]
    if problems:
        raise SettingsError(problems)
    prepared = variant.prepare(own, given, dataset=dataset)
    masks = dataset.splits["val"].masks is not None
    for goal in settings.goals:
        _, _, rest = goal.partition("cam/")
        layer, _, measure = rest.rpartition("/")
        if rest and layer not in prepared.explaining.layers:
            there = ", ".join(prepared.explaining.layers)
            problems.append(f"objective {goal}: layer {layer!r} is not explained; there is: {there}")
        if rest and measure in focus.ON_OBJECT and not masks:
            problems.append(f"objective {goal}: {dataset.name} has no masks of the objects; take coverage or entropy")
    refuse_short_grid(settings)
    if problems:
        raise SettingsError(problems)


def refuse_short_grid(settings: TuneSettings) -> None:
    """Returns where the search has enough points for its budget, which a grid may not have.

    Raises:
        SettingsError: it has fewer.
    """
    search = next_stage(settings.trials, 0, confirm=settings.confirm).search
    most = settings.space.points + len(settings.baseline_options())
    if settings.sampler in ("grid", "brute_force") and search > most:
        few = f"trials={settings.trials}: {settings.sampler} has {most} different trainings at most, and {search} are"
        raise SettingsError([f"{few} for the search; give fewer, or a larger space"])


def commission(ledger: Ledger, settings: TuneSettings, given: Mapping[str, object]) -> None:
    """Asks the study for as many trainings as the settings say, in all, and sets its clock."""
    with ledger.locked():
        # Every worker brings the address itself, which may hold a password.
        kept = {name: str(value) for name, value in given.items() if name not in ("storage", "workers")}
        ledger.search.set_user_attr("given", kept)
        if settings.trials > ledger.planned:
            ledger.add_stage(next_stage(settings.trials, ledger.planned, confirm=settings.confirm))
        hours = settings.hours
        start = time.time()
        ledger.search.set_user_attr("search_until", None if hours == "none" else start + 3600 * SEARCH_SHARE * hours)
        ledger.search.set_user_attr("until", None if hours == "none" else start + 3600 * hours)


def iter_options(settings: TuneSettings, given: Mapping[str, object]) -> Iterator[Record]:
    """The options as they were given; of the storage without a password."""
    for option in type(settings).model_fields:
        value = str(given.get(option, settings.default_text(option)))
        yield Param(option, without_password(value) if option == "storage" else value)


def adopt(ledger: Ledger, run_id: str) -> None:
    """The study's trainings so far, and all that follow, hang below this run."""
    ledger.parent = run_id
    tracking.set_parent(_runs_of(ledger), run_id)


def _runs_of(ledger: Ledger) -> list[str]:
    attempts = [*ledger.search.get_trials(deepcopy=False), *ledger.confirmation.get_trials(deepcopy=False)]
    own = [trial for trial in attempts if "run" in trial.user_attrs and not trial.user_attrs.get("reused")]
    return list(dict.fromkeys(trial.user_attrs["run"] for trial in own))


# Working it off


def work_off(ledger: Ledger, settings: TuneSettings, given: Mapping[str, object], dataset: Dataset) -> None:
    """Returns when the study owes nothing more."""
    settled = sum(ticket.settled for study in (ledger.search, ledger.confirmation) for ticket in ledger.tickets(study))
    planned = ledger.planned
    if settled:
        goes_on = "carries on" if settled < planned else "is complete"
        asked = f", more than trials={settings.trials}" if settings.trials < planned else ""
        print(f"study {ledger.name} {goes_on}: {settled} of {planned} trainings are done{asked}", flush=True)
    with shown(max(planned - settled, 1)) as reporter:
        watch = Watch(ledger, settings, reporter)
        if settings.workers == 1:
            quiet = _Stages(reporter)
            Worker(ledger, settings, given, dataset, quiet, watch.look).work()
        else:
            Processes(settings).run(watch)
    tracking.sweep_stale()


class _Stages(Reporter):
    """Passes on what is being done, but not its steps: the bar counts trainings."""

    def __init__(self, reporter: Reporter) -> None:
        self.stage = reporter.stage  # type: ignore[method-assign]


Row = Mapping[Any, Any]
"""A row of a table, by column."""


@dataclass
class Watch:
    """Tells of every training that is settled since the last look."""

    ledger: Ledger
    settings: TuneSettings
    reporter: Reporter
    _told: set[tuple[bool, int]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._told = set(self._settled())

    def _settled(self) -> dict[tuple[bool, int], Row]:
        rows = trials(self.ledger, self.settings.goals).to_dict("records")
        return {
            (row["part"] == "search", row["ticket"]): row
            for row in rows
            if row["state"] not in ("running", "waiting", "to be repeated")
        }

    def look(self) -> None:
        """A line for each, and a step of the bar."""
        settled = self._settled()
        if not settled.keys() - self._told:
            return
        found, planned = results(self.ledger, self.settings), self.ledger.planned
        for key, row in settled.items():
            if key not in self._told:
                self._told.add(key)
                self.reporter.say(f"{len(self._told)} of {planned}: {self._line(row, found)}")
                self.reporter.advance()

    def _line(self, row: Row, found: Results) -> str:
        start = f"{row['part']}, {row['name']} ({row['holes']}), seed {row['seed']}"
        if row["state"] != "complete":
            return f"{start}: {row['state']}{': ' if row['error'] else ''}{row['error']}"
        goal = self.settings.goals[0]
        line = f"{start}: {found.goal.name} {written(float(str(row[goal])), found.goal)}"
        line += ", trained before" if row["reused"] else ""
        best = found.best_of_search
        if row["part"] == "search" and best:
            line += f" (best so far {written(best.search_score, found.goal)}, {best.name})"
        return line


@dataclass
class Processes:
    """Workers of this machine: started, watched, started again when they die."""

    settings: TuneSettings

    def run(self, watch: Watch) -> None:
        """Returns when all have found nothing more to do.

        Raises:
            StudyError: a worker gives up, with what it said last on the terminal.
        """
        running = {slot: self._start() for slot in range(self.settings.workers)}
        began = dict.fromkeys(running, time.monotonic())
        deaths = dict.fromkeys(running, 0)
        try:
            while running:
                time.sleep(LOOK_S)
                watch.look()
                for slot, process in list(running.items()):
                    code = process.poll()
                    if code is None:
                        continue
                    del running[slot]
                    if code == 0:
                        continue
                    deaths[slot] = deaths[slot] + 1 if time.monotonic() - began[slot] < QUICK_S else 1
                    if code > 0 or deaths[slot] >= QUICK_DEATHS:
                        raise StudyError(
                            f"a worker of study {self.settings.study} ended with exit code {code}: see above"
                        )
                    running[slot], began[slot] = self._start(), time.monotonic()
            watch.look()
        finally:
            _stop(list(running.values()))

    def _start(self) -> "subprocess.Popen[bytes]":
        settings = self.settings
        threads = max(1, cores() // settings.workers) if settings.threads == "auto" else settings.threads
        words = ["worker", "--study", settings.study, "--quiet"]
        words += ["--threads", str(threads), "--data_dir", settings.data_dir, "--device", settings.device]
        words += ["--precision", settings.precision]
        environment = os.environ | {STORAGE: settings.storage, "OMP_NUM_THREADS": str(threads)}
        # In a session of its own, so that Ctrl-C reaches it once, as a request to end.
        return subprocess.Popen(
            [sys.executable, "-m", "experiments.tune", *words], env=environment, start_new_session=True
        )


def _stop(processes: Sequence["subprocess.Popen[bytes]"]) -> None:
    for process in processes:
        process.send_signal(signal.SIGTERM)
    end = time.monotonic() + STOP_S
    for process in processes:
        try:
            process.wait(max(0.1, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()


def work_alone(study: str, storage: str, machine: Mapping[str, str], *, quiet: bool) -> None:
    """A worker of a study that exists, until nothing is left to do or the process that started it is gone.

    `machine` are options that this machine decides: `threads`, `device`, `data_dir`.

    Raises:
        StudyError: there is no such study, its storage does not answer, or its images are not those found here.
    """
    reporter: Reporter = Reporter() if quiet else Printer()
    ledger, settings, given = reopened(study, storage, machine)
    dataset = variant.load_dataset(settings, reporter)
    kept = ledger.search.user_attrs
    if dataset.digest != kept["definition"]["images"]:
        raise StudyError(f"study={study}: is of other images than {dataset.name} is here ({dataset.source})")
    starter = os.getppid()

    def leave_with_starter() -> None:
        if os.getppid() != starter:
            raise SystemExit(0)

    between = leave_with_starter if quiet else Watch(ledger, settings, reporter).look
    Worker(ledger, settings, given, dataset, reporter, between).work()


def reopened(study: str, storage: str, machine: Mapping[str, str]) -> tuple[Ledger, TuneSettings, dict[str, object]]:
    """A study that `tune` has started, with its settings as they hold on this machine and as they were given.

    Raises:
        StudyError: there is no such study, it has no run yet, or its storage does not answer.
    """
    ledger = Ledger(study, storage, heartbeat_s=60.0)
    if ledger.parent is None:
        raise StudyError(f"study={study}: has no run yet; start it with `mlflow run . -e tune -P study={study}` first")
    given = ledger.search.user_attrs["given"] | {"storage": storage, "study": study, **machine}
    settings = TuneSettings.of(**given)
    return Ledger(study, storage, settings.heartbeat), settings, given


# What it leaves


def conclude(run: tracking.Run, ledger: Ledger, found: Results, given: Mapping[str, object], dataset: Dataset) -> str:
    """Saves the view and logs everything the study leaves in its run; the last part of the view's link."""
    link = write_view(run, found, dataset)
    run.log(list(iter_records(ledger, found, given, link)))
    if findings := findings_of(found, dataset):
        words = {"runs": _runs_words(found)}
        run.log(comparison.iter_records(findings, f"{run_title(found)}: confirmed", link, words))
        # The note of the comparison gives way to the study's own.
    run.log([Tag(tracking.NOTE, note(found, given, link))])
    return link


def run_title(found: Results) -> str:
    """The study's name for headings."""
    return f"study {found.settings.study}"


def iter_records(ledger: Ledger, found: Results, given: Mapping[str, object], link: str) -> Iterator[Record]:
    """Tables, charts, the database or its address, the best settings, and everything for programs."""
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
    for path, picture in study_charts.iter_charts(ledger.search, settings.goals, baselines):
        yield Picture(path, picture)
    yield from iter_database(settings.storage)
    states = found.table["state"].tolist() if len(found.table) else []
    values = {f"tune/{state.replace(' ', '_')}": float(states.count(state)) for state in states}
    if found.best:
        yield Text("best.txt", f"{command(found.best.options, settings, given)}\n")
        summary = f"{found.best.name} of study {settings.study}"
        yield Text("best.toml", as_toml(summary, recipe_of(found.best.options, settings, given)))
        values["tune/search_score"] = found.best.search_score
    if found.gain:
        assert found.final
        values |= {"tune/gain": found.gain.mean, "tune/pairs": float(len(found.final.seeds))}
        values |= {f"tune/gain_{side}": bound for side, bound in _bounds(found).items()}
    if found.over_claim is not None:
        values["tune/over_claim"] = found.over_claim
    yield Metrics({name: value for name, value in values.items() if math.isfinite(value)}, 0)
    yield Text("tuning.json", json.dumps(for_machines(found, given, link), indent=2))


def _bounds(found: Results) -> dict[str, float]:
    gain = found.gain
    return {"low": gain.low, "high": gain.high} if gain and gain.low is not None and gain.high is not None else {}


def iter_database(storage: str) -> Iterator[Record]:
    """A copy of the SQLite file as it is now, or the address of the server."""
    if not storage.startswith("sqlite"):
        yield Text("storage.txt", f"{without_password(storage)}\n")
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "study.db"
        source, target = sqlite3.connect(storage.removeprefix("sqlite:///")), sqlite3.connect(copy)
        try:
            source.backup(target)
        finally:
            source.close()
            target.close()
        yield File("study.db", copy.read_bytes())


def command(options: Options, settings: TuneSettings, given: Mapping[str, object]) -> str:
    """What trains these settings, ready to be typed."""
    words = [f"-P {name}={shlex.quote(str(value))}" for name, value in _to_type(options, settings, given).items()]
    return " ".join(["mlflow run .", *words])


def _to_type(options: Options, settings: TuneSettings, given: Mapping[str, object]) -> dict[str, object]:
    by_hand = {
        name: value
        for name, value in common_options(settings, given).items()
        if str(value).lower() != TrainSettings.default_text(name).lower() and name != "data_dir"
    }
    return by_hand | dict(as_words(options))


def recipe_of(
    options: Options, settings: TuneSettings, given: Mapping[str, object]
) -> Mapping[str, bool | int | float | str]:
    """What a recipe would have to decide for these settings to follow from it alone."""
    return TrainSettings.of(**common_options(settings, given) | dict(as_words(options))).recipe_values


def for_machines(found: Results, given: Mapping[str, object], link: str) -> dict[str, object]:
    """The study as JSON: the numbers, the verdict, the best settings."""
    final, gain = found.final, found.gain
    return {
        "study": found.settings.study,
        "link": tracking.ui_address(link),
        "objectives": list(found.settings.goals),
        "verdict": found.verdict,
        "shown": found.shown,
        "best": None if found.best is None else {"name": found.best.name, "options": dict(found.best.options)},
        "command": command(found.best.options, found.settings, given) if found.best else None,
        "over_claim": found.over_claim,
        "final": final
        and {
            "seeds": final.seeds,
            "winner": _side_for_machines(found, final, 0),
            "baseline": _side_for_machines(found, final, 1),
        },
        "gain": gain and {"mean": gain.mean, "low": gain.low, "high": gain.high, "per_seed": gain.per_seed},
        "candidates": json.loads(found.standing.to_json(orient="records", double_precision=15)),
        "trials": json.loads(found.table.to_json(orient="records", double_precision=15)),
    }


def _side_for_machines(found: Results, final: Final, side: int) -> dict[str, object]:
    values = {goal: of_goal[side] for goal, of_goal in zip(found.settings.goals, final.goals, strict=True)}
    return {"objectives": values, "test/accuracy": final.test[side], "runs": final.runs[side]}


def note(found: Results, given: Mapping[str, object], link: str) -> str:
    """What the run's page shows above everything else."""
    lines = [*found.verdict]
    if found.best:
        lines.append(f"`{command(found.best.options, found.settings, given)}`")
    return "\n\n".join([*lines, f"[Pictures side by side]({link})"])


def findings_of(found: Results, dataset: Dataset) -> Findings | None:
    """Winner and baseline compared like any other two variants, where there are pairs of them."""
    if not found.final:
        return None
    members = [
        Member(name, seed, tracking.finished_run(run), reused=False)
        for name, runs in found.final.sides
        for seed, run in zip(found.final.seeds, runs, strict=True)
    ]
    return Findings(tuple(members), dataset)


def _runs_words(found: Results) -> str:
    assert found.final
    return " ".join(f"{name.replace(' ', '-')}={'+'.join(runs)}" for name, runs in found.final.sides)


def write_view(run: tracking.Run, found: Results, dataset: Dataset) -> str:
    """Saves the view of the study's trainings: baseline and winner first, then the search, the best first."""
    completed = found.table[found.table["state"] == "complete"] if len(found.table) else found.table
    goal = found.settings.goals[0]
    if completed.empty:
        return f"#/experiments/{run.experiment_id}/runs/{run.id}"
    finals = [pair for seed in zip(*reversed(found.final.runs), strict=True) for pair in seed] if found.final else []
    searched = completed.sort_values(goal, ascending=not found.higher, kind="stable")["run"].tolist()
    there = (run_id for run_id in dict.fromkeys([*finals, *searched]) if tracking.is_there(run_id))
    shown_runs = list(islice(there, IN_VIEW))
    if not shown_runs:
        return f"#/experiments/{run.experiment_id}/runs/{run.id}"
    # The UI draws the last ten columns, in their order.
    columns = [*reversed(shown_runs[views.MAX_RUNS_IN_GRID :]), *shown_runs[: views.MAX_RUNS_IN_GRID]]
    colour = dict(zip(completed["run"], map(_colour(found), completed["name"]), strict=True))
    metrics = [metric_of(name) for name in found.settings.goals]
    first = tracking.finished_run(shown_runs[0])
    curves = [key for key in ("train/loss", "val/loss", "val/accuracy") if key in first.metrics]
    bars = list(dict.fromkeys([*metrics, "test/accuracy"]))
    settings = [f"resolved.{name}" for name in HOLE_OPTIONS]
    view = views.comparison_view(
        f"study {found.settings.study}: {dataset.name}",
        columns,
        list(probes(dataset).keys),
        int(first.params["resolved.epochs"]),
        curves=curves,
        bars=bars,
        columns=[*(f"metrics.`{name}`" for name in bars), *(f"params.`{name}`" for name in settings)],
        hidden_metrics=sorted(first.metrics.keys() - {*curves, *bars}),
        colours=[colour[run_id] for run_id in columns],
        parallel=(settings, bars),
    )
    return tracking.write_view(run.experiment_id, view)


def _colour(found: Results) -> Callable[[str], str]:
    """The colour of a run by its candidate, in the view: baseline and winner as in the comparison's charts."""
    winner = {found.final.winner.name: gallery.COLOURS[1]} if found.final else {}
    own = {OWN: gallery.COLOURS[0]} | winner
    return lambda name: own.get(name, OTHERS)


def announce(found: Results, given: Mapping[str, object], link: str, run: tracking.Run) -> None:
    """Candidates, verdict, the best settings and where to look, on the terminal."""
    console = Console(soft_wrap=True, markup=False)
    table = Columns("", "search", "race", "confirmed")
    order = found.standing.sort_values(["confirmed_n", "race_n", "search"], ascending=[False, False, not found.higher])
    for row in order.head(10).to_dict("records"):
        cells = [_cell(row, what, found) for what in ("search", "race", "confirmed")]
        table.add_row(f"{row['name']}: {row['holes']}", *cells)
    console.print(f"\n{found.goal.name}, mean ± standard deviation (n seeds)", highlight=False)
    console.print(table)
    for line in found.verdict:
        console.print(line, highlight=False)
    if found.best:
        words = command(found.best.options, found.settings, given)
        console.print(f"\n{found.best.name} again:\n  {words}", highlight=False)
    console.print(f"as a recipe:\n  {tracking.file_address(run, 'best.toml')}", highlight=False)
    console.print(f"side by side in MLflow{tracking.ui_hint()}:\n  {tracking.ui_address(link)}", highlight=False)
    if found.final:
        console.print(f"report:\n  {tracking.file_address(run, 'report.html')}", highlight=False)


def _cell(row: Row, what: str, found: Results) -> str:
    if not row[f"{what}_n"]:
        return ""
    spread = f" ± {written(row[f'{what}_sd'], found.goal)}" if math.isfinite(row[f"{what}_sd"]) else ""
    return f"{written(row[what], found.goal)}{spread} ({row[f'{what}_n']:.0f})"
