"""Trains the runs of a comparison that are missing, and logs and prints what the comparison finds."""

import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace

from rich.table import Table as Columns
from rich.text import Text as Words

from ..data.dataset import Dataset
from ..explaining.probes import SPLIT
from ..pictures.style import take_failures
from ..runs.contents import option_records
from ..runs.prepare import Prepared, load_dataset, prepare, say_batch, suited, with_images
from ..runs.train import train, work
from ..settings.base import SettingsError
from ..settings.command_line import words_of
from ..settings.compare import CHOOSING, FOR_FINISHED, CompareSettings
from ..settings.trainings import Training
from ..system.progress import Printer, Reporter, console, shown
from ..tracking.client import NOTE
from ..tracking.lifetime import open_run
from ..tracking.reading import FinishedRun
from ..tracking.records import Metrics, Picture, Record, Tag, Text
from ..tracking.ui import file_address, ui_address, ui_hint
from ..tracking.writing import Run
from . import selection
from .answers import answers
from .findings import Findings, Member
from .limits import advice
from .pictures import iter_pictures, write_view
from .report import page
from .tables import iter_tables, summary_for_machines, table_rows

MEASURE, VARIANT = 28, 13  # columns of a terminal for the name of a measure and for each variant beside it


def compare(settings: CompareSettings, trainings: Sequence[Training]) -> Findings:
    """Trains what has no finished run yet, logs the comparison into its own run, and prints where to look.

    Raises:
        SettingsError: two variants are the same training under two names.
    """
    reporter = Reporter() if settings.quiet else Printer()
    trainings = on_the_same_images(trainings)
    for training in {training.variant: training for training in trainings}.values():
        say_batch(training.settings, reporter)
    dataset = load_dataset(trainings[0].settings, reporter)
    prepared = [prepare(training.settings, name=training.name, dataset=dataset) for training in trainings]
    selection.refuse_same(trainings, prepared, allow_same=settings.allow_same)
    chosen = selection.without_seeds(trainings, prepared, settings)
    finished = selection.finished_before([ready for _, ready in chosen], settings)
    trainings = [training for training, _ in chosen]
    name = comparison_name(settings, trainings, dataset)
    with open_run(kind="compare", name=name, tags={"camparison.dataset": dataset.name}) as run:
        run.log(option_records(settings))
        findings = Findings(train_missing(chosen, finished, run.id, quiet=settings.quiet), dataset)
        link = conclude(run, findings, name, settings.given)
    announce(findings, link, run, quiet=settings.quiet)
    return findings


def on_the_same_images(trainings: Sequence[Training]) -> list[Training]:
    """The trainings with the images that their weights were made for, and one batch where `auto` chose it.

    Raises:
        SettingsError: these are not the same for all.
    """
    same = [replace(training, settings=with_images(training.settings)) for training in trainings]
    for name in ("image_size", "interpolation", "centre_crop"):
        found = {getattr(training.settings, name): training.variant for training in same}
        if len(found) > 1:
            words = ", ".join(f"{value} in {variant}" for value, variant in found.items())
            problem = f"variants: {name} is {words}, as their weights were made for"
            raise SettingsError([f"{problem}; give one {name}=... for all variants"])
    same = [replace(training, settings=suited(training.settings)) for training in same]
    pairs = zip(trainings, same, strict=True)
    chosen = [own.settings.batch_size for plain, own in pairs if own.settings.batch_size < plain.settings.batch_size]
    return [
        replace(training, settings=training.settings.with_values(batch_size=min(chosen)))
        if chosen and "batch_size" not in training.settings.given and training.settings.batch_size > min(chosen)
        else training
        for training in same
    ]


def compare_finished(settings: CompareSettings) -> Findings:
    """Compares the finished runs that `runs` or `filter` names; trains nothing.

    Raises:
        SettingsError: they cannot be compared, with the reason.
    """
    members = selection.members(settings)
    dataset = selection.shared_dataset(members, settings, Reporter() if settings.quiet else Printer())
    selection.refuse_damaged(members, dataset, settings.finished_by)
    findings = Findings(members, dataset)
    name = f"{' vs '.join(findings.variants)}: {dataset.name}, {len(members)} finished runs"
    with open_run(kind="compare", name=name, tags={"camparison.dataset": dataset.name}) as run:
        run.log(option_records(settings, FOR_FINISHED))
        link = conclude(run, findings, name, settings.given)
    announce(findings, link, run, quiet=settings.quiet)
    return findings


def conclude(run: Run, findings: Findings, name: str, given: Mapping[str, str]) -> str:
    """Saves the view, logs all results into the comparison's run, and returns the last part of the view's link."""
    link = write_view(findings, run, name)
    run.log(iter_records(findings, name, link, given))
    return link


