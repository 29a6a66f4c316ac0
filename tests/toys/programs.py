"""Entry points as processes that cost no imports, killed or struck at one of their writes; and what they leave.

A process here is a copy of this one, so import what it needs before. This process must not open a store itself.
"""

import csv
import hashlib
import io
import json
import os
import re
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts

from experiments import compare, entry, train, tune
from experiments.comparison import compare as _comparing
from experiments.runs import train as _training
from experiments.study import local_workers, reconnect
from experiments.study import tune as _tuning
from experiments.system.terminal import run_program
from experiments.tracking import __main__ as tracking
from experiments.tracking import outbox, sender
from experiments.tracking.client import KIND, STATUS
from experiments.tracking.waiting import waiting_runs
from tests.conftest import REPOSITORY
from tests.toys.scenes import TINY

assert all((entry, _comparing, _training, _tuning, local_workers))  # imported for the copies

OPTIONS = TINY | {"train_images": "50"}
ENTRY_POINTS: dict[str, tuple[Callable[[], object], str]] = {
    "train": (train.main, "experiments.train"),
    "compare": (compare.main, "experiments.compare"),
    "tune": (tune.main, "experiments.tune"),
    "tracking": (tracking.program, "experiments.tracking"),
}
WAIT_S = 1.0  # for MLflow at the end of a command
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"}
_READS = ("select", "pragma", "show")


@dataclass
class Writes:
    """Counts what changes the disk: files opened for writing, renamed, removed or synced, statements and commits.

    Calls `act` when number `at` comes, before it.
    """

    at: int = 0
    act: Callable[[], None] = lambda: None
    seen: int = 0

    def watch(self) -> None:
        """Begins, for the rest of this process."""
        sync = os.fsync

        def synced(descriptor: int) -> None:
            self.count()
            sync(descriptor)

        os.fsync = synced  # type: ignore[assignment]
        sys.addaudithook(self._hear)
        sa.event.listen(sa.Engine, "before_cursor_execute", self._execute)
        sa.event.listen(sa.Engine, "commit", lambda connection: self.count())

    def count(self) -> None:
        """One more."""
        self.seen += 1
        if self.seen == self.at:
            self.act()

    def _hear(self, event: str, given: tuple[Any, ...]) -> None:
        if event in _CHANGES or (event == "open" and isinstance(given[2], int) and given[2] & _WRITES):
            self.count()

    def _execute(self, connection: object, cursor: object, text: str, *others: object) -> None:
        if not text.lstrip().lower().startswith(_READS):
            self.count()


def die() -> None:
    """Ends this process as a power cut would."""
    os.kill(os.getpid(), signal.SIGKILL)


