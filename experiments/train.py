"""Entry point: train one variant, explain it with Grad-CAM, log everything to MLflow."""

from collections.abc import Sequence

from experiments.config import SettingsError, TrainSettings, fail


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line; bad settings or data exit with 2 before anything is trained."""
    given = TrainSettings.given(argv)
    settings = TrainSettings.from_argv(argv)

    # Seconds of imports that --help and a refused option can do without.
    from experiments import tracking, variant
    from experiments.data import DataError
    from experiments.progress import Printer, shown
    from experiments.training import TrainingDiverged

    try:
        tracking.prepare_store()
        prepared = variant.prepare(settings, given, reporter=Printer())
        with shown(variant.work(prepared)) as reporter:
            run = variant.train(prepared, reporter)
        print(variant.headline(run))
    except (SettingsError, DataError, tracking.TrackingError) as error:
        fail(TrainSettings.command, str(error).splitlines())
    except TrainingDiverged as error:
        raise SystemExit(f"{TrainSettings.command}: {error}") from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
