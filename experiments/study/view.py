"""The saved view of a study in MLflow: pictures side by side, curves and results of its trainings."""

from collections.abc import Callable
from itertools import islice

from ..data.dataset import Dataset
from ..explaining.probes import probes
from ..pictures.style import COLOURS
from ..runs.contents import config
from ..settings.variants import OWN
from ..tracking import views
from ..tracking.lifetime import is_there
from ..tracking.reading import finished_run
from ..tracking.ui import save_view
from ..tracking.writing import Run
from .results import Results
from .settings import HOLE_OPTIONS
from .worker import metric_of

IN_VIEW = 50  # runs in the saved view; with more, MLflow does not store it
OTHERS = "#8c96a3"  # the colour of runs that are neither baseline nor winner


def write_view(run: Run, found: Results, dataset: Dataset) -> str:
    """Saves the view and returns the last part of its link; without completed runs, that of the page of the run.

    Baseline and winner come first, then the trials of the search, the best first.
    """
    goal = found.settings.goals[0]
    completed = found.table[found.table["state"] == "complete"] if len(found.table) else found.table
    finals = [pair for seed in zip(*reversed(found.final.runs), strict=True) for pair in seed] if found.final else []
    searched: list[str] = []
    if len(completed):
        searched = completed.sort_values(goal, ascending=not found.higher, kind="stable")["run"].tolist()
    there = (run_id for run_id in dict.fromkeys([*finals, *searched]) if is_there(run_id))
    shown_runs = list(islice(there, IN_VIEW))
    if not shown_runs:
        return f"#/experiments/{run.experiment_id}/runs/{run.id}"
    # The UI draws the last ten columns, in their order.
    columns = [*reversed(shown_runs[views.MAX_RUNS_IN_GRID :]), *shown_runs[: views.MAX_RUNS_IN_GRID]]
    colour = dict(zip(completed["run"], map(_colour(found), completed["name"]), strict=True))
    metrics = [metric_of(name) for name in found.settings.goals]
    first = finished_run(shown_runs[0])
    curves = [key for key in ("train/loss", "val/loss", "val/accuracy") if key in first.metrics]
    bars = list(dict.fromkeys([*metrics, "test/accuracy"]))
    settings = [f"resolved.{name}" for name in HOLE_OPTIONS]
    view = views.comparison_view(
        f"study {found.settings.study}: {dataset.name}",
        columns,
        list(probes(dataset).keys),
        config(first).settings.epochs,
        curves=curves,
        bars=bars,
        columns=[*(f"metrics.`{name}`" for name in bars), *(f"params.`{name}`" for name in settings)],
        hidden_metrics=sorted(first.metrics.keys() - {*curves, *bars}),
        colours=[colour[run_id] for run_id in columns],
        parallel=(settings, bars),
    )
    return save_view(run.experiment_id, view)


def _colour(found: Results) -> Callable[[str], str]:
    """The colour of a run by the name of its candidate: baseline and winner as in the charts of a comparison."""
    winner = {found.final.winner.name: COLOURS[1]} if found.final else {}
    own = {OWN: COLOURS[0]} | winner
    return lambda name: own.get(name, OTHERS)
