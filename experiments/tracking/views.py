"""Saved views of MLflow's chart page: the Grad-CAM pictures of several runs side by side, curves and bars below.

MLflow's UI opens a view from the experiment tag `mlflow.sharedViewState.<key>` if the address contains the
key. The format is that of the UI of MLflow 3.17. It is not documented; a browser test checks it.
"""

import base64
import hashlib
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .client import NOTE

TAG_PREFIX = "mlflow.sharedViewState."
KEY_PREFIX = "camparison-"
MAX_CHARACTERS = 20_000  # the longest experiment tag that MLflow's stores accept
VIEWS_IN_NOTE = 50
MAX_RUNS_IN_GRID = 10  # the UI draws at most this number of columns
COLUMN = "camparison.column."  # first part of the name of a run's tag for its column in a view
COLOUR = "mlflow.runColor"  # without this tag, the UI can give two runs the same colour
Chart = dict[str, Any]


@dataclass(frozen=True)
class View:
    """A named state of the chart page. Views with the same name and the same runs replace each other.

    The page shows `columns` in the order of their tag `column_tag`, and `run_ids` in the colours of their tag `COLOUR`,
    "#rrggbb". The caller who saves the view must set `column_tag` to `column(i)`. A run has one colour for all views.
    `before` is the run, if any, whose pictures stand in the first column.
    """

    name: str
    state: dict[str, Any]
    run_ids: tuple[str, ...] = field(default=(), compare=False)
    colours: tuple[str, ...] = field(default=(), compare=False)
    before: str = field(default="", compare=False)

    @property
    def columns(self) -> tuple[str, ...]:
        """The runs from left to right."""
        return (self.before, *self.run_ids) if self.before else self.run_ids

    @property
    def key(self) -> str:
        """The key of this view in a link: letters, digits and dashes."""
        return key_of(self.name, self.run_ids)

    @property
    def column_tag(self) -> str:
        """The name of the tag of a run for its column in this view."""
        return COLUMN + self.key

    @property
    def tag(self) -> str:
        """The name of the experiment tag that contains this view."""
        return TAG_PREFIX + self.key


def comparison_view(
    name: str,
    run_ids: Sequence[str],
    picture_keys: Sequence[str],
    step: int,
    curves: Sequence[str] = (),
    bars: Sequence[str] = (),
    columns: Sequence[str] = (),
    hidden_metrics: Sequence[str] = (),
    hidden_keys: Sequence[str] = (),
    colours: Sequence[str] = (),
    parallel: tuple[Sequence[str], Sequence[str]] = ((), ()),
    titles: Mapping[str, str] | None = None,
    before: str = "",
) -> View:
    """A view with one row per picture key and one column per run, in the order of `run_ids`.

    Below the pictures there are a line chart for each metric in `curves`, a bar chart of the last value of each metric
    in `bars`, and parallel coordinates of the parameters and metrics in `parallel`. `columns` are the columns of the
    runs table, as the UI spells them: "params.`cutout`" or "metrics.`val/accuracy`". `step` is the step of the logged
    pictures. The UI shows at most ten runs. It would add a chart for every other metric and picture key of the runs;
    the hidden ones get no chart. `titles` are the headings of the charts of some metrics.
    `before` is a run whose pictures stand in a column before those of `run_ids`.

    Raises:
        ValueError: there is no run or no picture key, or a run id contains other characters than letters and digits.
    """
    if not run_ids or not picture_keys:
        raise ValueError(
            f"a view needs at least one run and one picture key, not {len(run_ids)} runs and {len(picture_keys)} keys"
        )
    shown = [before, *run_ids] if before else run_ids
    for run_id in shown:
        if not run_id.isalnum():
            raise ValueError(f"{run_id!r} is not a run id: letters and digits are allowed, as MLflow gives them")
    quoted = ", ".join(f"'{run_id}'" for run_id in shown)
    return View(
        name,
        {
            "searchFilter": f"attributes.run_id IN ({quoted})",
            # If ordered by start time, the UI would hide child runs and their pictures behind the parent. The columns
            # of the grid are in the reverse order of the table.
            "orderByKey": f"tags.`{COLUMN}{key_of(name, run_ids)}`",
            "orderByAsc": False,
            "startTime": "ALL",
            "lifecycleFilter": "Active",
            "selectedColumns": list(columns),
            "runListHidden": True,  # on a small screen the list would leave room for one column of pictures
            "compareRunCharts": [
                *_shown(picture_keys, step, curves, bars, parallel, titles or {}),
                *_hidden(
                    dict.fromkeys([*picture_keys, *hidden_keys]), dict.fromkeys([*curves, *bars, *hidden_metrics])
                ),
            ],
            "compareRunSections": _sections(len(picture_keys), bool(curves), bool(bars), any(parallel)),
            "isAccordionReordered": True,
            "hideEmptyCharts": True,
        },
        tuple(run_ids),
        tuple(colours),
        before,
    )


def key_of(name: str, run_ids: Sequence[str]) -> str:
    """The key of the view with this name and these runs."""
    identity = "\n".join((name, *run_ids))
    return KEY_PREFIX + hashlib.sha256(identity.encode()).hexdigest()[:16]


def column(index: int) -> str:
    """The value of the tag `View.column_tag` of the run in the column with this index; 0 is on the left."""
    return f"{index:03d}"


