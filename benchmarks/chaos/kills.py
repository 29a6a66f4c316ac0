"""Kills of commands, at random moments and at their writes, and of the start that makes the store."""

import os
import random
import signal
import time

from benchmarks.first_start import kill_first_starts
from experiments.settings.command_line import words_of
from tests.toys.programs import Program, Verdict, Writes, die, end_of, has_ended

from .notes import Notes
from .places import COMMANDS, Place, break_off, chance_of, own_store, verdict_on

IN_A_ROW = 5
REALLY = 10  # of so many rows one is of programs that import everything themselves
IMPORTS_S = 8.0  # seconds that this adds, about


def kills(command: str, notes: Notes, place: Place, count: int) -> None:
    """Rows of kills in `train`, `compare` or `tune`."""
    for number in notes.todo(part := f"kills in {command}", count):
        row(notes, place, part, command, number)


def row(notes: Notes, place: Place, part: str, command: str, number: int) -> None:
    """A command is killed, typed again, and killed again, until it has ended; what it leaves is compared."""
    chance = chance_of(part, number)
    expected, seconds, writes = place.expected(command, {}, "")
    with place.folder(f"{part} {number}") as folder:
        is_real = number % REALLY == REALLY - 1
        program = Program(command, words_of(COMMANDS[command]), folder, is_real=is_real)
        seconds += IMPORTS_S * is_real
        killed = 0
        while killed < IN_A_ROW and kill(program, chance, seconds, writes):
            killed += 1
            if has_ended(command, own_store(folder), folder):
                break
        is_done = has_ended(command, own_store(folder), folder)  # typed again, it would do its work again
        verdict = verdict_on(program, 0 if is_done else 1, expected)
        if not notes.add(part, number, killed, verdict, "programs" if is_real else "").is_good:
            break_off(program)


def kill(program: Program, chance: random.Random, seconds: float, writes: int) -> bool:
    """Kills it at a write, or at a moment; False if it had ended before."""
    if chance.random() < 0.5 and not program.is_real:
        return program.run(Writes(chance.randrange(1, writes), die)) == -signal.SIGKILL
    pid = program.start()
    time.sleep(chance.uniform(0, seconds))
    os.kill(pid, signal.SIGKILL)
    return end_of(pid) == -signal.SIGKILL


def first_starts(notes: Notes, place: Place, count: int) -> None:
    """Kills of the start that makes the store, ten in a try."""
    for number in notes.todo(part := "kills of a first start", count):
        killed = [outcome for outcome in kill_first_starts(min(10, count)) if outcome.killed]
        lost = sum(not outcome.works for outcome in killed)
        notes.add(part, number, len(killed), Verdict(lost=lost, differs=[name for one in killed for name in one.left]))