@dataclass
class Program:
    """A command line in a folder, with variables of its environment; `is_real`: with a Python of its own."""

    name: str
    words: Sequence[str]
    folder: Path
    variables: Mapping[str, str] = field(default_factory=dict)
    is_real: bool = False

    def start(self, writes: Writes | None = None) -> int:
        """The id of its process."""
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid:
            return pid
        code = 1
        try:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            self._prepare()
            main, module = ENTRY_POINTS[self.name]
            if self.is_real:
                os.environ["PYTHONPATH"] = str(REPOSITORY)
                os.execv(sys.executable, [sys.executable, "-m", module, *self.words])
            (writes := writes or Writes()).watch()
            sys.argv = [f"python -m {module}", *self.words]
            run_program(main, f"python -m {module}")
        except SystemExit as end:
            code = _printed(end.code)
        except BaseException as error:
            sys.excepthook(type(error), error, error.__traceback__)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            if writes:
                self._beside("writes").write_text(str(writes.seen))
            os._exit(code)

    def _prepare(self) -> None:
        os.chdir(self.folder)
        (self.folder / "tmp").mkdir(exist_ok=True)
        said = os.open(self._beside("said"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(said, 1)
        os.dup2(said, 2)
        os.environ.update({outbox.WAIT: str(WAIT_S), "TMPDIR": str(self.folder / "tmp"), **self.variables})
        sender.FIRST_PAUSE_S, sender.LONGEST_PAUSE_S = 0.05, 0.2
        reconnect.FIRST_PAUSE_S = 0.05
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def run(self, writes: Writes | None = None) -> int:
        """Its exit code, or minus the signal that killed it."""
        return end_of(self.start(writes))

    @property
    def said(self) -> str:
        """What the processes of this folder printed."""
        path = self._beside("said")
        return path.read_text(errors="replace") if path.exists() else ""

    @property
    def writes(self) -> int:
        """How many writes the last process counted that ended by itself."""
        return int(self._beside("writes").read_text())

    def _beside(self, name: str) -> Path:
        """A file that is not on the disk of the folder, which may be full."""
        return self.folder.with_name(f"{self.folder.name}.{name}")


def _printed(code: object) -> int:
    if isinstance(code, str):
        print(code, file=sys.stderr)
        return 1
    return code if isinstance(code, int) else 0


def end_of(pid: int) -> int:
    """The exit code of a process of ours, or minus the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def called(function: Callable[[], Any], folder: Path) -> Any:
    """What the function returns in a process of its own, in the folder; something that JSON knows."""
    answer = folder.with_name(f"{folder.name}.answer")
    pid = os.fork()
    if not pid:
        code = 1
        try:
            os.chdir(folder)
            answer.write_text(json.dumps(function()))
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    assert end_of(pid) == 0
    return json.loads(answer.read_text())


# ---------------------------------------------------------------------------------------------------- what is there

Leaves = dict[str, str]
"""What a run consists of, by name: histories of metrics, parameters, lines and values of files."""

ANY = "any"
_TIMES = re.compile(r"\btime/|(?:^|[/_.])(?:seconds|clock)\b")
_GRID = re.compile(r"^(images/.+?\+step\+\d+)\+timestamp\+.*(\.\w+)$")


@dataclass(frozen=True)
class Left:
    """What is in MLflow: the status of each run, and the leaves of the completed ones by kind and name.

    `waiting`: the journals in the outbox.
    """

    statuses: Mapping[str, int]
    completed: Mapping[str, Sequence[Leaves]]
    waiting: Sequence[str]


def left(uri: str, experiment: str, folder: Path) -> Left:
    """What commands left in an experiment of MLflow, and in the outbox of the folder."""
    return Left(**called(lambda: _left(uri, experiment, folder), folder))


def _left(uri: str, name: str, folder: Path) -> dict[str, Any]:
    client = MlflowClient(uri)
    os.environ["MLFLOW_TRACKING_URI"] = uri
    found = client.get_experiment_by_name(name)
    runs = list(client.search_runs([found.experiment_id], max_results=1000)) if found else []
    models = client.search_logged_models([found.experiment_id], max_results=50) if found else []
    of_run = Counter(model.source_run_id for model in models)
    completed: dict[str, list[Leaves]] = {}
    for run in runs:
        if run.data.tags.get(STATUS) == "completed":
            key = f"{run.data.tags[KIND]}: {run.info.run_name}"
            leaves = _leaves(client, run, folder) | {"models": str(of_run[run.info.run_id])}
            completed.setdefault(key, []).append(leaves)
    waiting = [path.parent.name for path in (folder / "mlruns" / "outbox").glob("*/journal")]
    return {
        "statuses": Counter(run.info.status for run in runs),
        "completed": completed,
        "waiting": waiting,
    }


def has_ended(kind: str, uri: str, folder: Path) -> bool:
    """Whether a run of this kind has ended, in MLflow or in the outbox of the folder."""
    return bool(called(lambda: _has_ended(kind, uri), folder))


def _has_ended(kind: str, uri: str) -> bool:
    os.environ["MLFLOW_TRACKING_URI"] = uri
    there = MlflowClient(uri).search_runs(["0"], f"tags.`{STATUS}` = 'completed' AND tags.`{KIND}` = '{kind}'")
    return bool(there) or any((run.tags[KIND], run.tags.get(STATUS)) == (kind, "completed") for run in waiting_runs())


def _leaves(client: MlflowClient, run: Any, folder: Path) -> Leaves:
    found = {f"param {key}": _plain(value, folder) for key, value in run.data.params.items()}
    for key in run.data.metrics:
        if not _TIMES.search(key):
            history = sorted((m.step, m.value) for m in client.get_metric_history(run.info.run_id, key))
            found[f"metric {key}"] = str(history)
    with tempfile.TemporaryDirectory() as target:
        root = Path(download_artifacts(run_id=run.info.run_id, artifact_path="", dst_path=target))
        for path in sorted(path for path in root.rglob("*") if path.is_file()):
            name = _GRID.sub(r"\1\2", path.relative_to(root).as_posix())
            name += " again" * any(key.startswith(f"file {name}") for key in found)  # of two times
            found |= {f"file {name}{part}": value for part, value in _parts(path, folder).items()}
    return found


def _parts(path: Path, folder: Path) -> Leaves:
    if path.suffix == ".json":
        value = json.loads(_plain(path.read_text(encoding="utf-8"), folder))
        if isinstance(value, dict) and value.keys() == {"columns", "data"}:  # a table of MLflow
            value = [dict(zip(value["columns"], row, strict=True)) for row in value["data"]]
        return dict(_flat(value))
    if path.suffix == ".csv":
        rows = list(csv.DictReader(io.StringIO(_plain(path.read_text(encoding="utf-8"), folder))))
        return {f" {number} {key}": str(value) for number, row in enumerate(rows) for key, value in row.items()}
    if path.suffix in (".txt", ".toml", ".html", ".yaml") or path.name == "MLmodel":
        lines = _plain(path.read_text(encoding="utf-8"), folder).splitlines()
        return {f" line {number}": line for number, line in enumerate(lines)}
    return {"": hashlib.sha256(path.read_bytes()).hexdigest()}


def _plain(text: str, folder: Path) -> str:
    """Without what differs from one time to the next: ids and the folder."""
    return re.sub(r"\b[0-9a-f]{32}\b", "ID", text).replace(str(folder), "FOLDER")


def _flat(value: Any, at: str = "") -> list[tuple[str, str]]:
    if isinstance(value, dict):
        return [leaf for key, item in value.items() for leaf in _flat(item, f"{at} {key}")]
    if isinstance(value, list):
        return [leaf for key, item in enumerate(value) for leaf in _flat(item, f"{at} {key}")]
    return [(at, repr(value))]


def stable(first: Left, second: Left) -> dict[str, Leaves]:
    """The leaves of two undisturbed commands, as they must be after every disturbance; `ANY` where the two differ."""
    assert first.completed.keys() == second.completed.keys()
    found = {}
    for key, (one, *_) in first.completed.items():
        other = second.completed[key][0]
        assert one.keys() == other.keys(), one.keys() ^ other.keys()
        found[key] = {name: value if value == other[name] else ANY for name, value in one.items()}
    return found


@dataclass
class Verdict:
    """How many things are lost, doubled, left RUNNING, and the names of those that differ."""

    lost: int = 0
    doubled: int = 0
    running: int = 0
    tracebacks: int = 0
    differs: list[str] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        """Whether nothing is wrong."""
        return not (self.lost or self.doubled or self.running or self.tracebacks or self.differs)


def judged(
    expected: Mapping[str, Leaves], found: Left, said: str, rest: Callable[[str, str], str] = lambda name, value: value
) -> Verdict:
    """Compares what is there with an undisturbed run. `rest`: of a named value what no disturbance may change."""
    verdict = Verdict(running=found.statuses.get("RUNNING", 0), tracebacks=said.count("Traceback"))
    verdict.lost = len(found.waiting)
    for key, leaves in expected.items():
        runs = found.completed.get(key, [])
        verdict.lost += not runs
        verdict.doubled += max(0, len(runs) - 1)
        for name in sorted(leaves.keys() | runs[0].keys()) if runs else ():
            here, there, whole = leaves.get(name), runs[0].get(name), f"{key}: {name}"
            if here is not None and there is not None and (here == ANY or rest(whole, there) == rest(whole, here)):
                continue
            verdict.differs.append(f"{whole}: {str(here)[:200]!r} became {str(there)[:200]!r}")
            verdict.lost += there is None
            verdict.doubled += here is None
            if name.startswith("metric ") and here and there and set(_points(there)) == set(_points(here)):
                verdict.doubled += 1
    verdict.doubled += sum(len(runs) for key, runs in found.completed.items() if key not in expected)
    return verdict


def _points(history: str) -> list[str]:
    return re.findall(r"\([^)]*\)", history)


def timed(program: Program) -> tuple[int, float]:
    """Exit code and seconds."""
    start = time.monotonic()
    return program.run(), time.monotonic() - start
