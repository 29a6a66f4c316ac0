"""Entry point: train one variant, explain it with Grad-CAM, log everything to MLflow."""

from collections.abc import Sequence

from experiments.config import NONE, TrainSettings


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line; bad settings or data exit with 2 before anything is trained."""
    given = TrainSettings.given(argv)
    settings = TrainSettings.from_argv(argv)

    # Seconds of imports that --help and a refused option can do without.
    from experiments import entry, parallel, progress, variant

    with parallel.started(), entry.at_work(TrainSettings.command):
        if parallel.rank():
            variant.assist(variant.prepare(settings.model_copy(update={"checkpoint": NONE, "resume": NONE}), given))
            return
        prepared = variant.prepare(settings, given, reporter=progress.Printer())
        with progress.shown(variant.work(prepared)) as reporter:
            run = variant.train(prepared, reporter)
        print(variant.headline(run))


if __name__ == "__main__":
    main()
