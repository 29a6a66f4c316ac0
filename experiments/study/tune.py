"""A study from start to verdict: checked, opened, trained by one or more processes, recorded in its run."""

import math
import os
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rich.table import Table as Columns

from ..data.dataset import Dataset
from ..explaining.map_measures import MAP_MEASURES
from ..pictures.style import take_failures
from ..runs.contents import option_records
from ..runs.prepare import load_dataset, prepare, say_batch, suited
from ..settings.base import SettingsError
from ..system.progress import Printer, console
from ..system.secrets import without_password
from ..tracking.lifetime import open_run, set_parent
from ..tracking.ui import file_address, ui_address, ui_hint
from ..tracking.writing import Run
from .contents import command, conclude, findings_of
from .ledger import Ledger
from .local_workers import work_off
from .mending import mend
from .notes import Notes
from .race import SEARCH_SHARE, next_stage
from .results import Results, results, written
from .settings import TuneSettings
from .storage import open_storage, telling_of_loss
from .worker import settings_of


def tune(settings: TuneSettings) -> Results:
    """Starts or continues a study until all trainings are done, logs it to its run, and prints the verdict.

    Raises:
        SettingsError, DataError, StudyError: the study cannot be started with these settings. Nothing is created then.
    """
    reporter = Printer()
    settings = suited(settings)
    refuse_password_in_mlflow(settings)
    if not settings.storage.startswith("sqlite"):
        open_storage(settings.storage, settings.heartbeat)  # first, because this takes seconds at most
    say_batch(settings, reporter)
    dataset = load_dataset(settings, reporter)
    check(settings, dataset)
    with telling_of_loss(settings.storage):
        ledger = Ledger.create(settings, definition(settings, dataset))
        commission(ledger, settings)
    reporter.say(f"search space: {settings.space}")
    name = f"study {settings.study}: {dataset.name}, {settings.recipe}, {' and '.join(settings.goals)}"
    tags = {"camparison.dataset": dataset.name}
    with open_run(kind="tune", name=name, tags=tags) as run, telling_of_loss(settings.storage):
        run.log(option_records(settings))
        adopt(ledger, run.id)
        work_off(ledger, settings, dataset)
        adopt(ledger, run.id)  # with what other machines trained meanwhile
        found = results(ledger, settings)
        if found.final:
            mend(found.final, ledger, settings, dataset, reporter)
            found = replace(found, compared=findings_of(found.final, dataset))
        link = conclude(run, ledger, found, dataset)
    announce(found, link, run)
    return found


def definition(settings: TuneSettings, dataset: Dataset) -> dict[str, str]:
    """What makes two studies of one name the same, the images included."""
    return settings.definition() | {"dataset": dataset.name, "images": dataset.digest}


def refuse_password_in_mlflow(settings: TuneSettings) -> None:
    """Checks that no password was given to `mlflow run`, because MLflow shows every option of a run to everyone.

    Raises:
        SettingsError: the storage contains a password.
    """
    shown_address = without_password(settings.storage)
    if "MLFLOW_RUN_ID" in os.environ and shown_address != settings.storage:
        raise SettingsError(
            [
                f"storage={shown_address}: MLflow shows every -P to everyone; "
                "change this password, delete the run, and put the new password in PGPASSWORD or ~/.pgpass"
            ]
        )


def check(settings: TuneSettings, dataset: Dataset) -> None:
    """Checks that every baseline can be trained and every objective can be measured.

    Raises:
        SettingsError: with all problems.
    """
    problems = []
    for name, options in settings.baseline_options().items():
        try:
            own = settings_of(settings, options, settings.seed)
        except SettingsError as error:
            problems += [f"baseline {name}: {problem}" for problem in error.problems]
    if problems:
        raise SettingsError(problems)
    prepared = prepare(own, dataset=dataset)
    masks = dataset.splits["val"].masks is not None
    for goal in settings.goals:
        _, _, rest = goal.partition("cam/")
        layer, _, measure = rest.rpartition("/")
        if rest and layer not in prepared.explaining.layers:
            there = ", ".join(prepared.explaining.layers)
            problems.append(f"objective {goal}: no maps are made of layer {layer!r}; take one of {there}")
        if rest and MAP_MEASURES[measure].on_object and not masks:
            problems.append(f"objective {goal}: {dataset.name} has no masks of the objects; take border")
    refuse_short_grid(settings)
    if problems:
        raise SettingsError(problems)


def refuse_short_grid(settings: TuneSettings) -> None:
    """Checks that a grid has enough points for the search.

    Raises:
        SettingsError: the grid has fewer points than the search has trainings.
    """
    search = next_stage(settings.trials, 0, confirm=settings.confirm).search
    most = settings.space.points + len(settings.baseline_options())
    if settings.enumerates and search > most:
        few = f"trials={settings.trials}: the search would have {search} trainings, but sampler={settings.sampler}"
        raise SettingsError([f"{few} has at most {most} different ones; give fewer trials, or a larger space"])


def commission(ledger: Ledger, settings: TuneSettings) -> None:
    """Adds a stage if more trainings are asked for than the study has, and sets the time limits."""
    hours, start = settings.hours, time.time()
    with ledger.locked():
        if settings.trials > (planned := ledger.planned):
            ledger.keep_stages([*ledger.stages, next_stage(settings.trials, planned, confirm=settings.confirm)])
        ledger.note(
            # Without the address: every worker has its own, and it may contain a password.
            given={name: text for name, text in settings.given.items() if name not in ("storage", "workers")},
            search_until=None if hours == "none" else start + 3600 * SEARCH_SHARE * hours,
            until=None if hours == "none" else start + 3600 * hours,
        )


def adopt(ledger: Ledger, run_id: str) -> None:
    """Puts all trainings of the study below this run in MLflow, those that follow too."""
    ledger.note(parent_run=run_id)
    attempts = [Notes.of(trial) for study in ledger.parts for trial in study.get_trials(deepcopy=False)]
    set_parent(list(dict.fromkeys(notes.run for notes in attempts if notes.run and not notes.reused)), run_id)


def announce(found: Results, link: str, run: Run) -> None:
    """Prints the candidates, the verdict, the best settings, and where to look."""
    screen = console()
    table = Columns("", "search", "race", "confirmed")
    order = found.standing.sort_values(["confirmed_n", "race_n", "search"], ascending=[False, False, not found.higher])
    for row in order.head(10).to_dict("records"):
        cells = [_cell(row, what, found) for what in ("search", "race", "confirmed")]
        table.add_row(f"{row['name']}: {row['holes']}", *cells)
    screen.print(f"\n{found.goal.name}, mean ± standard deviation (n seeds)")
    screen.print(table)
    for line in found.verdict:
        screen.print(line)
    if found.best:
        words = command(found.best.options, found.settings)
        screen.print(f"\nto train {found.best.name} again:\n  {words}")
        screen.print(f"the same settings as a recipe:\n  {file_address(run, 'best.toml')}")
    screen.print(f"side by side in MLflow{ui_hint()}:\n  {ui_address(link)}")
    if found.final:
        screen.print(f"report:\n  {file_address(run, 'report.html')}")
    for failure in take_failures():
        screen.print(f"note: {failure}")


def _cell(row: Mapping[Any, Any], what: str, found: Results) -> str:
    if not row[f"{what}_n"]:
        return ""
    spread = f" ± {written(row[f'{what}_sd'], found.goal)}" if math.isfinite(row[f"{what}_sd"]) else ""
    return f"{written(row[what], found.goal)}{spread} ({row[f'{what}_n']:.0f})"
