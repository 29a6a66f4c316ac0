"""Entry point: train one variant, explain it with Grad-CAM, log everything to MLflow."""

from collections.abc import Sequence

from .system.terminal import run_program


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line. Wrong settings or data end it with exit code 2 before any training."""
    from .settings.base import NONE
    from .settings.command_line import read
    from .settings.train import TrainSettings

    settings = read(TrainSettings, argv)

    if settings.cam_layers == "list":
        from .runs.prepare import print_layers

        return print_layers(settings)

    # These imports take seconds, and neither --help nor the error for a wrong option needs them.
    from . import entry
    from .runs.prepare import prepare
    from .runs.train import assist, headline, train, work
    from .system import progress
    from .training import distributed

    with distributed.started(), entry.at_work(TrainSettings.command, settings.given):
        if distributed.rank():
            assist(prepare(settings.model_copy(update={"checkpoint": NONE, "resume": NONE})))
            return
        prepared = prepare(settings, reporter=progress.Printer())
        with progress.shown(work(prepared)) as reporter:
            run = train(prepared, reporter)
        print(headline(run))


if __name__ == "__main__":
    run_program(main, "python -m experiments.train")
