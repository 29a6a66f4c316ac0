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
    from experiments import comparison, tracking
    from experiments.data import DataError
    from experiments.training import TrainingDiverged

    try:
        tracking.prepare_store()
        comparison.compare(settings, given, trainings)
    except (SettingsError, DataError, tracking.TrackingError) as error:
        fail(CompareSettings.command, str(error).splitlines())
    except TrainingDiverged as error:
        raise SystemExit(f"{CompareSettings.command}: {error}") from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
