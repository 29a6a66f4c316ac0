"""Entry point: search the Cutout holes with Optuna, confirm the winner on fresh seeds; or work for a study that exists.

python -m experiments.tune --trials 40
python -m experiments.tune worker --study cutout --storage postgresql://user@host/studies
python -m experiments.tune ray --study cutout --storage postgresql://user@host/studies --workers 8 --gpus 0.5
"""

import argparse
import os
import sys
from collections.abc import Sequence

from .settings.base import SettingsError
from .settings.command_line import fail, read
from .study.addresses import STORAGE, check_storage
from .study.settings import TuneSettings


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line; bad settings or data exit with 2 before anything is created."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0] in HELPERS:
        HELPERS[words[0]](words[1:])
        return
    settings = read(TuneSettings, words)
    try:
        settings.baseline_options()
    except SettingsError as error:
        fail(TuneSettings.command, error.problems)

    # Seconds of imports that --help and a refused option can do without.
    from . import entry
    from .study.tune import tune

    entry.refuse_torchrun(TuneSettings.command)
    with entry.at_work(TuneSettings.command):
        tune(settings)


def work(words: Sequence[str]) -> None:
    """`worker`: trains what a study owes, on this machine, until nothing is left."""
    parser = _parser("worker", "Work for a study that `tune` has started, on any machine, until nothing is left to do.")
    for option in ("threads", "device"):
        parser.add_argument(f"--{option}", default="auto", help="of this machine (default: auto)")
    parser.add_argument("--precision", help="of this machine (default: the study's)")
    parser.add_argument("--quiet", action="store_true", help="print nothing, and end with the process that started it")
    given = _parsed(parser, words)

    from . import entry
    from .study.tune_worker import work_alone

    machine = {name: getattr(given, name) for name in ("threads", "device", "data_dir")}
    if given.precision is not None:
        machine["precision"] = given.precision
    with entry.at_work(parser.prog):
        work_alone(given.study, given.storage, machine, quiet=given.quiet)


def place_on_ray(words: Sequence[str]) -> None:
    """`ray`: keeps workers running on a Ray cluster until the study owes nothing more."""
    parser = _parser("ray", "Work on a Ray cluster for a study that `tune` has started.")
    parser.add_argument("--workers", type=int, default=1, help="how many (default: %(default)s)")
    parser.add_argument("--cpus", type=float, default=1.0, help="cores of each worker (default: %(default)s)")
    parser.add_argument("--gpus", type=float, default=0.0, help="GPUs of each, such as 0.5 (default: none)")
    parser.add_argument("--address", help="of the cluster, or auto for that of this machine (default: a new one here)")
    given = _parsed(parser, words)
    if given.workers < 1 or given.cpus < 0 or given.gpus < 0:
        sizes = f"workers={given.workers}, cpus={given.cpus:g}, gpus={given.gpus:g}"
        fail(parser.prog, [f"{sizes}: workers must be 1 or more, cpus and gpus 0 or more"])

    from . import entry
    from .study.ray import Placement, place, refuse_without_ray

    with entry.at_work(parser.prog):
        refuse_without_ray()
        placement = Placement(given.workers, given.cpus, given.gpus)
        place(given.study, given.storage, placement, given.address, given.data_dir)


HELPERS = {"worker": work, "ray": place_on_ray}
"""What works for a study that exists, by the first word after `tune`."""


def _parser(name: str, description: str) -> argparse.ArgumentParser:
    """Of a helper: the study's name, its storage, the folder of the images."""
    parser = argparse.ArgumentParser(prog=f"{TuneSettings.command} {name}", description=description, allow_abbrev=False)
    fields = TuneSettings.model_fields
    storage = os.environ.get(STORAGE, fields["storage"].default)
    parser.add_argument("--study", default=fields["study"].default, help="name (default: %(default)s)")
    parser.add_argument("--storage", default=storage, help=f"default: {STORAGE}, else the project's file")
    parser.add_argument("--data_dir", default=fields["data_dir"].default, help="of data sets (default: %(default)s)")
    return parser


def _parsed(parser: argparse.ArgumentParser, words: Sequence[str]) -> argparse.Namespace:
    """The options of a helper; a storage that cannot be one ends the process with 2, in one line."""
    given = parser.parse_args(words)
    try:
        check_storage(given.storage)
    except ValueError as error:
        fail(parser.prog, [str(error)])
    return given


if __name__ == "__main__":
    main()
