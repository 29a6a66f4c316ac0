"""Outages of a server, of its database, of a study's storage, and of the disk."""

import os
import random
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from experiments.settings.command_line import words_of
from tests.conftest import free_port, mlflow_server
from tests.toys import postgres
from tests.toys.programs import Program, Writes, end_of
from tests.toys.unreliable import FROZEN, GONE, LATE, SLOW, Proxy

from .notes import Notes
from .places import COMMANDS, Place, break_off, chance_of, verdict_on

BY_PROXY = {
    "gone": GONE,
    "frozen": FROZEN,
    "status 500": "500",
    "status 503": "503",
    "slow": SLOW,
    "late": LATE,
    "status 401": "401",
}
IMPATIENT = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "1", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
DISK = "100m"


@dataclass(frozen=True)
class Store:
    """A store that can be disturbed: its address for commands, the way past the disturbance, and both switches."""

    address: str
    direct: str
    disturb: Callable[[], None]
    heal: Callable[[], None] = lambda: None


def outages(notes: Notes, place: Place, count: int) -> None:
    """Outages of a server, of its database, of a study's storage, and of the disk."""
    outages_of_a_server(notes, place, count)
    restarts(notes, place, count)
    full_disks(notes, place, count)


def outages_of_a_server(notes: Notes, place: Place, count: int) -> None:
    """In `train` and `compare`."""
    parts = {f"outage: {kind}": mode for kind, mode in BY_PROXY.items()}
    todo = [(mode, part, number) for part, mode in parts.items() for number in notes.todo(part, count)]
    if not todo:
        return
    (served := place.root / "served").mkdir(exist_ok=True)
    command = ["mlflow", "ui", "--workers", "1"]
    with mlflow_server(served, command, free_port()) as behind, proxy_process(behind) as (address, switch):
        for mode, part, number in todo:
            outage(notes, place, part, number, Store(address, behind, partial(switch, mode), partial(switch, "")))


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


def outage(notes: Notes, place: Place, part: str, number: int, store: Store) -> None:
    """Disturbs a command from one random moment to another, or up to its end."""
    chance = chance_of(part, number)
    command = ("train", "compare")[number % 2]
    variables = {"MLFLOW_TRACKING_URI": store.address, **IMPATIENT}
    expected, seconds, _ = place.expected(command, variables, store.direct)
    with place.folder(f"{part} {number}") as folder:
        experiment = f"{part} {number} {time.time_ns()}"
        own = variables | {"MLFLOW_EXPERIMENT_NAME": experiment}
        program = Program(command, words_of(COMMANDS[command]), folder, own)
        pid = program.start()
        time.sleep(chance.uniform(0, 0.9 * seconds))
        store.disturb()
        if chance.random() < 0.5:
            time.sleep(chance.uniform(0.5, seconds))
            store.heal()
        code = end_of(pid)
        store.heal()
        verdict = verdict_on(program, code, expected, store.direct, experiment)
        if not notes.add(part, number, 1, verdict, f"{command} ended with {code}").is_good:
            break_off(program)


def restarts(notes: Notes, place: Place, count: int) -> None:
    """PostgreSQL, with the tracking store or a study in it, is restarted as in a crash."""
    tracking, study = "outage: the tracking database restarts", "outage: the study's database restarts"
    todo = {part: list(notes.todo(part, count)) for part in (tracking, study)}
    if not any(todo.values()) or not postgres.PROGRAMS.exists():
        return
    with postgres.running() as server:
        address = server.address("mlflow").replace("postgresql:", "postgresql+psycopg:")
        for number in todo[tracking]:
            outage(notes, place, tracking, number, Store(address, address, server.restart))
        for number in todo[study]:
            restart_under_a_study(notes, place, study, number, server)


def restart_under_a_study(notes: Notes, place: Place, part: str, number: int, server: postgres.Postgres) -> None:
    """`tune` with its study in PostgreSQL, which is restarted twice."""
    expected, seconds, _ = place.expected("tune", {}, "")
    chance = chance_of(part, number)
    with place.folder(f"{part} {number}") as folder:
        storage = server.address(f"study{number}-{time.time_ns()}")
        # A Python of its own, because `tune` starts itself again to hide the password in its address.
        program = Program("tune", words_of(COMMANDS["tune"] | {"storage": storage}), folder, is_real=True)
        pid = program.start()
        for _ in range(2):
            time.sleep(chance.uniform(0, 0.5 * seconds))
            server.restart()
        code = end_of(pid)
        verdict = verdict_on(program, code, expected)
        if not notes.add(part, number, 1, verdict, f"tune ended with {code}").is_good:
            break_off(program)


def full_disks(notes: Notes, place: Place, count: int) -> None:
    """The disk with the store, the outbox, data and temporary files is full from one of the writes on."""
    if os.geteuid():
        print("a full disk needs root: left out", flush=True)
        return
    for number in notes.todo(part := "outage: the disk is full", count):
        chance = chance_of(part, number)
        command = list(COMMANDS)[number % 3]
        expected, _, writes = place.expected(command, {}, "")
        with small_disk(place.root / f"disk-{number}") as folder:
            place.fill(folder)
            program = Program(command, words_of(COMMANDS[command]), folder)
            code = program.run(Writes(chance.randrange(1, writes), partial(fill, folder, chance)))
            (folder / "ballast").unlink(missing_ok=True)
            verdict = verdict_on(program, code, expected)
            if not notes.add(part, number, 1, verdict, f"{command} ended with {code}").is_good:
                break_off(program)


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of its own in the folder."""
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "chaos", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def fill(folder: Path, chance: random.Random) -> None:
    """Leaves nothing, or some kilobytes, of the disk free."""
    with suppress(OSError), (folder / "ballast").open("wb", buffering=0) as file:
        while file.write(bytes(1 << 16)):
            pass
    with suppress(OSError):
        size = (folder / "ballast").stat().st_size
        os.truncate(folder / "ballast", max(0, size - chance.choice([0, 4096, 65536])))
