"""The tracking store on the command line: python -m experiments.tracking prepare | ui | relocate | tidy | send."""

import argparse
import sys
from collections.abc import Sequence

from ..system.secrets import hidden, without_password
from ..system.terminal import interruptible, run_program
from .locations import TrackingError
from .outbox import folder
from .sender import finish, send_all
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
    commands.add_parser("send", help="bring to MLflow what lies in the outbox")
    given = parser.parse_args(arguments)
    try:
        if given.command == "prepare":
            print(f"tracking store: {without_password(prepare_store())}")
        elif given.command == "relocate":
            print(relocate())
        elif given.command == "tidy":
            for line in tidy(given):
                print(line)
        elif given.command == "send":
            return send()
        else:
            return serve_ui(given.port)
    except TrackingError as error:
        print(hidden(str(error)), file=sys.stderr)
        return 1
    return 0


def send() -> int:
    """Sends what lies in the outbox; returns 0, or 1 if MLflow does not take it now."""
    prepare_store()
    taken = send_all()
    if words := finish(0.0):
        print(words, file=sys.stderr)
    else:
        print(f"nothing is left in {folder()}")
    return 0 if taken else 1


def program() -> None:
    """The command line as a program: Ctrl-C ends it with one line, after the UI has stopped its server."""
    with interruptible():
        raise SystemExit(main())


if __name__ == "__main__":
    run_program(program, "python -m experiments.tracking")