def comparison_name(settings: CompareSettings, trainings: Sequence[Training], dataset: Dataset) -> str:
    """The name of the comparison's run and view: the variants, the data set, recipes, epochs and seeds."""
    names = " vs ".join(dict.fromkeys(training.variant for training in trainings))
    recipes = "/".join(dict.fromkeys(training.settings.recipe for training in trainings))
    epochs = "/".join(str(n) for n in sorted({training.settings.epochs for training in trainings}))
    seeds = f"{settings.seeds} seeds" if settings.seeds > 1 else f"seed {settings.seed}"
    plural = "" if epochs == "1" else "s"
    return f"{names}: {dataset.name}, {recipes}, {epochs} epoch{plural}, {seeds}"


def train_missing(
    chosen: Sequence[tuple[Training, Prepared]],
    finished: Mapping[str, FinishedRun],
    parent_run_id: str,
    *,
    quiet: bool = False,
) -> tuple[Member, ...]:
    """A finished run for each training: the one in `finished` with its fingerprint, or else a new child run."""
    missing = [ready for _, ready in chosen if ready.fingerprint not in finished]
    members: list[Member] = []
    trained = dict(finished)
    with nullcontext(Reporter()) if quiet else shown(sum(work(ready) for ready in missing)) as reporter:
        reporter.say(f"{len(missing)} of {len(chosen)} runs to train, {len(chosen) - len(missing)} finished before")
        for training, ready in chosen:
            # One training under two names, as allow_same permits, is done once.
            done = trained.get(ready.fingerprint) or train(ready, reporter, parent_run_id=parent_run_id)
            trained[ready.fingerprint] = done
            reused = ready.fingerprint in finished
            members.append(Member(training.variant, training.settings.seed, done, reused=reused))
    return tuple(members)


def iter_records(findings: Findings, name: str, link: str, given: Mapping[str, str]) -> Iterator[Record]:
    """Everything that is logged into the comparison's MLflow run."""
    for measure in findings.measures:
        means = findings.summary[measure.metric, "mean"]
        yield Metrics({measure.logged_as(str(name))[0]: float(mean) for name, mean in means.dropna().items()}, 0)
    by_metric = {measure.metric: measure for measure in findings.measures}
    for row in findings.differences.to_dict("records"):
        yield Metrics({by_metric[row["measure"]].logged_as(row["variant"])[1]: float(row["mean"])}, 0)
    yield from iter_tables(findings)
    pictures = dict(iter_pictures(findings))
    for path, picture in pictures.items():
        yield Picture(path, picture)
    address, hint = ui_address(link), ui_hint()
    noted = [answer for answer in answers(findings) if answer.part != "detail"]
    sentences = [f"**{as_markdown(answer.question)}** {as_markdown(answer.sentence)}" for answer in noted]
    yield Tag(NOTE, "\n\n".join([*sentences, f"[Pictures side by side]({link})"]))
    yield Text("comparison.json", json.dumps(summary_for_machines(findings, name, address), indent=2))
    report = page.html(
        name,
        findings,
        table_rows(findings),
        pictures,
        address,
        hint,
        command=shlex.join(["python", "-m", "experiments.compare", *words_of(given)]),
        chosen=" ".join(f"{option}={given[option]}" for option in CHOOSING if option in given),
    )
    yield Text("report.html", report)


def as_markdown(text: str) -> str:
    """The text for MLflow's notes, in which the characters of a name mean nothing."""
    return re.sub(r"([\\`*_{}\[\]#~|])", r"\\\1", text).replace("<", "&lt;")


def announce(findings: Findings, link: str, run: Run, *, quiet: bool) -> None:
    """Prints the table, the sentences and the links; with `quiet`, for scripts, only the path of the JSON file."""
    if quiet:
        print(file_address(run, "comparison.json"))
        return
    screen = console()
    rows = table_rows(findings)
    images = len(findings.dataset.splits[SPLIT])
    screen.print(f"\n{findings.dataset.name}, {images:,} test images; mean ± standard deviation over seeds")
    beside = max(1, (screen.width - MEASURE) // VARIANT)
    for start in range(0, len(rows), beside):
        screen.print(_columns(rows[start : start + beside]))
    screen.print()
    for answer in answers(findings):
        if answer.part != "detail":
            screen.print(Words.assemble((answer.question, "bold"), " ", answer.sentence))
    screen.print(
        f"\nlook:  {file_address(run, 'report.html')} and side by side in MLflow{ui_hint()} {ui_address(link)}",
        highlight=False,
    )
    screen.print(f"next:  {advice(findings)}")
    for failure in take_failures():
        screen.print(f"note:  {failure}")


def _columns(rows: Sequence[Mapping[str, str]]) -> Columns:
    """A column per variant: a row per variant would be wider than a terminal."""
    table = Columns("")
    for row in rows:
        table.add_column(row["variant"], justify="right", overflow="fold")
    for heading in list(rows[0])[1:]:
        table.add_row(heading, *(row[heading] for row in rows))
    return table
