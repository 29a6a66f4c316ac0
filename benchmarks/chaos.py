"""Kills, outages, full disks, damaged files and odd command lines: what is lost. Writes benchmarks/results/chaos.md.

    python -m benchmarks.chaos                           everything, some hours on two cores
    python -m benchmarks.chaos kills --count 60          a part; more of it later continues where it stopped
    python -m benchmarks.chaos outages --count 2         two outages of each kind
    python -m benchmarks.chaos kills --count 3           the short form, part of `make test-wild`

Parts: kills, first-starts, outages, files, lines. What was tried is noted in data/chaos.jsonl (`--notes FILE`), a line
for each try, so every part can be stopped and continued. Tries that failed are repeated; the folder of a try that
failed is kept. Trainings are tiny, and waits are short: a command waits one second for MLflow at its end, a request has
a limit of one second, pauses are a twentieth of a second. A full disk needs root, because it is a small file system of
its own; a database that is restarted needs PostgreSQL.
"""

import argparse
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from benchmarks.first_start import kill_first_starts
from experiments.settings.command_line import words_of
from tests.conftest import free_port, mlflow_server, put_store
from tests.toys import damage, postgres
from tests.toys.programs import (
    OPTIONS,
    Leaves,
    Program,
    Verdict,
    Writes,
    called,
    die,
    end_of,
    judged,
    left,
    stable,
    timed,
)
from tests.toys.scenes import put_scenes
from tests.toys.unreliable import FROZEN, GONE, LATE, SLOW, Proxy

RESULTS = Path(__file__).parent / "results" / "chaos.md"
COMMANDS = {
    "train": OPTIONS | {"epochs": "3"},
    "compare": OPTIONS | {"cutout_size": "8"},
    "tune": OPTIONS | {"trials": "3", "workers": "1", "confirm": "false"},
}
KILLS_IN_A_ROW = 3
COUNTS = {"kills": 200, "first-starts": 100, "outages": 5, "files": 1000, "lines": 10_000}
IN_PROGRAMS = 50  # of so many command lines one is typed as a program
LINES_AT_ONCE = 500
PATIENCE = 5  # commands that may fail before the one that must succeed
# What says that something was done before, or how often: true after a kill, and no result.
CHANGES = re.compile(
    r"tables/trials\.json data \d+ 9$|reused|finished before|attempt|param resolved\.resume|resumed|earlier"
)
T = TypeVar("T")


@dataclass(frozen=True)
class Try:
    """A line of the notes: how often something was tried, and what went wrong."""

    part: str
    number: int
    tried: int
    lost: int = 0
    doubled: int = 0
    running: int = 0
    tracebacks: int = 0
    differs: int = 0
    note: str = ""
    commit: str = ""

    @property
    def is_good(self) -> bool:
        """Whether nothing went wrong."""
        return not (self.lost or self.doubled or self.running or self.tracebacks or self.differs)


class Notes:
    """The tries so far, the newest of each."""

    def __init__(self, file: Path) -> None:
        self._file = file
        file.parent.mkdir(parents=True, exist_ok=True)
        lines = file.read_text().splitlines() if file.exists() else []
        self._tries = {(one.part, one.number): one for one in (Try(**json.loads(line)) for line in lines)}
        version = ["git", "-C", str(RESULTS.parent), "rev-parse", "--short", "HEAD"]
        self._commit = subprocess.run(version, capture_output=True, text=True).stdout.strip()

    def of(self, part: str) -> list[Try]:
        """The tries of the part."""
        return [one for one in self._tries.values() if one.part == part]

    def parts(self) -> list[str]:
        """The parts of which something was tried."""
        return sorted({part for part, _ in self._tries})

    def todo(self, part: str, count: int) -> Iterator[int]:
        """The numbers of tries that are missing or went wrong, until `count` are good or have been tried now."""
        good = {one.number: one.tried for one in self.of(part) if one.is_good}
        for number in range(count):
            if sum(good.values()) >= count:
                return
            if number not in good:
                yield number
                one = self._tries.get((part, number))
                good[number] = one.tried if one else 1

    def add(self, part: str, number: int, tried: int, verdict: Verdict, note: str = "") -> Try:
        """Notes a try on the disk."""
        wrong = {"lost": verdict.lost, "doubled": verdict.doubled, "running": verdict.running}
        wrong |= {"tracebacks": verdict.tracebacks, "differs": len(verdict.differs)}
        one = Try(part, number, tried, **wrong, note="; ".join([note, *verdict.differs[:3]]), commit=self._commit)
        self._tries[part, number] = one
        with self._file.open("a") as file:
            file.write(f"{json.dumps(asdict(one))}\n")
        print(
            f"{time.strftime('%H:%M:%S')} {part} {number}: {tried} tried, {'good' if one.is_good else one}", flush=True
        )
        for line in verdict.differs[:5]:
            print(f"    {line}", flush=True)
        return one


