"""`python -m experiments.tracking tidy`: what killed programs left behind is shown, and removed on request.

The next command marks a run as KILLED where it can know that its process is gone. It cannot know that of a run of
another machine or container, from before a restart, or of which only `mlflow run` knows. Those are shown here.
"""

import argparse
import datetime
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from ..system.processes import here, is_alive
from . import outbox
from .client import ERROR, HOST, KIND, MACHINE, PID, PROCESS_START, one_line, set_tags
from .journal import REFUSED
from .lifetime import sweep_stale
from .locations import TrackingError
from .sending import has_ended
from .store import prepare_store, told

_HERE, _IN_DATA = (".*.db.new*",), ("**/*.part", "**/.*.[0-9]*", ".cifar10-*")
"""Names of files and folders that are there only while a program writes them."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this command."""
    parser.add_argument("--end", nargs="+", default=[], metavar="RUN", help="mark these runs as KILLED, by run id")
    parser.add_argument("--remove", action="store_true", help="delete the unfinished files that are shown")
    parser.add_argument("--data_dir", default="data", help="the folder with data and checkpoints (default: data)")


def tidy(given: argparse.Namespace, root: Path | None = None) -> Iterator[str]:
    """Lines about what was found and what was done with it.

    Raises:
        TrackingError: the store cannot be used, or has no run that `--end` names.
    """
    prepare_store(root)
    with told():
        for run_id in sweep_stale():
            yield f"run {run_id}: its process is gone; marked as KILLED"
        for run_id in given.end:
            yield _end(run_id)
        yield from map(_shown, _unknown())
        yield from _kept_in_outbox()
    found = [*_unfinished(root or Path.cwd(), given.data_dir), *outbox.without_beginning()]
    for path in found:
        yield f"{path}: a killed program left it unfinished" + ("; removed" if given.remove else "")
        if given.remove:
            _remove(path)
    if found and not given.remove:
        yield "if no program is at work in this folder, delete these files with: tidy --remove"


def _unknown() -> list[Run]:
    """The runs that are RUNNING, as far as MLflow knows, and not of a living process of this machine."""
    client = MlflowClient()
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    running = client.search_runs(experiments, "attributes.status = 'RUNNING'") if experiments else []
    return [run for run in running if not _is_at_work(run)]


def _is_at_work(run: Run) -> bool:
    tags = run.data.tags
    return tags.get(MACHINE) == here() and is_alive(int(tags[PID]), tags.get(PROCESS_START, ""))


def _shown(run: Run) -> str:
    info, tags = run.info, run.data.tags
    since = datetime.datetime.fromtimestamp(info.start_time / 1000).strftime("%Y-%m-%d %H:%M")
    if KIND in tags:
        where = f"began on {tags.get(HOST, 'a machine')} as process {tags.get(PID, '?')}"
    elif tags.get("mlflow.source.type") == "PROJECT":
        where = "was begun by `mlflow run`, and its program has not started"
    else:
        where = "is of another program"
    return f"run {info.run_id} ({info.run_name}) {where}, {since}; if it has ended: tidy --end {info.run_id}"


def _kept_in_outbox() -> Iterator[str]:
    """What no command sends, or not yet."""
    for journal in outbox.present():
        begin = outbox.beginning(journal) or {"store": ""}
        if begin["store"] is None and not journal.is_written and not has_ended(journal):
            cure = "the same command with offline=true goes on with it; delete the folder if you do not want that"
            yield f"{journal.folder}: the offline run {begin['name']} was killed; {cure}"
    for folder in sorted((outbox.folder() / REFUSED).glob("*")):
        yield f"{folder}: MLflow refused a part of this run; delete the folder when you do not need it"


def _end(run_id: str) -> str:
    try:
        run = MlflowClient().get_run(run_id)
    except MlflowException as error:
        raise TrackingError(f"--end {run_id}: there is no such run ({one_line(error)})") from error
    if run.info.status != "RUNNING" or _is_at_work(run):
        raise TrackingError(
            f"--end {run_id}: the run has ended already, or its process is at work; nothing was changed"
        )
    set_tags(run_id, {ERROR: "marked as ended by hand; its program did not end it"})
    MlflowClient().set_terminated(run_id, "KILLED")
    return f"run {run_id}: marked as KILLED"


def _unfinished(root: Path, data_dir: str) -> Sequence[Path]:
    data = root / Path(data_dir).expanduser()
    found = [path for pattern in _HERE for path in root.glob(pattern)]
    return sorted({*found, *(path for pattern in _IN_DATA for path in data.glob(pattern))})


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