def pack(view: View, now_ms: int) -> str:
    """The value of the view's experiment tag, written at `now_ms` (milliseconds since 1970).

    Raises:
        ValueError: the value is longer than MLflow accepts; fewer pictures make it shorter.
    """
    packed = base64.b64encode(zlib.compress(json.dumps(view.state).encode(), 9)).decode()
    value = json.dumps({"name": view.name, "createdAt": now_ms, "updatedAt": now_ms, "state": f"deflate;{packed}"})
    if len(value) > MAX_CHARACTERS:
        raise ValueError(
            f"the view {view.name!r} has {len(value):,} characters, and MLflow stores at most {MAX_CHARACTERS:,}: "
            "show fewer pictures"
        )
    return value


def unpack(value: str) -> View:
    """The view in the value of an experiment tag; the reverse of `pack`."""
    envelope = json.loads(value)
    packed = base64.b64decode(envelope["state"].removeprefix("deflate;"))
    return View(envelope["name"], json.loads(zlib.decompress(packed)))


def fragment(experiment_id: str, key: str) -> str:
    """The end of a link, after the server's address, that opens the view with this key.

    It contains no search and no order, because with them the UI would ignore the view.
    """
    return (
        f"#/experiments/{experiment_id}/runs?viewStateShareKey={key}"
        "&compareRunsMode=CHART&workflowType=machine_learning"
    )


def note(experiment_id: str, tags: Mapping[str, str], newest: str) -> str:
    """The note of an experiment: links to all views of this suite, the newest first, then what persons wrote."""
    links = [f"[{name}]({address})" for name, address in links_of(experiment_id, tags, newest)]
    mark = f"viewStateShareKey={KEY_PREFIX}"
    others = [line for line in tags.get(NOTE, "").splitlines() if mark not in line]
    # An empty line between links, because otherwise Markdown joins them.
    return "\n\n".join([*links, "\n".join(others).strip()]).strip()


def links_of(experiment_id: str, tags: Mapping[str, str], newest: str = "") -> list[tuple[str, str]]:
    """Name and end of the link of each view in the experiment's tags; first that in the tag `newest`."""
    ours = {tag: json.loads(value) for tag, value in tags.items() if tag.startswith(TAG_PREFIX + KEY_PREFIX)}
    order = sorted(ours, key=lambda tag: (tag != newest, -ours[tag]["updatedAt"]))[:VIEWS_IN_NOTE]
    return [(ours[tag]["name"], fragment(experiment_id, tag.removeprefix(TAG_PREFIX))) for tag in order]


def _shown(
    picture_keys: Sequence[str],
    step: int,
    curves: Sequence[str],
    bars: Sequence[str],
    parallel: tuple[Sequence[str], Sequence[str]],
    titles: Mapping[str, str],
) -> list[Chart]:
    params, metrics = map(list, parallel)
    coordinates = _chart("PARALLEL", "parallel", "parallel", selectedParams=params, selectedMetrics=metrics)
    return [
        _image("grid", "pictures", picture_keys, step),
        *(_line(f"curve-{metric}", "curves", metric) | _title(metric, titles) for metric in curves),
        *(
            _chart("BAR", f"bar-{metric}", "bars", metricKey=metric, selectedMetricKeys=[metric])
            | _title(metric, titles)
            for metric in bars
        ),
        *([coordinates | {"showAllRuns": False}] if params or metrics else []),
    ]


def _title(metric: str, titles: Mapping[str, str]) -> Chart:
    return {"displayName": titles[metric]} if metric in titles else {}


def _hidden(picture_keys: Iterable[str], metrics: Iterable[str]) -> list[Chart]:
    """One deleted chart for each picture key and metric.

    It keeps the UI from adding a chart; a grid of keys does not.
    """
    charts = [_image(f"no-{key}", "pictures", [key], 0) for key in picture_keys]
    charts += [_chart("LINE", f"no-{metric}", "curves", metricKey=metric) for metric in metrics]
    return [chart | {"deleted": True, "isGenerated": True} for chart in charts]


def _chart(kind: str, uuid: str, section: str, **fields: object) -> Chart:
    return {
        "type": kind,
        "uuid": uuid,
        "metricSectionId": section,
        "runsCountToCompare": MAX_RUNS_IN_GRID,
        "deleted": False,
        "isGenerated": False,
        **fields,
    }


def _image(uuid: str, section: str, keys: Sequence[str], step: int) -> Chart:
    return _chart("IMAGE", uuid, section, imageKeys=list(keys), step=step, showRunParams=False)


def _line(uuid: str, section: str, metric: str) -> Chart:
    return _chart(
        "LINE",
        uuid,
        section,
        metricKey=metric,
        selectedMetricKeys=[metric],
        xAxisKey="step",
        # Without this the UI smooths: it draws a curve that ends at 0.725 as if it ended at 0.65.
        lineSmoothness=0,
        useGlobalLineSmoothing=True,
        useGlobalXaxisKey=True,
        selectedXAxisMetricKey="",
        scaleType="linear",
        xAxisScaleType="linear",
        yAxisKey="metric",
        yAxisExpressions=[],
        range={},
    )


def _sections(pictures: int, curves: bool, bars: bool, parallel: bool) -> list[dict[str, Any]]:
    sections = [_section("pictures", "Pictures side by side", columns=1, height=min(120 + 320 * pictures, 760))]
    if curves:
        sections.append(_section("curves", "Curves", columns=3, height=360))
    if bars:
        sections.append(_section("bars", "Results", columns=3, height=360))
    if parallel:
        sections.append(_section("parallel", "Settings and results", columns=1, height=400))
    return sections


def _section(uuid: str, name: str, columns: int, height: int) -> dict[str, Any]:
    return {
        "uuid": uuid,
        "name": name,
        "display": True,
        "isReordered": True,
        "deleted": False,
        "isGenerated": False,
        "columns": columns,
        "cardHeight": height,
    }
