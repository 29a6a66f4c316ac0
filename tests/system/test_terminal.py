"""A program goes on when nobody reads what it prints, and Ctrl-C ends it with one line. The programs here are real."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from experiments.system.terminal import INTERRUPTED
from tests.conftest import PATIENCE_S

BEGIN = "import os, signal, sys\nfrom experiments.system.terminal import *\n"
END = "\nrun_program(main, 'x')"
CHATTY = (
    "def main():\n"
    "    with open('data', 'w') as file:\n"
    "        for i in range(3000):\n"
    "            print('±', i, flush=i % 100 == 0)\n"
    "            print('−', i, file=sys.stderr)\n"
    "        sys.__stdin__, sys.stdin.read()\n"
    "        file.write('whole')"
)


def at_a_terminal() -> None:
    """As a program of a terminal: background jobs ignore Ctrl-C, `nohup` ignores its end, and children inherit that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def run(code: str, *options: str, start: Callable[[], None] = at_a_terminal, **streams: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of the program."""
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    words = [sys.executable, *options, "-c", BEGIN + code + END]
    done = subprocess.run(words, text=True, encoding="utf-8", timeout=PATIENCE_S, preexec_fn=start, **pipes | streams)  # type: ignore[call-overload]
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("options", [[], ["-u"]])
def test_output_that_nobody_reads_is_no_reason_to_stop(tmp_path: Path, options: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        code, _, _ = run(CHATTY, *options, stdout=writer, stderr=writer)
    finally:
        os.close(writer)
    assert (code, (tmp_path / "data").read_text()) == (0, "whole")


def test_a_full_disk_under_the_output_is_no_reason_to_stop(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full on this system")
    with open("/dev/full", "wb") as full:
        assert run(CHATTY, stdout=full, stderr=full)[0] == 0
    assert (tmp_path / "data").read_text() == "whole"


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)])
def test_closed_streams_are_no_reason_to_stop_and_take_no_file(tmp_path: Path, closed: tuple[int, ...]) -> None:
    """Without care the next file that is opened is stdout, and what is printed stands in it."""
    code, out, err = run(CHATTY, start=lambda: [os.close(number) for number in closed] and None)
    assert (code, (tmp_path / "data").read_text()) == (0, "whole")
    assert [len(text.splitlines()) for text in (out, err)] == [0 if 1 in closed else 3000, 0 if 2 in closed else 3000]


def test_what_an_encoding_does_not_have_is_spelled_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    code, out, err = run("def main():\n    print('90 ± 1 → 猫 \\udcff')\n    print('−1', file=sys.stderr)")
    assert (code, out, err) == (0, "90 +/- 1 -> \\u732b \\udcff\n", "-1\n")


@pytest.mark.parametrize(
    "code",
    [
        "def main():\n    signal.raise_signal(signal.SIGINT)",
        "class Import:\n    def __del__(self):\n        signal.raise_signal(signal.SIGINT)\ndef main():\n    Import()",
        "def main():\n    with interruptible():\n        pass\n    signal.raise_signal(signal.SIGINT)",
        "def main():\n    with interruptible():\n        signal.raise_signal(signal.SIGINT)",
        "import time\n"
        "class Lost:\n    def __del__(self):\n        signal.raise_signal(signal.SIGINT)\n"
        "def main():\n    with interruptible():\n        Lost()\n        time.sleep(900)",
    ],
)
def test_ctrl_c_ends_with_one_line_and_130(code: str) -> None:
    assert run(code) == (INTERRUPTED, "", "x: stopped\n")


def test_ctrl_c_can_be_handled_where_something_is_open() -> None:
    code = (
        "def main():\n"
        "    try:\n"
        "        with interruptible():\n"
        "            signal.raise_signal(signal.SIGINT)\n"
        "    except KeyboardInterrupt:\n"
        "        print('closed')\n"
        "        raise SystemExit(130)"
    )
    assert run(code) == (INTERRUPTED, "closed\n", "")


def test_ctrl_c_while_the_program_of_the_store_imports_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mlflow.py").write_text("import signal\nsignal.raise_signal(signal.SIGINT)")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ['PYTHONPATH']}")
    words = [sys.executable, "-m", "experiments.tracking", "prepare"]
    done = subprocess.run(words, text=True, capture_output=True, timeout=PATIENCE_S, preexec_fn=at_a_terminal)
    assert (done.returncode, done.stdout, done.stderr) == (INTERRUPTED, "", "python -m experiments.tracking: stopped\n")


def test_what_ignores_ctrl_c_goes_on_ignoring_it() -> None:
    code = "def main():\n    with interruptible():\n        signal.raise_signal(signal.SIGINT)\n    print('end')"
    assert run(code, start=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN) and None) == (0, "end\n", "")


def test_a_closed_terminal_is_a_request_to_end_unless_nohup_started_the_program() -> None:
    code = (
        "def stop(number, frame):\n"
        "    raise SystemExit(128 + number)\n"
        "def main():\n"
        "    signal.signal(signal.SIGTERM, stop)\n"
        "    signal.raise_signal(signal.SIGHUP)\n"
        "    print('end')"
    )
    assert run(code) == (128 + signal.SIGHUP, "", "")
    assert run(code, start=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN) and None) == (0, "end\n", "")
    plain = "def main():\n    signal.raise_signal(signal.SIGHUP)\n    print('end')"
    assert run(plain) == (-signal.SIGHUP, "", "")


def test_any_backend_of_matplotlib_is_no_reason_to_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPLBACKEND", "no such backend")
    assert run("def main():\n    print(os.environ['MPLBACKEND'])") == (0, "agg\n", "")
