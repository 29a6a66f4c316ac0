"""Entry point: compare several variants side by side, after training what is missing, or finished runs."""

from collections.abc import Sequence

from .settings.base import SettingsError
from .settings.command_line import fail, read
from .settings.compare import CompareSettings
from .settings.trainings import plan


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line; bad settings or data exit with 2 before anything is trained."""
    settings = read(CompareSettings, argv)
    try:
        trainings = [] if settings.finished_by else plan(settings)
    except SettingsError as error:
        fail(CompareSettings.command, error.problems)

    # Seconds of imports that --help and a refused option can do without.
    from . import entry
    from .comparison.compare import compare, compare_finished

    entry.refuse_torchrun(CompareSettings.command)
    with entry.at_work(CompareSettings.command):
        if settings.finished_by:
            compare_finished(settings)
        else:
            compare(settings, trainings)


if __name__ == "__main__":
    main()
