"""Entry point: search the Cutout holes with Optuna and confirm the winner; or work for a study that has been started.

python -m experiments.tune --trials 40
python -m experiments.tune worker --study cutout --storage postgresql://user@host/studies
python -m experiments.tune ray --study cutout --storage postgresql://user@host/studies --workers 8 --gpus 0.5
"""

import os
import sys
from collections.abc import Sequence

from .system.terminal import run_program

COMMAND = "python -m experiments.tune"


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line; wrong settings or data exit with 2 before anything is created."""
    from .study.addresses import hide_in_list_of_processes, password_to_environment

    words = list(sys.argv[1:] if argv is None else argv)
    if "MLFLOW_RUN_ID" not in os.environ:  # `mlflow run` has shown it to everyone already, which is refused
        safe = password_to_environment(words)
        if argv is None:
            hide_in_list_of_processes(words, safe)
        words = safe
    if words and words[0] in HELPERS:
        HELPERS[words[0]](words[1:])
        return
    from .settings.base import SettingsError
    from .settings.command_line import fail, read
    from .study.settings import TuneSettings

    settings = read(TuneSettings, words)
    try:
        settings.baseline_options()
    except SettingsError as error:
        fail(TuneSettings.command, error.problems)

    # These imports take seconds, and --help or a wrong option do not need them.
    from . import entry
    from .study.tune import tune

    entry.refuse_torchrun(TuneSettings.command)
    with entry.at_work(TuneSettings.command, settings.given):
        tune(settings)


def work(words: Sequence[str]) -> None:
    """`worker`: trains for a study on this machine until nothing is left to do."""
    from .study.helper_options import worker_options

    given, machine = worker_options(words)

    from . import entry
    from .study.local_workers import work_alone

    with entry.at_work(f"{COMMAND} worker", last_words=not given.quiet):
        work_alone(given.study, given.storage, machine, quiet=given.quiet)


def place_on_ray(words: Sequence[str]) -> None:
    """`ray`: keeps workers running on a Ray cluster until nothing is left to do."""
    from .study.helper_options import ray_options

    given = ray_options(words)

    from . import entry
    from .study.ray import Placement, place, refuse_without_ray

    with entry.at_work(f"{COMMAND} ray"):
        refuse_without_ray()
        placement = Placement(given.workers, given.cpus, given.gpus)
        place(given.study, given.storage, placement, given.address, given.data_dir)


HELPERS = {"worker": work, "ray": place_on_ray}
"""The commands that work for a study which exists, by the first word after `tune`."""


if __name__ == "__main__":
    run_program(main, COMMAND)
