"""A study from its first ticket to its verdict: opened, worked off by one or more processes, written into its run."""

import math
import os
import time

from rich.console import Console
from rich.table import Table as Columns

from ..data.dataset import Dataset
from ..explaining.map_measures import MAP_MEASURES
from ..runs.describe import option_records
from ..runs.prepare import load_dataset, prepare
from ..settings.base import SettingsError
from ..settings.train import TrainSettings
from ..system.progress import Printer
from ..tracking.lifetime import open_run, set_parent
from ..tracking.ui import file_address, ui_address, ui_hint
from ..tracking.writing import Run
from .addresses import without_password
from .contents import command, conclude
from .ledger import Ledger
from .race import SEARCH_SHARE, next_stage
from .results import Results, results, written
from .settings import TuneSettings, common_options
from .space import as_words
from .storage import open_storage, telling_of_loss
from .workers import Row, work_off


def tune(settings: TuneSettings) -> Results:
    """Carries the study on until it owes nothing, logs it to a run of its own, and prints the verdict.

    Raises:
        SettingsError, DataError, StudyError: the study cannot be started as asked; nothing is created then.
    """
    reporter = Printer()
    refuse_password_in_mlflow(settings)
    if not settings.storage.startswith("sqlite"):
        open_storage(settings.storage, settings.heartbeat)  # asked first: it answers, or not, within seconds
    dataset = load_dataset(settings, reporter)
    check(settings, dataset)
    with telling_of_loss(settings.storage):
        ledger = Ledger.create(
            settings.study,
            settings.storage,
            settings.heartbeat,
            definition(settings, dataset),
            settings.directions,
        )
        commission(ledger, settings)
    reporter.say(f"searches {settings.space}")
    name = f"study {settings.study}: {dataset.name}, {settings.recipe}, {' and '.join(settings.goals)}"
    tags = {"camparison.dataset": dataset.name}
    with open_run(kind="tune", name=name, tags=tags) as run, telling_of_loss(settings.storage):
        run.log(option_records(settings))
        adopt(ledger, run.id)
        work_off(ledger, settings, dataset)
        adopt(ledger, run.id)  # what others trained meanwhile
        found = results(ledger, settings)
        link = conclude(run, ledger, found, dataset)
    announce(found, link, run)
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


def check(settings: TuneSettings, dataset: Dataset) -> None:
    """Returns where every baseline can be trained and every objective measured.

    Raises:
        SettingsError: with the reasons.
    """
    problems = []
    for name, options in settings.baseline_options().items():
        try:
            own = TrainSettings.of(**{**common_options(settings), **as_words(options), "seed": settings.seed})
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
            problems.append(f"objective {goal}: layer {layer!r} is not explained; there is: {there}")
        if rest and MAP_MEASURES[measure].on_object and not masks:
            problems.append(f"objective {goal}: {dataset.name} has no masks of the objects; take border")
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


def commission(ledger: Ledger, settings: TuneSettings) -> None:
    """Asks the study for as many trainings as the settings say, in all, and sets its clock."""
    with ledger.locked():
        # Every worker brings the address itself, which may hold a password.
        kept = {name: text for name, text in settings.given.items() if name not in ("storage", "workers")}
        ledger.search.set_user_attr("given", kept)
        if settings.trials > ledger.planned:
            ledger.add_stage(next_stage(settings.trials, ledger.planned, confirm=settings.confirm))
        hours = settings.hours
        start = time.time()
        ledger.search.set_user_attr("search_until", None if hours == "none" else start + 3600 * SEARCH_SHARE * hours)
        ledger.search.set_user_attr("until", None if hours == "none" else start + 3600 * hours)


def adopt(ledger: Ledger, run_id: str) -> None:
    """The study's trainings so far, and all that follow, hang below this run."""
    ledger.parent = run_id
    set_parent(_runs_of(ledger), run_id)


def _runs_of(ledger: Ledger) -> list[str]:
    attempts = [*ledger.search.get_trials(deepcopy=False), *ledger.confirmation.get_trials(deepcopy=False)]
    own = [trial for trial in attempts if "run" in trial.user_attrs and not trial.user_attrs.get("reused")]
    return list(dict.fromkeys(trial.user_attrs["run"] for trial in own))


def announce(found: Results, link: str, run: Run) -> None:
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
        words = command(found.best.options, found.settings)
        console.print(f"\n{found.best.name} again:\n  {words}", highlight=False)
    console.print(f"as a recipe:\n  {file_address(run, 'best.toml')}", highlight=False)
    console.print(f"side by side in MLflow{ui_hint()}:\n  {ui_address(link)}", highlight=False)
    if found.final:
        console.print(f"report:\n  {file_address(run, 'report.html')}", highlight=False)


def _cell(row: Row, what: str, found: Results) -> str:
    if not row[f"{what}_n"]:
        return ""
    spread = f" ± {written(row[f'{what}_sd'], found.goal)}" if math.isfinite(row[f"{what}_sd"]) else ""
    return f"{written(row[what], found.goal)}{spread} ({row[f'{what}_n']:.0f})"
