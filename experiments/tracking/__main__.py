"""The tracking store on the command line: python -m experiments.tracking prepare | ui [--port N] | relocate | tidy."""

import argparse
import sys
from collections.abc import Sequence

from ..system.secrets import hidden, without_password
from .locations import TrackingError
from .store import prepare_store, relocate
from .tidy import add_options, tidy
from .ui import UI_PORT, serve_ui


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs `python -m experiments.tracking`; returns the exit code: 0, or 1 after one line with the problem."""
    parser = argparse.ArgumentParser(prog="python -m experiments.tracking", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("prepare", help="set up the tracking store")
    commands.add_parser("ui", help="open the MLflow UI").add_argument("--port", type=int, default=UI_PORT)
    commands.add_parser("relocate", help="correct the recorded paths after the project folder was moved")
    add_options(commands.add_parser("tidy", help="show what killed programs left behind, and remove it on request"))
    given = parser.parse_args(arguments)
    try:
        if given.command == "prepare":
            print(f"tracking store: {without_password(prepare_store())}")
        elif given.command == "relocate":
            print(relocate())
        elif given.command == "tidy":
            for line in tidy(given):
                print(line)
        else:
            return serve_ui(given.port)
    except TrackingError as error:
        print(hidden(str(error)), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
