"""Command lines as nobody should type them, and environments as nobody should have them.

Trainings do not start here: a command line that is accepted ends where its run would be opened.
"""

import io
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from hypothesis import strategies as st

from experiments import compare, train, tune
from experiments.data import scenes
from experiments.settings.compare import CompareSettings
from experiments.settings.train import TrainSettings
from experiments.study.settings import TuneSettings
from tests.conftest import PATIENCE_S, clean_environment

PROGRAMS: dict[str, tuple[Any, Any]] = {
    "train": (train, TrainSettings),
    "compare": (compare, CompareSettings),
    "tune": (tune, TuneSettings),
}
CODES = {0, 1, 2, 130}
Line = tuple[str, list[str], dict[str, str]]
"""The name of an entry point, its words, and variables of the environment."""

NUMBERS = (
    *("0", "-0", "1", "-1", "2", "16", "256", "257", "1024", "2147483647", "2147483648", "65537", "9" * 30, "9" * 5000),
    *("0.5", "1.0", "1e308", "1e309", "-1e309", "1e-400", "nan", "-nan", "inf", "0x10", "1_0", " 1 ", "１２", "²", "٣"),
)
WORDS = ("auto", "none", "all", "true", "false", "yes", "fast", "resnet18_steplr", "scenes", "cifar10", "muon", "step")
LISTS = (
    "8-20",
    "12x20",
    "9-8",
    "60,120",
    "20,24,32",
    "0-4",
    "0.1-0.2",
    "layer3",
    "gradcam,scorecam",
    "baseline,cutout",
)
VARIANTS = ("a: cutout=true; b: cutout=false", "a; A", "a: lr=x; b:", ";", "a:b:c", "1a2b3c 77aa01", "sqlite:///x.db")
PLACES = (
    *("", ".", "..", "/", "~", "~nobody/x", "/dev/null", "/dev/zero", "/dev/full", "/proc/self/mem", "/proc/1/root"),
    *(
        "x" * 300,
        "a/" * 3000,
        "file",
        "file/inside",
        "pipe",
        "loop",
        "loop/inside",
        "new/folder",
        "gone",
        "\udcff",
        "a\nb",
    ),
    *("file.toml", "pipe.toml", "loop.toml", "folder.toml", "deep.toml", "binary.toml", "odd.toml", "new.toml"),
)
ODD = ("\0", "a\0b", "\n", "a\nb", "\x1b[31m", "\u202e", "%s %d %", "{}", "$HOME", "'", '"', "🦊", "=", "--", "-", "—")

texts = st.one_of(
    st.sampled_from(NUMBERS),
    st.sampled_from(WORDS + LISTS + VARIANTS),
    st.sampled_from(PLACES),
    st.sampled_from([f"folder:{place}" for place in PLACES]),
    st.sampled_from(ODD),
    st.text(st.characters(), max_size=12),
)


def put_odd_files(folder: Path) -> None:
    """What the names in `PLACES` are."""
    (folder / "file").touch()
    for ending in ("", ".toml"):
        os.mkfifo(folder / f"pipe{ending}")
        (folder / f"loop{ending}").symlink_to(f"loop{ending}")
    (folder / "folder.toml").mkdir()
    (folder / "file.toml").write_text('base = "fast"\n[settings]\nlr = 0.2\n')
    (folder / "deep.toml").write_text(f"a = {'[' * 5000}")
    (folder / "binary.toml").write_bytes(b"\xff\xfe\0")
    (folder / "odd.toml").write_text('base = "fast"\n[settings]\nlr = 1979-05-27\nepochs = [1]\nsides = "a\\u0000b"\n')


def accepted(*_: object, **__: object) -> NoReturn:
    """Ends as a command that has done its work."""
    raise SystemExit(0)


@contextmanager
def where_no_training_starts() -> Iterator[None]:
    """Few scenes, no network, and the end where a run would be opened."""
    sizes = {"train": 20, "val": 10, "test": 10}
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scenes, "generate", partial(scenes.generate, sizes=sizes))
        patch.setattr("experiments.entry._prepare", lambda command, given: None)
        patch.setattr("experiments.entry.finish", lambda patience: "")
        patch.setattr("experiments.runs.train.train", accepted)
        patch.setattr("experiments.comparison.compare.open_run", accepted)
        patch.setattr("experiments.comparison.compare.selection.members", accepted)
        patch.setattr("experiments.study.tune.open_storage", accepted)
        patch.setattr("experiments.study.tune.Ledger.create", accepted)
        patch.setattr("experiments.study.local_workers.Ledger", accepted)
        patch.setattr(torch, "set_num_threads", lambda count: None)
        yield
    torch.set_num_threads(threads)


