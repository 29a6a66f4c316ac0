"""Where images have groups, the worst one is compared as the accuracy is; unequal classes have a balanced accuracy."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from experiments.comparison.answers import answers, primary
from experiments.comparison.report.tables import tables
from experiments.comparison.tables import summary_for_machines, table_rows
from experiments.data.dataset import Dataset
from experiments.evidence.differences import holm, paired_difference
from experiments.evidence.network_tests import by_class
from experiments.runs.evaluate import iter_groups
from experiments.tracking.records import Metrics, Table
from experiments.training.predictions import Predictions
from tests.toys.networks import toy_dataset
from tests.toys.runs import toy_findings

GROUPS = ("warm, land", "warm, water", "never in test")


def with_groups(dataset: Dataset) -> Dataset:
    """Every third image is on water; the first train images belong to a group that is nowhere else."""
    splits = {
        name: replace(split, groups=(np.arange(len(split)) % 3 == 0).astype(np.int64))
        for name, split in dataset.splits.items()
    }
    groups = splits["train"].groups
    assert groups is not None
    groups[:5] = 2
    return replace(dataset, splits=splits, groups=GROUPS)


def recorded(dataset: Dataset, predictions: Predictions) -> tuple[Mapping[str, float], dict[str, pd.DataFrame]]:
    """The metrics and tables of a run."""
    found = list(iter_groups(dataset, predictions, 4))
    metrics = {name: value for one in found if isinstance(one, Metrics) for name, value in one.values.items()}
    return metrics, {one.path: one.frame for one in found if isinstance(one, Table)}


def test_a_run_records_its_worst_group_and_the_sizes_of_all() -> None:
    dataset = with_groups(toy_dataset())
    labels = dataset.splits["test"].labels
    said = np.where((np.arange(30) % 3 == 0) & (np.arange(30) < 12), (labels + 1) % 3, labels)
    metrics, files = recorded(dataset, Predictions(np.eye(3, dtype=np.float32)[said], labels))
    assert metrics == {"test/worst_group_accuracy": 0.6}  # 4 of 10 images on water are wrong; classes are equal
    table = files["groups.csv"].set_index("group")
    assert table["train"].tolist() == [61, 30, 5]
    assert table["test"].tolist() == [20, 10, 0]
    assert np.array_equal(table["test accuracy"], [1, 0.6, np.nan], equal_nan=True)


@pytest.mark.parametrize(("sizes", "balanced"), [((10, 10, 10), None), ((10, 11, 9), 1 / 3), ((24, 6), 0.5)])
def test_unequal_classes_have_a_balanced_accuracy(sizes: tuple[int, ...], balanced: float | None) -> None:
    """A network that always says the first class is right on all images of one class."""
    labels = np.repeat(np.arange(len(sizes)), sizes)
    logits = np.zeros((30, len(sizes)), np.float32)
    metrics, files = recorded(toy_dataset(), Predictions(logits, labels))
    assert metrics.get("test/balanced_accuracy") == (None if balanced is None else pytest.approx(balanced))
    assert not files


def test_the_worst_group_is_asked_beforehand_and_corrected_with_the_other_questions() -> None:
    found = toy_findings(seeds=4, dataset=with_groups(toy_dataset()))
    pair = found.pairs[0]
    asked = primary(found)
    assert [one.quantity.name[:11] for one in asked] == ["test accura", "worst-group", "focus index"]
    worst = [[m.run.metrics["test/worst_group_accuracy"] for m in found.of(name)] for name in ("cutout", "baseline")]
    assert asked[1].difference == paired_difference(*worst)
    assert [one.p_holm for one in asked] == pytest.approx(holm([one.difference.p or 0 for one in asked]).tolist())
    sentences = {answer.question: answer.sentence for answer in answers(found)}
    assert "worst-group accuracy" in sentences["Is it better in its worst group?"]
    assert "worst-group accuracy" in table_rows(found)[0]
    groups = found.dataset.splits["test"].groups
    assert groups is not None
    expected = by_class(found.right[pair.variant], found.right[pair.against], groups, GROUPS)
    pd.testing.assert_frame_equal(found.groups[list(expected.columns[1:])], expected.iloc[:, 1:])
    (table,) = tables(found, table_rows(found))["groups"]  # type: ignore[misc,attr-defined]
    assert [row[:2] for row in table.rows] == [[GROUPS[0], "20"], [GROUPS[1], "10"], [GROUPS[2], "0"]]
    assert len(summary_for_machines(found, "", "")["groups"]) == 3  # type: ignore[arg-type]


def test_without_groups_there_is_no_word_of_them() -> None:
    found = toy_findings()
    assert len(primary(found)) == 2
    assert not [heading for heading in table_rows(found)[0] if "group" in heading or "balanced" in heading]
    assert tables(found, table_rows(found))["groups"] == []
