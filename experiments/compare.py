"""Entry point: train what is missing of several variants, then compare them side by side."""

from collections.abc import Sequence

from experiments.config import CompareSettings, SettingsError, fail, plan


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line; bad settings or data exit with 2 before anything is trained."""
    given = CompareSettings.given(argv)
    settings = CompareSettings.from_argv(argv)
    try:
        trainings = plan(settings, given)
    except SettingsError as error:
        fail(CompareSettings.command, error.problems)

    # Seconds of imports that --help and a refused option can do without.
    from experiments import comparison, entry

    with entry.at_work(CompareSettings.command):
        comparison.compare(settings, given, trainings)


if __name__ == "__main__":
    main()