@st.composite
def command_lines(draw: st.DrawFn) -> Line:
    """The name of an entry point, its words, and variables of the environment."""
    name = draw(st.sampled_from(list(PROGRAMS)))
    words: list[str] = ["worker"] if name == "tune" and draw(st.integers(0, 5)) == 0 else []
    options = draw(st.lists(st.sampled_from(list(PROGRAMS[name][1].model_fields)), max_size=4))
    for option in options:
        value = draw(texts)
        words += [f"--{option}={value}"] if draw(st.booleans()) else [f"--{option}", value]
    if draw(st.integers(0, 3)) == 0:
        words.append(draw(texts))
    places = st.sampled_from([place for place in PLACES if "\0" not in place])
    variables = st.fixed_dictionaries(
        {},
        optional={
            "CIFAR10_ROOT": places,
            "HOME": places,
            **dict.fromkeys(("COLUMNS", "LINES"), st.sampled_from(NUMBERS)),
        },
    )
    return name, words, draw(variables)


def check(name: str, words: Sequence[str], code: object, said: str) -> None:
    """The code is one of the four; each line is of the program, and names what was typed."""
    command = PROGRAMS[name][1].command
    assert code in CODES, said
    assert "Traceback" not in said
    lines = said.splitlines()
    assert all(line.startswith(command) for line in lines), said
    if code == 2:
        assert len(lines) >= 2
        typed = [part for word in words for part in (word.strip("-"), word.strip("-").partition("=")[0])]
        known = [*PROGRAMS[name][1].model_fields, *(repr(part)[1:-1] for part in typed)]
        assert all(any(option in line for option in known) for line in lines[:-1]), said


def run_here(name: str, words: Sequence[str], variables: Mapping[str, str]) -> tuple[object, str]:
    """Exit code and stderr of the entry point in this process."""
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stderr(said), redirect_stdout(io.StringIO()):
        for variable, value in variables.items():
            patch.setenv(variable, value)
        try:
            PROGRAMS[name][0].main(list(words))
        except SystemExit as end:
            code = 0 if end.code is None else end.code
            if isinstance(code, str):  # Python prints it and exits with 1
                print(code, file=said)
                code = 1
            return code, said.getvalue()
    return 0, said.getvalue()


def try_line(name: str, words: Sequence[str], variables: Mapping[str, str]) -> None:
    """Types the words in this process, and checks what comes of it."""
    if not Path("file").exists():
        put_odd_files(Path())
    check(name, words, *run_here(name, words, variables))


def every_value_of_every_option() -> Iterator[tuple[str, list[str]]]:
    """Each of the odd values for each option of each entry point."""
    values = [*NUMBERS, *PLACES, *ODD, *VARIANTS]
    for name, (_, cls) in PROGRAMS.items():
        for option in cls.model_fields:
            yield from ((name, [f"--{option}={value}"]) for value in values)


LOCALES = (
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    {"LC_ALL": "xx_XX"},
    {"PYTHONIOENCODING": "ascii"},
)


def run_program(name: str, words: Sequence[str], variables: Mapping[str, str]) -> tuple[int, str]:
    """Exit code and stderr of the entry point as a program, which refuses the words or shows its help."""
    done = subprocess.run(
        [sys.executable, "-m", f"experiments.{name}", *words],
        env=clean_environment() | dict(variables),
        capture_output=True,
        timeout=PATIENCE_S,
    )
    return done.returncode, done.stderr.decode("utf-8", "backslashreplace")


def try_program(name: str, words: Sequence[str], variables: Mapping[str, str], locale: Mapping[str, str]) -> None:
    """Types the words as a program, which must refuse them, and checks what comes of it."""
    place = {"CIFAR10_ROOT": "gone", "https_proxy": "http://127.0.0.1:9"}
    if not Path("file").exists():
        put_odd_files(Path())
    kept = [word for word in words if "\0" not in word and word not in ("worker",)]
    wrong = [*kept, "--no_such_option=1"]  # so that none of them trains
    check(name, wrong, *run_program(name, wrong, {**variables, **locale, **place}))
