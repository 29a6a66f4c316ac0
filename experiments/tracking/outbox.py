"""The outbox: the folder of the journals that MLflow does not have yet, and the settings that decide about it.

Ids. A run that is opened while MLflow is away gets the key of its journal as its id. When it is sent, MLflow gives it
another id. The file `ids` in the outbox keeps both, and the tag `camparison.outbox` of the run in MLflow is the key, so
that the old id finds the run for ever.
"""

import hashlib
import os
import re
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import mlflow

from .journal import Entry, Journal, framed, parsed
from .locations import TrackingError

OFFLINE, OUTBOX, WAIT = "CAMPARISON_OFFLINE", "CAMPARISON_OUTBOX", "CAMPARISON_WAIT_FOR_TRACKING"
WAIT_S = 120.0
KEY = "camparison.outbox"  # the tag of a run: the key of its journal
ID = re.compile(r"\b[0-9a-f]{32}\b")


def folder() -> Path:
    """The folder of the outbox: `CAMPARISON_OUTBOX`, else `mlruns/outbox`."""
    return Path(os.environ.get(OUTBOX) or Path("mlruns", "outbox")).expanduser().absolute()


def is_offline() -> bool:
    """Whether runs are written into the outbox only: `CAMPARISON_OFFLINE`."""
    return os.environ.get(OFFLINE, "").strip().lower() not in ("", "0", "false", "no")


def wait_s() -> float:
    """Seconds that the end of a run waits for MLflow: `CAMPARISON_WAIT_FOR_TRACKING`."""
    return float(os.environ.get(WAIT, "").strip() or WAIT_S)


def choose(given: Mapping[str, str]) -> None:
    """Makes the options `offline`, `outbox` and `wait_for_tracking` those of this process and of its workers.

    Raises:
        TrackingError: a variable that stands for one of them has no such value.
    """
    for option, variable in (("offline", OFFLINE), ("outbox", OUTBOX), ("wait_for_tracking", WAIT)):
        if option in given:
            os.environ[variable] = given[option]
    if not re.fullmatch(r"\d+(\.\d*)?|", waits := os.environ.get(WAIT, "").strip()):
        raise TrackingError(f"{WAIT}={waits}: must be a number of seconds, 0 or more; unset it for {WAIT_S:g}")


def new_journal(entry: Entry) -> Journal:
    """A new journal with this first entry, open for writing; this process alone sends it, unless it is offline."""
    journal = Journal(folder() / uuid.uuid4().hex)
    journal.open()
    if not is_offline():
        journal.sending.acquire(timeout=0)  # before another process can see the entry
    journal.append([entry])
    return journal


def journals() -> list[Journal]:
    """The journals in the outbox, the run that began first in front; those that hold nothing are left out."""
    began = {journal: begin["start"] for journal in _folders() if (begin := beginning(journal))}
    return sorted(began, key=lambda journal: (began[journal], journal.key))


def without_beginning() -> list[Path]:
    """The folders of journals whose process was killed before the first entry was on the disk."""
    return [journal.folder for journal in _folders() if not beginning(journal) and not journal.is_written]


def _folders() -> list[Journal]:
    place = folder()
    return [Journal(path) for path in place.iterdir() if ID.fullmatch(path.name)] if place.is_dir() else []


def beginning(journal: Journal) -> Entry | None:
    """The entry with which the journal begins; None if it is damaged or not yet there."""
    first = next(journal.lines(), None)
    return first.entry if first and first.entry and first.entry["what"] == "begin" else None


def waiting() -> list[Journal]:
    """The journals for the present store of which MLflow lacks something."""
    return [journal for journal in present() if journal.has_more or not journal.sent.closed]


def present() -> list[Journal]:
    """The journals for the present store; those that were written offline are for any."""
    current = None if is_offline() else store()
    return [j for j in journals() if current is None or (beginning(j) or {"store": None})["store"] in (None, current)]


def of_run(run_id: str) -> Journal | None:
    """The newest journal of the run that holds what the run logged itself, if it lies here."""
    found = [journal for journal in present() if run_id in ids_of(journal)]
    return found[-1] if found else None


def ids_of(journal: Journal) -> set[str]:
    """The ids under which the run of the journal is known; none if it is a journal of notes on other runs."""
    begin = beginning(journal) or {"notes": True}
    return set() if begin.get("notes") else {journal.key, journal.sent.run or "", begin["run"] or ""} - {""}


# -------------------------------------------------------------------------------------------------------------- ids


def new_ids() -> dict[str, str]:
    """The ids that MLflow gave to runs and experiments which began without it, by their ids here."""
    file = folder() / "ids"
    lines = file.read_bytes().splitlines(keepends=True) if file.exists() else []
    return {here: there for line in lines for here, there in (parsed(line) or {}).items()}


def id_now(run_id: str) -> str:
    """The id of the run in MLflow, if it had another one here; else `run_id`."""
    return new_ids().get(run_id, run_id)


def keep_id(here: str, there: str) -> None:
    """Notes the id that MLflow gave."""
    with (folder() / "ids").open("ab") as file:
        file.write(b"\n" + framed({here: there}))  # the line before may have been cut short
        file.flush()
        os.fsync(file.fileno())


def nameless() -> Iterator[str]:
    """The ids of runs in the outbox that have no id in MLflow yet."""
    for journal in journals():
        begin = beginning(journal)
        if begin and not begin.get("notes") and not begin["run"] and not journal.sent.run:
            yield journal.key


def stand_in(experiment: str) -> str:
    """An id for an experiment whose number MLflow alone knows: 32 hex digits made from its name."""
    return hashlib.sha256(f"experiment {experiment}".encode()).hexdigest()[:32]


# ------------------------------------------------------------------------------------------------------------ store


def store() -> str:
    """The address of the tracking store, without user, password, query and fragment."""
    parts = urlsplit(mlflow.get_tracking_uri())
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
