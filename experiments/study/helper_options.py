"""The command lines of the helpers of a study, `tune worker` and `tune ray`."""

import argparse
import os
from collections.abc import Sequence
from typing import NoReturn

from ..errors import did_you_mean
from ..settings.command_line import fail, meaning
from .addresses import STORAGE, check_storage
from .settings import TuneSettings


class HelperParser(argparse.ArgumentParser):
    """The command line of a helper: the study, its storage, the folder of the images, and what is added."""

    def __init__(self, name: str, description: str) -> None:
        prog = f"{TuneSettings.command} {name}"
        super().__init__(prog, "%(prog)s [--option value ...]", description, allow_abbrev=False)
        self.shared("study")
        storage = os.environ.get(STORAGE, "").strip() or TuneSettings.default_text("storage")
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


def worker_options(words: Sequence[str]) -> tuple[argparse.Namespace, dict[str, str]]:
    """The options of `tune worker`, and those among them that this machine decides."""
    parser = HelperParser("worker", "Work on this machine for a study that `tune` has started, until nothing is left.")
    parser.shared("threads")
    parser.shared("device")
    parser.option("precision", None, f"{meaning(TuneSettings, 'precision')} (default: that of the study)")
    parser.add_argument("--quiet", action="store_true", help="print nothing, and end when the parent process is gone")
    given = parser.read(words)
    machine = {name: getattr(given, name) for name in ("threads", "device", "precision", "data_dir")}
    return given, {name: value for name, value in machine.items() if value is not None}


def ray_options(words: Sequence[str]) -> argparse.Namespace:
    """The options of `tune ray`."""
    parser = HelperParser("ray", "Work on a Ray cluster for a study that `tune` has started, until nothing is left.")
    parser.option("workers", 1, "number of workers")
    parser.option("cpus", 1.0, "CPU cores of each worker")
    parser.option("gpus", 0.0, "GPUs of each worker, or a share such as 0.5")
    parser.option("address", None, "HOST:PORT of the cluster, or auto (default: a new cluster on this machine)")
    given = parser.read(words)
    if not (given.workers >= 1 and 0 <= given.cpus < float("inf") and 0 <= given.gpus < float("inf")):  # not NaN
        sizes = f"workers={given.workers}, cpus={given.cpus:g}, gpus={given.gpus:g}"
        parser.error(f"{sizes}: workers must be 1 or more, cpus and gpus 0 or more")
    return given
