"""The runs that lie in the outbox, read from their journals: what each logged so far, as MLflow would show it."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mlflow.entities import LifecycleStage, Metric, Param, Run, RunData, RunInfo, RunTag

from . import outbox
from .client import ERROR, RUN_NAME
from .journal import Journal, damaged


@dataclass
class Contents:
    """What a journal says about its run.

    `metrics` are key, step and value, in the order in which they were logged first: an attempt that goes on repeats
    some.
    """

    folder: Path
    run_id: str
    experiment_id: str
    start: int
    tags: dict[str, str] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)
    metrics: dict[tuple[str, int, float], None] = field(default_factory=dict)
    files: dict[str, tuple[Path, str]] = field(default_factory=dict)
    model: tuple[Path, dict[str, str]] | None = None
    status: str = "RUNNING"
    end: int | None = None
    is_begun: bool = False  # MLflow has given the run its id

    @property
    def may_go_on(self) -> bool:
        """Whether another process may have gone on with the run, so that only MLflow knows its state."""
        return self.is_begun and self.status == "RUNNING"

    @property
    def is_sent(self) -> bool:
        """Whether MLflow has got the run meanwhile, so that it no longer lies here."""
        return not self.folder.exists()

    def file(self, path: str) -> Path | None:
        """The file of the run at `path`; None if there is none, or if it is damaged."""
        folder, digest = self.files.get(path, (None, ""))
        return folder / path if folder and not damaged(folder, {path: digest}) else None

    def entity(self) -> Run:
        """The run as MLflow's own search describes it."""
        name, stage = self.tags.get(RUN_NAME, ""), LifecycleStage.ACTIVE
        when = self.start, self.end
        info = RunInfo(self.run_id, self.experiment_id, "", self.status, *when, stage, artifact_uri="", run_name=name)
        last = {key: Metric(key, value, self.start, step) for key, step, value in self.metrics}
        params, tags = [Param(*item) for item in self.params.items()], [RunTag(*item) for item in self.tags.items()]
        return Run(info, RunData(list(last.values()), params, tags))


def contents(journal: Journal) -> Contents:
    """What the journal says about its run."""
    found = Contents(journal.folder, journal.key, "0", 0, is_begun=journal.sent.run is not None)
    for entry in journal.entries():
        match entry["what"]:
            case "begin":
                found.run_id = journal.sent.run or entry["run"] or journal.key
                found.experiment_id, found.start = entry.get("experiment_id", "0"), entry["start"]
                found.tags |= entry.get("tags", {})
            case "reopen":
                found.tags |= entry["tags"]
                found.tags.pop(ERROR, None)
                found.status, found.end = "RUNNING", None
            case "tags" if "of" not in entry:
                found.tags |= entry["values"]
            case "params":
                found.params = entry["values"] | found.params
            case "metrics":
                found.metrics |= dict.fromkeys((key, step, value) for key, value, step in entry["values"])
            case "files":
                folder = journal.folder / entry["in"]
                found.files |= {path: (folder, digest) for path, digest in entry["files"].items()}
            case "model":
                found.model = journal.folder / entry["in"], entry["files"]
            case "end":
                found.status, found.end = entry["status"], entry["time"]
    return found


def waiting_runs() -> Iterator[Contents]:
    """The runs in the outbox, with what other journals there say about them; the first to begin comes first."""
    found = {}
    notes: dict[str, dict[str, str]] = {}
    for journal in outbox.present():
        for entry in journal.entries():
            if "of" in entry and entry["what"] == "tags":
                notes.setdefault(entry["of"], {}).update(entry["values"])
        if outbox.ids_of(journal):
            found[journal.key] = contents(journal)
    for key, run in found.items():
        run.tags |= notes.get(key, {}) | notes.get(run.run_id, {})
        yield run


def waiting_run(run_id: str) -> Contents | None:
    """The run, if it lies in the outbox."""
    if not outbox.of_run(run_id):
        return None
    runs = [run for run in waiting_runs() if run.run_id == run_id or run_id == outbox.new_ids().get(run.run_id)]
    return runs[-1] if runs else None
