"""The former spelling of `python -m experiments.tune ray`, which the next version leaves out."""

import sys
from collections.abc import Sequence

from .system.terminal import run_program
from .tune import main as tune


def main(argv: Sequence[str] | None = None) -> None:
    """Runs `tune ray` with the same options."""
    print("note: `python -m experiments.ray_workers` is now `python -m experiments.tune ray`", file=sys.stderr)
    tune(["ray", *(sys.argv[1:] if argv is None else argv)])


if __name__ == "__main__":
    run_program(main, "python -m experiments.ray_workers")
