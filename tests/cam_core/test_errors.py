"""What users give by mistake is named in one line, with the way out."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_mistakes_are_named_in_one_line() -> None:
    program = Path(__file__).parents[1] / "toys" / "mistakes.py"
    done = subprocess.run([sys.executable, program], capture_output=True, text=True)
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)
