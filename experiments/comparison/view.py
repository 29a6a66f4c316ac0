"""The saved view of a comparison in MLflow."""

from collections.abc import Sequence

from ..pictures.style import COLOURS
from ..tracking import views
from ..tracking.reading import FinishedRun
from ..tracking.ui import save_view
from ..tracking.writing import append_records
from .findings import Findings
from .pictures import followed, iter_keyed

AXES = 6  # settings, and measures, in the view's parallel coordinates: more cannot be told apart


def write_view(findings: Findings, experiment_id: str, name: str) -> str:
    """Saves a view of the runs in MLflow, of too many one per variant, and returns the last part of its link."""
    shown_runs = findings.shown_in_grid(views.MAX_RUNS_IN_GRID)
    runs = [member.run for member in shown_runs]
    step = max(map(_last_epoch, runs))
    for run in runs:
        # MLflow's grid shows one step, so a shorter training needs its pictures at that step too.
        if step not in run.picture_steps():
            append_records(run.id, iter_keyed(findings, run, step))
    split = followed(findings)
    curves = ["train/loss", f"{split}/loss", f"{split}/accuracy"]
    bars = sorted({measure.key(run) for measure in findings.measures for run in runs})
    colours = dict(zip(findings.variants, COLOURS, strict=False))
    view = views.comparison_view(
        name if len(shown_runs) == len(findings.members) else f"{name} (the run of median accuracy of each)",
        [run.id for run in runs],
        list(findings.probes.keys),
        step,
        curves=curves,
        bars=bars,
        columns=[
            "metrics.`test/accuracy`",
            *(["metrics.`val/accuracy`"] if split == "val" else []),
            "params.`resolved.cutout`",
            "params.`resolved.seed`",
        ],
        hidden_metrics=sorted({key for run in runs for key in run.metrics} - {*curves, *bars}),
        colours=[colours[member.variant] for member in shown_runs],  # as in the charts
        parallel=(_varied(runs), list(dict.fromkeys(measure.key(runs[0]) for measure in findings.measures))[:AXES]),
    )
    return save_view(experiment_id, view)


def _varied(runs: Sequence[FinishedRun]) -> list[str]:
    """The settings in which the runs differ."""
    names = [name for name in runs[0].params if name.startswith("resolved.")]
    return [name for name in names if len({run.params.get(name) for run in runs}) > 1][:AXES]


def _last_epoch(run: FinishedRun) -> int:
    return run.metric_history("test/accuracy")[-1][0]
