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
from .settings.command_line import fail, read
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
    parser.option("threads", "auto", "CPU threads of a training on this machine")
    parser.option("device", "auto", "device on this machine: auto, cpu, cuda, cuda:1 ...")
    parser.option("precision", None, "number format on this machine (default: that of the study)")
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
        fields = TuneSettings.model_fields
        self.option("study", fields["study"].default, "name of the study")
        storage = os.environ.get(STORAGE, fields["storage"].default)
        help_text = f"where the study is stored (default: {STORAGE} if it is set, else {fields['storage'].default})"
        self.add_argument("--storage", default=storage, metavar="", help=help_text)
        self.option("data_dir", fields["data_dir"].default, "folder for data sets on this machine")

    def option(self, name: str, default: object, text: str) -> None:
        """Adds an option; without a default it is a text."""
        kind = str if default is None else type(default)
        shown = text if default is None else f"{text} (default: %(default)s)"
        self.add_argument(f"--{name}", type=kind, default=default, metavar="", help=shown)

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
