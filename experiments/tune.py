"""Entry point: search the Cutout holes with Optuna and confirm the winner; or work for a study that has been started.

python -m experiments.tune --trials 40
python -m experiments.tune worker --study cutout --storage postgresql://user@host/studies
python -m experiments.tune ray --study cutout --storage postgresql://user@host/studies --workers 8 --gpus 0.5
"""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from .errors import did_you_mean
from .settings.base import SettingsError
from .settings.command_line import fail, meaning, read
from .study.addresses import STORAGE, check_storage
from .study.settings import TuneSettings


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line; wrong settings or data exit with 2 before anything is created."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0] in HELPERS:
        HELPERS[words[0]](words[1:])
        return
    settings = read(TuneSettings, words)
    try:
        settings.baseline_options()
    except SettingsError as error:
        fail(TuneSettings.command, error.problems)

    # These imports take seconds, and --help or a wrong option do not need them.
    from . import entry
    from .study.tune import tune

    entry.refuse_torchrun(TuneSettings.command)
    with entry.at_work(TuneSettings.command):
        tune(settings)


def work(words: Sequence[str]) -> None:
    """`worker`: trains for a study on this machine until nothing is left to do."""
    parser = _Parser("worker", "Work on this machine for a study that `tune` has started, until nothing is left to do.")
    parser.shared("threads")
    parser.shared("device")
    parser.option("precision", None, f"{meaning(TuneSettings, 'precision')} (default: that of the study)")
    parser.add_argument("--quiet", action="store_true", help="print nothing, and end when the parent process is gone")
    given = parser.read(words)

    from . import entry
    from .study.tune_worker import work_alone

    machine = {name: getattr(given, name) for name in ("threads", "device", "precision", "data_dir")}
    with entry.at_work(parser.prog):
        work_alone(given.study, given.storage, {k: v for k, v in machine.items() if v is not None}, quiet=given.quiet)


def place_on_ray(words: Sequence[str]) -> None:
    """`ray`: keeps workers running on a Ray cluster until nothing is left to do."""
    parser = _Parser("ray", "Work on a Ray cluster for a study that `tune` has started, until nothing is left to do.")
    parser.option("workers", 1, "number of workers")
    parser.option("cpus", 1.0, "CPU cores of each worker")
    parser.option("gpus", 0.0, "GPUs of each worker, or a share such as 0.5")
    parser.option("address", None, "HOST:PORT of the cluster, or auto (default: a new cluster on this machine)")
    given = parser.read(words)
    if given.workers < 1 or given.cpus < 0 or given.gpus < 0:
        sizes = f"workers={given.workers}, cpus={given.cpus:g}, gpus={given.gpus:g}"
        parser.error(f"{sizes}: workers must be 1 or more, cpus and gpus 0 or more")

    from . import entry
    from .study.ray import Placement, place, refuse_without_ray

    with entry.at_work(parser.prog):
        refuse_without_ray()
        placement = Placement(given.workers, given.cpus, given.gpus)
        place(given.study, given.storage, placement, given.address, given.data_dir)


HELPERS = {"worker": work, "ray": place_on_ray}
"""The commands that work for a study which exists, by the first word after `tune`."""


class _Parser(argparse.ArgumentParser):
    """The command line of such a command: the study, its storage, the folder of the images, and what is added."""

    def __init__(self, name: str, description: str) -> None:
        prog = f"{TuneSettings.command} {name}"
        super().__init__(prog, "%(prog)s [--option value ...]", description, allow_abbrev=False)
        self.shared("study")
        storage = os.environ.get(STORAGE, TuneSettings.default_text("storage"))
        default = f"(default: {TuneSettings.shown('storage', storage)}; {STORAGE} changes it)"
        text = f"{meaning(TuneSettings, 'storage')} {default}".replace("%", "%%")
        self.add_argument("--storage", default=storage, metavar="", help=text)
        self.shared("data_dir")

    def shared(self, name: str) -> None:
        """Adds an option of `tune`, with its text and its default."""
        self.option(name, TuneSettings.default_text(name), meaning(TuneSettings, name))

    def option(self, name: str, default: object, text: str) -> None:
        """Adds an option; without a default it is a text."""
        kind = str if default is None else type(default)
        text += "" if default is None else f" (default: {default})"
        self.add_argument(f"--{name}", type=kind, default=default, metavar="", help=text.replace("%", "%%"))

    def read(self, words: Sequence[str]) -> argparse.Namespace:
        """The options; a word that no option takes, or a wrong storage, ends the process with 2, in one line."""
        given, stray = self.parse_known_args(words)
        if stray:
            known = [f"--{name}" for name in vars(given)]
            self.error(f"{stray[0]!r}: no option takes this word{did_you_mean(stray[0], known)}")
        try:
            check_storage(given.storage)
        except ValueError as error:
            self.error(str(error))
        return given

    def error(self, message: str) -> NoReturn:
        """Prints the problem in one line and exits with 2."""
        fail(self.prog, [message])


if __name__ == "__main__":
    main()
