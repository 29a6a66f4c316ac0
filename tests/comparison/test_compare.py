"""A comparison trains what is missing, reuses what is done, and says only what the numbers allow."""

import contextlib
import io
import json
import re
from dataclasses import dataclass
from html import unescape
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from scipy import stats

from experiments.comparison.answers import answers
from experiments.comparison.compare import as_markdown, compare, compare_finished
from experiments.comparison.findings import Findings
from experiments.comparison.measures import HEADLINE_FOCUS, last_layer
from experiments.comparison.pictures import verdicts_of
from experiments.comparison.tables import table_rows
from experiments.data.dataset import Dataset
from experiments.runs.contents import config
from experiments.runs.prepare import prepare
from experiments.runs.train import train
from experiments.settings.base import SettingsError
from experiments.settings.compare import CompareSettings
from experiments.settings.trainings import plan
from experiments.system.progress import Reporter
from experiments.tracking.store import prepare_store
from experiments.training.predictions import Predictions, predict
from tests.conftest import put_store
from tests.toys.networks import narrow_resnet18, toy_dataset

pytestmark = pytest.mark.slow

QUICK = {
    "epochs": "1",
    "batch_size": "16",
    "lr": "0.05",
    "threads": "1",
    "device": "cpu",
    "precision": "fp32",
    "image_size": "16",
    "cutout_size": "6",
    "gallery_size": "3",
    "cam_methods": "gradcam",
    "test_flip": "false",
}


def load_toys(patch: pytest.MonkeyPatch) -> None:
    """The real thing on the toy data set: only where the images come from is changed."""

    def toys_for(settings: CompareSettings, reporter: Reporter) -> Dataset:
        return toy_dataset()

    patch.setattr("experiments.comparison.compare.load_dataset", toys_for)
    patch.setattr("experiments.comparison.selection.load_dataset", toys_for)