class Place:
    """The folder of all tries: each gets one of its own with a ready store and the images."""

    def __init__(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="camparison-chaos-"))
        (self.root / "ready-store").mkdir()
        assert Program("tracking", ["prepare"], self.root / "ready-store").run() == 0
        self._expected: dict[str, tuple[dict[str, Leaves], float, int]] = {}

    @contextmanager
    def folder(self, name: str) -> Iterator[Path]:
        """A new folder; it is removed at the end, unless something is wrong."""
        folder = self.root / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        self.fill(folder)
        yield folder
        for path in self.root.glob(f"{name}*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def fill(self, folder: Path) -> None:
        """What every command needs: a store without runs, and images."""
        put_store(self.root / "ready-store", folder)
        called(lambda: put_scenes(folder).digest, folder)

    def expected(self, command: str, variables: Mapping[str, str], store: str) -> tuple[dict[str, Leaves], float, int]:
        """The leaves of an undisturbed command, its seconds and its writes."""
        if (key := f"{command} {store}") not in self._expected:
            found = []
            for number in (1, 2):
                with self.folder(f"undisturbed-{command}-{number}") as folder:
                    experiment = f"undisturbed {command} {number}" if store else "Default"
                    own = {"MLFLOW_EXPERIMENT_NAME": experiment} if store else {}
                    program = Program(command, words_of(COMMANDS[command]), folder, {**variables, **own})
                    code, seconds = timed(program)
                    assert code == 0, program.said
                    found.append(left(store or f"sqlite:///{folder}/mlflow.db", experiment, folder))
                    writes = program.writes
            self._expected[key] = stable(*found), seconds, writes
            print(f"undisturbed {command}: {seconds:.0f} s, {writes} writes", flush=True)
        return self._expected[key]


def completed(program: Program) -> int:
    """Types the command again until it succeeds, and sends what waits; returns how often it failed."""
    failed = 0
    while program.run() and failed < PATIENCE:
        failed += 1
    return failed + completed_by_sending(program)


def completed_by_sending(program: Program) -> int:
    """Sends what waits; returns how often that failed."""
    sending = Program("tracking", ["send"], program.folder, program.variables)
    return next((failed for failed in range(PATIENCE) if sending.run() == 0), PATIENCE)


# ------------------------------------------------------------------------------------------------------------- kills


def kills(notes: Notes, place: Place, count: int) -> None:
    """Rows of kills, in a third of the tries each in `train`, `compare` and `tune`."""
    for command in COMMANDS:
        for number in notes.todo(part := f"kills in {command}", -(-count // len(COMMANDS))):
            with place.folder(f"kills-{command}-{number}") as folder:
                expected, seconds, writes = place.expected(command, {}, "")
                program = Program(command, words_of(COMMANDS[command]), folder)
                chance = random.Random(f"{part} {number}")
                killed = 0
                while killed < KILLS_IN_A_ROW and kill(program, chance, seconds, writes):
                    killed += 1
                    if is_completed(command, folder):
                        break
                is_done = is_completed(command, folder)
                failed = completed_by_sending(program) if is_done else completed(program)
                found = left(f"sqlite:///{folder}/mlflow.db", "Default", folder)
                verdict = judged(expected, found, program.said, CHANGES)
                verdict.lost += failed  # it ran again without a kill, and must succeed
                if not notes.add(part, number, killed, verdict).is_good:
                    break_off(folder, program)


def kill(program: Program, chance: random.Random, seconds: float, writes: int) -> bool:
    """Kills it at a write, or at a moment; False if it had ended before."""
    if chance.random() < 0.5:
        return program.run(Writes(chance.randrange(1, writes), die)) == -signal.SIGKILL
    pid = program.start()
    time.sleep(chance.uniform(0, seconds))
    os.kill(pid, signal.SIGKILL)
    return end_of(pid) == -signal.SIGKILL


def is_completed(command: str, folder: Path) -> bool:
    """Whether its run has ended: killed after that, a command has done its work, and would do it again."""
    found = left(f"sqlite:///{folder}/mlflow.db", "Default", folder)
    return any(key.startswith(command) for key in (*found.completed, *found.ended))


def break_off(folder: Path, program: Program) -> None:
    """Keeps what is wrong, and shows what was printed last."""
    kept = folder.with_name(f"wrong-{folder.name}-{os.getpid()}-{time.time_ns()}")
    shutil.copytree(folder, kept, symlinks=True)
    (kept / "said").write_text(program.said)
    print(f"    kept in {kept}; printed last:", *program.said.splitlines()[-6:], sep="\n      ", flush=True)


def first_starts(notes: Notes, place: Place, count: int) -> None:
    """Kills of the start that makes the store, ten in a try."""
    part = "kills of a first start"
    for number in notes.todo(part, count):
        outcomes = kill_first_starts(min(10, count))
        killed = [outcome for outcome in outcomes if outcome.killed]
        lost = sum(not outcome.works for outcome in killed)
        notes.add(part, number, len(killed), Verdict(lost=lost, differs=[left for o in killed for left in o.left]))


# ----------------------------------------------------------------------------------------------------------- outages

BY_PROXY = {"gone": GONE, "frozen": FROZEN, "500": "500", "503": "503", "slow": SLOW, "late": LATE, "401": "401"}
IMPATIENT = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "1", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}


def outages(notes: Notes, place: Place, count: int) -> None:
    """Outages of a server, of its database, of a study's storage, and of the disk."""
    outages_of_a_server(notes, place, count)
    restarts(notes, place, count)
    full_disks(notes, place, count)


def outages_of_a_server(notes: Notes, place: Place, count: int) -> None:
    """In `train` and `compare`."""
    todo = [(kind, number) for kind in BY_PROXY for number in notes.todo(f"MLflow is away: {kind}", count)]
    if not todo:
        return
    (served := place.root / "served").mkdir(exist_ok=True)
    command = ["mlflow", "ui", "--workers", "1"]
    with mlflow_server(served, command, free_port()) as behind, proxy_process(behind) as (address, switch):
        for kind, number in todo:
            chance = random.Random(f"{kind} {number}")
            disturb = partial(switch, BY_PROXY[kind])
            one_outage(
                notes, place, f"MLflow is away: {kind}", number, address, behind, disturb, partial(switch, ""), chance
            )


@contextmanager
def proxy_process(behind: str) -> Iterator[tuple[str, Callable[[str], None]]]:
    """The address of a proxy in a process of its own, and what sets its mode."""
    asks, hears = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if not pid:
        asks.close()
        server = Proxy(behind)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        hears.send(server.address.encode())
        while mode := hears.recv(100).decode():  # until the process that asks has ended
            server.mode = mode.strip()
            server.thawed.clear() if server.mode == FROZEN else server.thawed.set()
            hears.send(b"done")
        os._exit(0)
    hears.close()

    def switch(mode: str) -> None:
        asks.send(mode.encode() or b" ")
        asks.recv(100)

    try:
        yield asks.recv(100).decode(), switch
    finally:
        asks.close()
        end_of(pid)


def one_outage(
    notes: Notes,
    place: Place,
    part: str,
    number: int,
    address: str,
    direct: str,
    disturb: Callable[[], None],
    heal: Callable[[], None],
    chance: random.Random,
) -> None:
    """Disturbs a command from one random moment to another, or up to its end."""
    command = ("train", "compare")[number % 2]
    variables = {"MLFLOW_TRACKING_URI": address, **IMPATIENT}
    expected, seconds, _ = place.expected(command, variables, direct)
    with place.folder("-".join(re.findall(r"\w+", f"{part} {number}"))) as folder:
        experiment = f"{part} {number} {time.time_ns()}"
        own = variables | {"MLFLOW_EXPERIMENT_NAME": experiment}
        program = Program(command, words_of(COMMANDS[command]), folder, own)
        pid = program.start()
        time.sleep(chance.uniform(0, 0.9 * seconds))
        disturb()
        if chance.random() < 0.5:
            time.sleep(chance.uniform(0.5, seconds))
            heal()
        code = end_of(pid)
        heal()
        failed = completed(program) if code else completed_by_sending(program)
        verdict = judged(expected, left(direct, experiment, folder), program.said, CHANGES)
        verdict.lost += failed
        if not notes.add(part, number, 1, verdict, f"{command} ended with {code}").is_good:
            break_off(folder, program)


def restarts(notes: Notes, place: Place, count: int) -> None:
    """PostgreSQL, with the tracking store or a study in it, is restarted as in a crash."""
    tracking, study = "the tracking database restarts", "the study's database restarts"
    todo = {part: list(notes.todo(part, count)) for part in (tracking, study)}
    if not any(todo.values()) or not postgres.PROGRAMS.exists():
        return
    with postgres.running() as server:
        address = server.address("mlflow").replace("postgresql:", "postgresql+psycopg:")
        for number in todo[tracking]:
            chance = random.Random(f"{tracking} {number}")
            one_outage(notes, place, tracking, number, address, address, server.restart, lambda: None, chance)
        for number in todo[study]:
            one_restart_under_a_study(notes, place, study, number, server)


def one_restart_under_a_study(notes: Notes, place: Place, part: str, number: int, server: postgres.Postgres) -> None:
    expected, seconds, _ = place.expected("tune", {}, "")
    chance = random.Random(f"{part} {number}")
    with place.folder(f"study-{number}") as folder:
        storage = server.address(f"study{number}-{time.time_ns()}")
        program = Program("tune", words_of(COMMANDS["tune"] | {"storage": storage}), folder)
        pid = program.start()
        for _ in range(2):
            time.sleep(chance.uniform(0, 0.5 * seconds))
            server.restart()
        code = end_of(pid)
        failed = completed(program) if code else completed_by_sending(program)
        verdict = judged(expected, left(f"sqlite:///{folder}/mlflow.db", "Default", folder), program.said, STORAGE)
        verdict.lost += failed
        if not notes.add(part, number, 1, verdict, f"tune ended with {code}").is_good:
            break_off(folder, program)


STORAGE = re.compile(f"{CHANGES.pattern}|storage|study\\.db")


def full_disks(notes: Notes, place: Place, count: int) -> None:
    """The disk with the store, the outbox, data and temporary files is full from one of the writes on."""
    part = "the disk is full"
    if os.geteuid():
        print("a full disk needs root: left out", flush=True)
        return
    for number in notes.todo(part, count):
        command = ("train", "compare", "tune")[number % 3]
        expected, _, writes = place.expected(command, {}, "")
        folder = place.root / f"disk-{number}"
        with small_disk(folder):
            place.fill(folder)
            program = Program(command, words_of(COMMANDS[command]), folder)
            chance = random.Random(f"{part} {number}")
            code = program.run(
                Writes(chance.randrange(1, writes), partial(fill, folder, chance.choice([0, 4096, 65536])))
            )
            (folder / "ballast").unlink(missing_ok=True)
            failed = completed(program) if code else completed_by_sending(program)
            verdict = judged(expected, left(f"sqlite:///{folder}/mlflow.db", "Default", folder), program.said, CHANGES)
            verdict.lost += failed
            if not notes.add(part, number, 1, verdict, f"{command} ended with {code}").is_good:
                break_off(folder, program)


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A file system of 100 MB in the folder."""
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100m", "chaos", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def fill(folder: Path, free: int) -> None:
    """Leaves so many bytes of the disk free."""
    with suppress(OSError), (folder / "ballast").open("wb", buffering=0) as file:
        while file.write(bytes(1 << 16)):
            pass
    with suppress(OSError):
        size = (folder / "ballast").stat().st_size
        os.truncate(folder / "ballast", max(0, size - free))


# -------------------------------------------------------------------------------------------- files, command lines


def files(notes: Notes, place: Place, count: int) -> None:
    """Harms the files that are read back, each kind as often as the others."""
    with place.folder("files") as folder:
        assert Program("train", words_of(COMMANDS["train"]), folder).run() == 0
        offline = {"CAMPARISON_OFFLINE": "1"}
        assert Program("train", words_of(COMMANDS["train"] | {"seed": "1"}), folder, offline).run() == 0
        for number in notes.todo(part := "damaged files", count):
            size = min(100, count)
            found = called(partial(harm, folder, number, size), folder)
            ends = Counter(end for _, end in found)
            good = {"refused", "as written"}
            verdict = Verdict(
                lost=ends["accepted"], tracebacks=sum(n for end, n in ends.items() if end not in {*good, "accepted"})
            )
            notes.add(part, number, len(found), verdict, "; ".join(f"{n} {end}" for end, n in ends.items()))
            for kind, end in found:
                if end not in good:
                    print(f"    {kind}: {end}", flush=True)


def harm(folder: Path, number: int, count: int) -> list[tuple[str, str]]:
    """The kinds of so many files that were harmed one after the other, and what their readers made of them."""
    from mlflow import MlflowClient

    from experiments.tracking.reading import finished_run
    from experiments.tracking.store import prepare_store
    from experiments.tracking.waiting import waiting_runs

    prepare_store()
    (run,) = MlflowClient().search_runs(["0"])
    (waits,) = waiting_runs()
    specimens = [
        damage.a_checkpoint(folder),
        damage.the_scenes(folder),
        *damage.files_of_a_run(finished_run(run.info.run_id)),
        *damage.the_outbox(waits.run_id),
    ]
    by_kind: dict[str, list[damage.Specimen]] = {}
    for specimen in specimens:
        by_kind.setdefault(specimen.kind, []).append(specimen)
    chance = random.Random(number)
    kinds = [list(by_kind)[at % len(by_kind)] for at in range(count)]
    return [(kind, damage.outcome(chance.choice(by_kind[kind]), chance)) for kind in kinds]


def lines(notes: Notes, place: Place, count: int) -> None:
    """Odd command lines in this process, and one in fifty as programs."""
    for part, how_many, at_once in (
        ("command lines", count, LINES_AT_ONCE),
        ("command lines of programs", count // IN_PROGRAMS, LINES_AT_ONCE // IN_PROGRAMS),
    ):
        for number in notes.todo(part, how_many):
            with place.folder("lines") as folder:
                tried, wrong = called(partial(odd_lines, part, number, at_once), folder)
                tracebacks = sum("Traceback" in said for said in wrong)
                notes.add(
                    part,
                    number,
                    tried,
                    Verdict(tracebacks=tracebacks, differs=[w[:300] for w in wrong if "Traceback" not in w]),
                )


def odd_lines(part: str, number: int, count: int) -> tuple[int, list[str]]:
    """How many were tried, and what was wrong."""
    from hypothesis import HealthCheck, Phase, given, seed, settings
    from hypothesis import strategies as st

    from tests.toys.command_lines import LOCALES, Line, command_lines, try_line, try_program, where_no_training_starts

    tried, wrong = [0], []

    def check(line: Line, locale: dict[str, str]) -> None:
        tried[0] += 1
        try:
            try_program(*line, locale) if "programs" in part else try_line(*line)
        except AssertionError as error:
            wrong.append(f"{line}: {error}")
        except Exception as error:
            wrong.append(f"{line}: Traceback: {type(error).__name__}: {error}")

    some = settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    strategies = {"line": command_lines(), "locale": st.sampled_from(LOCALES)}
    with where_no_training_starts():
        seed(f"{part} {number}")(some(given(**strategies)(check)))()
    return tried[0], wrong


# ------------------------------------------------------------------------------------------------------------ report


PARTS: dict[str, Callable[[Notes, Place, int], None]] = {
    "kills": kills,
    "first-starts": first_starts,
    "outages": outages,
    "files": files,
    "lines": lines,
}


def report(notes: Notes) -> str:
    """The table of everything that was tried."""
    rows = []
    for part in notes.parts():
        tries = notes.of(part)
        sums = [
            sum(getattr(one, name) for one in tries) for name in ("tried", "lost", "doubled", "running", "tracebacks")
        ]
        equal = sum(not one.differs for one in tries)
        rows.append(f"| {part} | {' | '.join(map(str, sums))} | {equal} of {len(tries)} |")
    commits = ", ".join(sorted({one.commit for part in notes.parts() for one in notes.of(part)}))
    return "\n".join(
        [
            "# Kills, outages, damaged files, command lines",
            "",
            f"`python -m benchmarks.chaos`, {time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores; versions {commits}.",
            "",
            "| what | tried | lost | doubled | left RUNNING | tracebacks | as expected |",
            "|---|---|---|---|---|---|---|",
            *rows,
            "",
        ]
    )


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="?", choices=PARTS)
    parser.add_argument("--count", type=int)
    parser.add_argument("--notes", type=Path, default=Path("data", "chaos.jsonl"))
    parser.add_argument("--report", type=Path, default=RESULTS)
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    notes, place = Notes(given.notes), Place()
    try:
        for part in [given.part] if given.part else PARTS:
            PARTS[part](notes, place, given.count or COUNTS[part])
    finally:
        given.report.write_text(report(notes))
        print(report(notes), file=sys.stderr)


if __name__ == "__main__":
    main()
