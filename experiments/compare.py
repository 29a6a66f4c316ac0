"""Entry point: train the missing runs of several variants and compare the variants, or compare finished runs."""

from collections.abc import Sequence

from .system.terminal import run_program


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line. Wrong settings or data end it with exit code 2 before any training."""
    from .settings.base import SettingsError
    from .settings.command_line import fail, read
    from .settings.compare import CompareSettings
    from .settings.trainings import plan

    settings = read(CompareSettings, argv)
    try:
        trainings = [] if settings.finished_by else plan(settings)
    except SettingsError as error:
        fail(CompareSettings.command, error.problems)

    # These imports take seconds, and neither --help nor the error for a wrong option needs them.
    from . import entry
    from .comparison.compare import compare, compare_finished

    entry.refuse_torchrun(CompareSettings.command)
    with entry.at_work(CompareSettings.command, settings.given):
        if settings.finished_by:
            compare_finished(settings)
        else:
            compare(settings, trainings)


if __name__ == "__main__":
    run_program(main, "python -m experiments.compare")
