"""Entry point: search the Cutout holes with Optuna, confirm the winner on fresh seeds; or work for a study that exists.

python -m experiments.tune --trials 40
python -m experiments.tune worker --study cutout --storage postgresql://user@host/studies
"""

import sys
from collections.abc import Sequence

from experiments.config import SettingsError, fail
from experiments.tune_settings import TuneSettings, parsed, study_parser


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line; bad settings or data exit with 2 before anything is created."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["worker"]:
        work(words[1:])
        return
    given = TuneSettings.given(words)
    settings = TuneSettings.from_argv(words)
    try:
        settings.baseline_options()
    except SettingsError as error:
        fail(TuneSettings.command, error.problems)

    # Seconds of imports that --help and a refused option can do without.
    from experiments import entry, tuning

    entry.refuse_torchrun(TuneSettings.command)
    with entry.at_work(TuneSettings.command):
        tuning.tune(settings, given)


def work(words: Sequence[str]) -> None:
    """`worker`: takes tickets of a study until none is left."""
    command = f"{TuneSettings.command} worker"
    parser = study_parser(
        command, "Work for a study that `tune` has started, on any machine, until nothing is left to do."
    )
    for option in ("threads", "device"):
        parser.add_argument(f"--{option}", default="auto", help="of this machine (default: auto)")
    parser.add_argument("--precision", help="of this machine (default: the study's)")
    parser.add_argument(
        "--quiet", action="store_true", help="say nothing, and end with the process that started this one"
    )
    given = parsed(parser, words)

    from experiments import entry, tuning

    machine = {name: getattr(given, name) for name in ("threads", "device", "data_dir")}
    if given.precision is not None:
        machine["precision"] = given.precision
    with entry.at_work(command):
        tuning.work_alone(given.study, given.storage, machine, quiet=given.quiet)


if __name__ == "__main__":
    main()