@pytest.fixture(autouse=True)
def toys(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store of the test's own."""
    load_toys(monkeypatch)
    prepare_store(store)


@dataclass(frozen=True)
class First:
    """The first comparison in a folder: what it found and said. Its trainings are there for others."""

    folder: Path
    found: Findings
    said: str


@pytest.fixture(scope="module")
def of_two_seeds(tmp_path_factory: pytest.TempPathFactory, ready_store: Path) -> First:
    """A comparison of two seeds, from nothing."""
    folder = tmp_path_factory.mktemp("two_seeds")
    put_store(ready_store, folder)
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as said:
        load_toys(patch)
        patch.chdir(folder)
        prepare_store(folder)
        found = run(seeds="2")
    mlflow.set_tracking_uri(None)
    return First(folder, found, said.getvalue())


@pytest.fixture
def first(of_two_seeds: First, toys: None, monkeypatch: pytest.MonkeyPatch) -> First:
    """The first comparison, and its store in the place of the test's own."""
    monkeypatch.chdir(of_two_seeds.folder)
    mlflow.set_tracking_uri(None)
    prepare_store(of_two_seeds.folder)
    return of_two_seeds


def run(**options: str) -> Findings:
    given = QUICK | {"runs": "none", "filter": "none"} | options  # as MLflow passes what nobody gave
    settings = CompareSettings.of(**given)
    return compare(settings, plan(settings))


def test_a_comparison_from_nothing_and_again(first: First) -> None:
    found, said = first.found, first.said
    assert [(m.variant, m.seed, m.reused) for m in found.members] == [
        ("baseline", 0, False),
        ("baseline", 1, False),
        ("cutout", 0, False),
        ("cutout", 1, False),
    ]
    assert "4 of 4 runs to train" in said
    assert "no statement about the method" in said
    link = re.search(r"http://127\.0\.0\.1:5000/(#/experiments/0/runs\?viewStateShareKey=\S+)", said)
    assert link
    report = re.search(r"(/\S+report\.html)", said)
    assert report
    check_parent(found)
    page = Path(report[1]).read_text()
    check_report(page, found)
    assert "python -m experiments.compare --epochs 1 " in unescape(page)
    assert "Nothing was selected on the test images" in page

    again = run(seeds="2")
    assert all(member.reused for member in again.members)
    assert [m.run.id for m in again.members] == [m.run.id for m in found.members]
    pd.testing.assert_frame_equal(again.runs.drop(columns="reused"), found.runs.drop(columns="reused"))


def check_parent(result: Findings) -> None:
    """The children hang under the comparison's run, which holds tables and pictures."""
    client = MlflowClient()
    child = client.get_run(result.members[0].run.id)
    parent = client.get_run(child.data.tags["mlflow.parentRunId"])
    assert parent.data.tags["camparison.kind"] == "compare"
    assert parent.data.tags["camparison.status"] == "completed"
    folders = (None, "side_by_side", "changed", "charts", "tables")
    files = {file.path for folder in folders for file in client.list_artifacts(parent.info.run_id, folder)}
    assert files >= {
        *("side_by_side.png", "over_seeds.png", "mean_maps.png", "report.html", "comparison.json"),
        *(f"{name}.csv" for name in ("runs", "differences", "summary", "where", "look_differences", "classes")),
        *(f"{name}.csv" for name in ("networks", "agreement")),
        *("side_by_side/stem.png", "changed/cutout.png"),
        *(f"charts/{name}.png" for name in ("forest", "seeds", "curves", "reliability", "classes", "agreement")),
        *("tables/summary.json", "tables/differences.json"),
    }
    note = parent.data.tags["mlflow.note.content"]
    assert all(as_markdown(answer.sentence) in note for answer in answers(result) if answer.part != "detail")
    assert "viewStateShareKey=" in note
    difference = np.mean(result.differences.set_index("measure").loc["test/accuracy", "per_seed"])
    assert parent.data.metrics["difference/test/accuracy/cutout"] == pytest.approx(difference)
    accuracies = [member.run.metrics["test/accuracy"] for member in result.members if member.variant == "cutout"]
    assert parent.data.metrics["test/accuracy/cutout"] == pytest.approx(np.mean(accuracies))


def check_report(page: str, result: Findings) -> None:
    """One file that needs nothing else and says what the findings say."""
    assert not re.search(r"(src|href)=\"(?!data:|#|http://127\.0\.0\.1)", page)
    for answer in answers(result):
        assert answer.sentence in unescape(page)


def test_the_table_is_mean_and_standard_deviation_over_seeds(first: First) -> None:
    result = first.found
    values = [m.run.metrics["test/accuracy"] for m in result.members if m.variant == "cutout"]
    row = table_rows(result)[1]
    assert row["variant"] == "cutout"
    assert row["seeds"] == "2"
    assert row["test accuracy"] == f"{np.mean(values):.2%} ± {np.std(values, ddof=1):.2%}"
    assert "background gap" not in row  # the toy has no such splits
    assert "focus index" in row  # but it has masks


def test_differences_are_paired_by_seed_and_measured_against_the_first_variant(first: First) -> None:
    result = run(variants="cutout, baseline", seeds="3")
    table = result.differences.set_index("measure")
    pairs = result.runs.pivot(index="seed", columns="variant", values="test/accuracy")
    gains = pairs["baseline"] - pairs["cutout"]
    row = table.loc["test/accuracy"]
    assert (row["variant"], row["against"]) == ("baseline", "cutout")
    assert row["mean"] == pytest.approx(gains.mean())
    interval = stats.ttest_1samp(gains, 0).confidence_interval(0.95)
    assert (row["low"], row["high"]) == pytest.approx((interval.low, interval.high))
    assert row["per_seed"] == pytest.approx(gains.tolist())


def test_what_a_run_has_not_is_said_and_not_averaged() -> None:
    measure = HEADLINE_FOCUS
    assert measure.written(pd.Series({"mean": 0.5, "std": 0.1, "count": 3}), 3) == "0.500 ± 0.100"
    assert measure.written(pd.Series({"mean": 0.5, "std": float("nan"), "count": 1}), 3) == "0.500 (n=1)"
    assert measure.written(pd.Series({"mean": float("nan"), "std": float("nan"), "count": 0}), 3) == "none"


def test_a_run_trained_by_itself_is_reused() -> None:
    given = QUICK | {"cutout": "true", "seed": "0"}
    from experiments.settings.train import TrainSettings

    alone = train(prepare(TrainSettings.of(**given), dataset=toy_dataset()), Reporter())
    result = run()
    assert [(m.variant, m.reused) for m in result.members] == [("baseline", False), ("cutout", True)]
    assert result.members[1].run.id == alone.id


def test_the_same_training_under_two_names_is_refused_before_anything_is_logged() -> None:
    with pytest.raises(SettingsError, match="'baseline, seed 0' and 'same, seed 0' are the same training"):
        run(variants="baseline; same: cutout=false", cutout_size="auto")
    assert not MlflowClient().search_runs(["0"])


def test_variants_may_have_other_networks_and_lengths(monkeypatch: pytest.MonkeyPatch) -> None:
    narrow_resnet18(monkeypatch)
    result = run(variants="baseline; longer: epochs=2; big: model=resnet18", cutout_size="auto")
    assert result.variants == ("baseline", "longer", "big")
    assert [last_layer(m.run) for m in result.members] == ["layer3", "layer3", "layer4"]
    # All pictures must stand at one step, or MLflow's grid would leave cells empty.
    for member in result.members:
        files = MlflowClient().list_artifacts(member.run.id, "images")
        assert any("+step+2+" in file.path for file in files)


def test_words_of_a_finished_run_are_those_of_its_predictions(first: First) -> None:
    result = first.found
    member = result.members[0]
    split = toy_dataset().splits["test"]
    predictions: Predictions = predict(member.run.load_model(), split.images, split.labels, "cpu")
    said = verdicts_of(result, member.run)
    assert [verdict.verdict == "right" for verdict in said] == predictions.right[result.probes.indices].tolist()


def test_finished_runs_are_compared_by_id_without_training(first: First, capsys: pytest.CaptureFixture[str]) -> None:
    ids = {member.variant: member.run.id for member in first.found.members if member.seed == 0}
    before = len(MlflowClient().search_runs(["0"]))
    given = {"runs": f"plain={ids['baseline']} holes={ids['cutout']}", "quiet": "true"}
    capsys.readouterr()
    settings = CompareSettings.of(**given)
    found = compare_finished(settings)
    assert found.variants == ("plain", "holes")
    assert len(MlflowClient().search_runs(["0"])) == before + 1  # the comparison itself
    path = Path(capsys.readouterr().out.strip())
    told = json.loads(path.read_text())
    assert "The runs were chosen by hand (runs=plain=" in unescape(path.with_name("report.html").read_text())
    assert told["variants"] == ["plain", "holes"]
    assert [run["run"] for run in told["runs"]] == [ids["baseline"], ids["cutout"]]
    assert told["answers"][0]["sentence"] == answers(found)[0].sentence


def test_the_same_numbers_come_from_the_same_runs_again(first: First) -> None:
    again = run(seeds="2")
    assert all(member.reused for member in again.members)
    for table in ("differences", "where", "look_differences", "classes", "networks", "agreement"):
        pd.testing.assert_frame_equal(getattr(again, table), getattr(first.found, table))
    assert answers(again) == answers(first.found)


def test_a_variant_under_two_names_differs_in_nothing(first: First) -> None:
    result = run(variants="baseline; same: cutout=false", cutout_size="auto", allow_same="true")
    assert [member.run.id for member in result.members] == [result.members[0].run.id] * 2
    assert result.differences["mean"].abs().max() == 0
    assert result.look_differences["mean"].abs().max() == 0
    assert "difference +0.00 points with one seed" in answers(result)[0].sentence


def damage(run_id: str, name: str) -> None:
    """Cuts a file of the run in half, as a full disk does."""
    place = Path(MlflowClient().get_run(run_id).info.artifact_uri.removeprefix("file://"))
    file = place / name
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def test_a_damaged_run_is_named_and_trained_again_alone() -> None:
    plain, holes = (member.run.id for member in run().members)
    damage(holes, "maps.npz")
    before = len(MlflowClient().search_runs(["0"]))
    with pytest.raises(
        SettingsError, match=rf"^run {holes[:8]} \(cutout, seed 0\): its file maps\.npz is damaged \("
    ) as refused:
        run()
    ways = f"retrain=damaged trains it again alone, and without={holes[:8]} leaves its seed out"
    assert str(refused.value).endswith(ways)
    with pytest.raises(SettingsError, match=rf"^runs: run {holes[:8]} .*: its file maps\.npz is damaged"):
        compare_finished(CompareSettings.of(runs=f"{plain} {holes}", quiet="true"))
    with pytest.raises(SettingsError, match="leaves no seed; give more seeds"):
        run(without=holes[:8])
    assert len(MlflowClient().search_runs(["0"])) == before  # all of this is found before a run is opened
    again = run(retrain="damaged")
    assert [(member.run.id == plain, member.reused) for member in again.members] == [(True, True), (False, False)]
    assert again.members[1].run.id != holes
    assert all(member.reused for member in run().members)


def test_the_seed_of_a_run_can_be_left_out_of_every_variant(first: First) -> None:
    left = first.found.members[3].run.id
    result = run(seeds="2", without=left[:8])
    assert [(member.variant, member.seed) for member in result.members] == [("baseline", 0), ("cutout", 0)]
    with pytest.raises(SettingsError, match="without=abcdef: is no finished run of this comparison"):
        run(seeds="2", without="abcdef")
    chosen = {"runs": " ".join(member.run.id for member in first.found.members), "quiet": "true"}
    with pytest.raises(SettingsError, match="the variants have different seeds"):
        compare_finished(CompareSettings.of(**chosen, without=left[:8]))


FIVE = "mixup: mixup=0.2; cutmix: cutmix=1; erasing: random_erasing=0.25; trivial: trivial_augment=true"


@pytest.mark.wild
def test_five_augmentations_are_compared_with_the_baseline(first: First) -> None:
    found = run(variants=f"baseline; cutout; {FIVE}", seeds="1")
    assert [member.reused for member in found.members] == [True, True, False, False, False, False]
    assert set(found.differences["variant"]) == {"cutout", "mixup", "cutmix", "erasing", "trivial"}
    said = {member.variant: config(member.run).augmentation for member in found.members}
    named = {"mixup": "mixup(alpha=0.2)", "cutmix": "cutmix(alpha=1.0)", "erasing": "Erasing(", "trivial": "Trivial"}
    assert {name: text for name, text in named.items() if text in said[name]} == named
    assert not any(text in said["baseline"] for text in named.values())
