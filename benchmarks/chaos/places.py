"""Where commands are disturbed: folders with a store and images; what is there in the end, and what may differ."""

import random
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from experiments.settings.command_line import words_of
from tests.conftest import put_store
from tests.toys.programs import OPTIONS, Leaves, Program, Verdict, called, judged, left, stable, timed
from tests.toys.scenes import put_scenes

COMMANDS = {
    "train": OPTIONS | {"epochs": "3"},
    "compare": OPTIONS | {"cutout_size": "8"},
    "tune": OPTIONS | {"trials": "3", "workers": "1", "confirm": "false"},
}
PATIENCE = 5  # commands that may fail before the one that must succeed
# What may differ after a kill. By the name of a value: the part of it that says which attempt made something, and no
# more. The rest of the value must be equal.
MAY_DIFFER = {
    # A comparison that was killed uses the trainings that it had finished.
    r"compare: .*: file (runs\.csv|comparison\.json runs) \d+ reused": r"False|True",
    r"compare: .*: file report\.html line \d+": r"<td>(for this comparison|earlier, reused)</td>",
    # A study counts the attempts at each training. That of a killed process is one.
    r"tune: .*: file (tables/trials\.json|trials\.csv|tuning\.json trials) \d+ attempts": r"\d+",
}


def rest(name: str, value: str) -> str:
    """The value without the part that may differ after a kill."""
    parts = [part for names, part in MAY_DIFFER.items() if re.fullmatch(names, name)]
    return re.sub("|".join(parts), "", value) if parts else value


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
        folder = self.root / re.sub(r"\W+", "-", name)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        self.fill(folder)
        yield folder
        for path in self.root.glob(f"{folder.name}*"):
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
                with self.folder(f"undisturbed {command} {number}") as folder:
                    experiment = f"undisturbed {command} {number}" if store else "Default"
                    own = {"MLFLOW_EXPERIMENT_NAME": experiment} if store else {}
                    program = Program(command, words_of(COMMANDS[command]), folder, {**variables, **own})
                    code, seconds = timed(program)
                    assert code == 0, program.said
                    found.append(left(store or own_store(folder), experiment, folder))
                    writes = program.writes
            self._expected[key] = stable(*found), seconds, writes
            print(f"undisturbed {command}: {seconds:.0f} s, {writes} writes", flush=True)
        return self._expected[key]

    def close(self) -> None:
        """Removes everything but what is wrong."""
        for path in self.root.iterdir():
            if not path.name.startswith("wrong-"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        if not any(self.root.iterdir()):
            self.root.rmdir()


def own_store(folder: Path) -> str:
    """The address of the store in the folder."""
    return f"sqlite:///{folder}/mlflow.db"


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


def verdict_on(
    program: Program, code: int, expected: Mapping[str, Leaves], store: str = "", experiment: str = "Default"
) -> Verdict:
    """Finishes the work of a program that ended with `code`, and compares what is there with what is expected.

    What is typed now runs undisturbed, so each failure counts as a loss.
    """
    failed = completed(program) if code else completed_by_sending(program)
    found = left(store or own_store(program.folder), experiment, program.folder)
    verdict = judged(expected, found, program.said, rest)
    verdict.lost += failed
    return verdict


def break_off(program: Program) -> None:
    """Keeps what is wrong, and shows what was printed last."""
    folder = program.folder
    kept = folder.with_name(f"wrong-{folder.name}-{time.time_ns()}")
    shutil.copytree(folder, kept, symlinks=True)
    (kept / "said").write_text(program.said)
    print(f"    kept in {kept}; printed last:", *program.said.splitlines()[-6:], sep="\n      ", flush=True)


def chance_of(part: str, number: int) -> random.Random:
    """The random numbers of a try: the same in each repetition."""
    return random.Random(f"{part} {number}")
