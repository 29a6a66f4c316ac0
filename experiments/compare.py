"""Entry point: compare several variants side by side, after training what is missing, or finished runs."""

from collections.abc import Sequence

from experiments.config import CompareSettings, SettingsError, fail, plan


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line; bad settings or data exit with 2 before anything is trained."""
    given = CompareSettings.given(argv)
    settings = CompareSettings.from_argv(argv)
    try:
        trainings = [] if settings.finished_by else plan(settings, given)
    except SettingsError as error:
        fail(CompareSettings.command, error.problems)

    # Seconds of imports that --help and a refused option can do without.
    from experiments import comparison, entry

    entry.refuse_torchrun(CompareSettings.command)
    with entry.at_work(CompareSettings.command):
        if settings.finished_by:
            comparison.compare_finished(settings, given)
        else:
            comparison.compare(settings, given, trainings)


if __name__ == "__main__":
    main()
