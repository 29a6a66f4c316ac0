"""Saved views: what the UI will read, without a browser. `test_browser.py` opens one."""

import base64
import json
import random
import zlib
from typing import Any

import pytest

from experiments.tracking import views

RUNS = ["a" * 32, "b" * 32]
KEYS = ["gradcam/test_0003_cat", "gradcam/test_0010_dog"]


def make_view(**changes: Any) -> views.View:
    settings = {"curves": ["val/accuracy"], "bars": ["test/accuracy"], "columns": ["params.`cutout`"]} | changes
    return views.comparison_view("cutout against baseline", RUNS, KEYS, 4, **settings)


def test_a_packed_view_is_the_format_that_the_ui_reads() -> None:
    value = json.loads(views.pack(make_view(), now_ms=1_700_000_000_000))
    assert (value["name"], value["createdAt"]) == ("cutout against baseline", 1_700_000_000_000)
    scheme, _, packed = value["state"].partition(";")
    state = json.loads(zlib.decompress(base64.b64decode(packed)))  # decoded by hand, not by `unpack`
    assert scheme == "deflate"
    assert state["searchFilter"] == f"attributes.run_id IN ('{RUNS[0]}', '{RUNS[1]}')"
    assert state["selectedColumns"] == ["params.`cutout`"]


def test_unpack_reverses_pack() -> None:
    assert views.unpack(views.pack(make_view(), now_ms=5)) == make_view()


def test_one_grid_holds_all_pictures_above_curves_and_bars() -> None:
    state = make_view().state
    shown = [chart for chart in state["compareRunCharts"] if not chart["deleted"]]
    assert [chart["type"] for chart in shown] == ["IMAGE", "LINE", "BAR"]
    assert shown[0]["imageKeys"] == KEYS
    assert shown[0]["step"] == 4
    assert [chart["metricKey"] for chart in shown[1:]] == ["val/accuracy", "test/accuracy"]
    assert [section["uuid"] for section in state["compareRunSections"]] == [chart["metricSectionId"] for chart in shown]


def test_every_key_and_metric_has_a_deleted_chart_so_that_the_ui_adds_none() -> None:
    hidden = [chart for chart in make_view().state["compareRunCharts"] if chart["deleted"]]
    assert [chart["imageKeys"] for chart in hidden if chart["type"] == "IMAGE"] == [[key] for key in KEYS]
    assert {chart["metricKey"] for chart in hidden if chart["type"] == "LINE"} == {"val/accuracy", "test/accuracy"}


def test_what_the_runs_have_besides_can_be_hidden() -> None:
    view = make_view(hidden_metrics=["train/loss", "val/accuracy"], hidden_keys=[KEYS[0], "gradcam/other"])
    hidden = [chart for chart in view.state["compareRunCharts"] if chart["deleted"]]
    assert [chart["imageKeys"] for chart in hidden if chart["type"] == "IMAGE"] == [
        KEYS[:1],
        KEYS[1:],
        ["gradcam/other"],
    ]
    assert [c["metricKey"] for c in hidden if c["type"] == "LINE"] == ["val/accuracy", "test/accuracy", "train/loss"]


def test_charts_have_unique_names_and_a_section_that_exists() -> None:
    state = make_view(curves=["m", "k"], bars=["m"]).state
    names = [chart["uuid"] for chart in state["compareRunCharts"]]
    assert len(set(names)) == len(names)
    assert {c["metricSectionId"] for c in state["compareRunCharts"]} <= {s["uuid"] for s in state["compareRunSections"]}


def test_metrics_that_are_not_shown_get_no_section() -> None:
    assert [section["uuid"] for section in make_view(curves=[], bars=[]).state["compareRunSections"]] == ["pictures"]


def test_the_key_depends_on_the_name_and_the_runs_alone() -> None:
    name = make_view().name
    assert views.comparison_view(name, RUNS, ["other"], 0).key == make_view().key
    assert views.comparison_view("another", RUNS, KEYS, 4).key != make_view().key
    assert views.comparison_view(name, ["c" * 32], KEYS, 4).key != make_view().key


def test_the_link_carries_nothing_that_would_make_the_ui_ignore_the_view() -> None:
    link = views.fragment("7", "camparison-1")
    assert link.startswith("#/experiments/7/runs?viewStateShareKey=camparison-1&compareRunsMode=CHART")
    spoilers = ["searchFilter", "orderBy", "startTime", "lifecycleFilter", "modelVersionFilter", "datasetsFilter"]
    assert not any(spoiler in link for spoiler in spoilers)


def test_ten_runs_with_sixty_pictures_fit() -> None:
    runs = [f"{number:032x}" for number in range(10)]
    keys = [f"gradcam/test_{number:05d}_automobile" for number in range(60)]
    metrics = [f"val/metric_{number}" for number in range(20)]
    view = views.comparison_view("all", runs, keys, 30, curves=metrics, bars=metrics)
    assert len(views.pack(view, now_ms=0)) < 5_000


def test_a_view_longer_than_mlflow_keeps_is_an_error() -> None:
    letters = random.Random(0)
    keys = ["".join(letters.choices("abcdefghijklmnopqrstuvwxyz", k=60)) for _ in range(400)]
    with pytest.raises(
        ValueError, match=r"has \d+,\d+ characters, and MLflow stores at most 20,000: show fewer pictures"
    ):
        views.pack(views.comparison_view("all", RUNS, keys, 0), now_ms=0)


@pytest.mark.parametrize(("runs", "keys"), [([], KEYS), (RUNS, [])])
def test_a_view_of_nothing_is_an_error(runs: list[str], keys: list[str]) -> None:
    with pytest.raises(ValueError, match="a view needs at least one run and one picture key"):
        views.comparison_view("empty", runs, keys, 0)


def test_a_run_id_cannot_break_out_of_the_search() -> None:
    with pytest.raises(ValueError, match="is not a run id"):
        views.comparison_view("bad", ["x') OR ('1' = '1"], KEYS, 0)
