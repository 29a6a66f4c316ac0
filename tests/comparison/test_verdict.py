"""The verdict is the same in every output, and what changes its meaning is said with it."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from html import unescape

import numpy as np
import pandas as pd
import pytest

from experiments.comparison import compare
from experiments.comparison.answers import answers
from experiments.comparison.findings import Findings
from experiments.comparison.limits import advice
from experiments.comparison.measures import IS_BETTER, TEST_ACCURACY
from experiments.comparison.primary import primary
from experiments.evidence.differences import paired_difference
from experiments.evidence.network_tests import two_way_bootstrap
from experiments.runs.contents import config_records, predictions_record
from experiments.tracking.records import Table, Tag, Text
from experiments.tracking.writing import Run
from experiments.training.predictions import Predictions
from tests.toys.networks import toy_dataset, toy_split
from tests.toys.runs import LAYERS, ToyRun, toy_config, toy_findings

Right = Callable[[int, int, np.ndarray], np.ndarray]
"""Which images a network classifies correctly, from the place of its variant, its seed and the labels."""


def judged(right: Right, seeds: int = 3, variants: Sequence[str] = ("baseline", "other"), images: int = 30) -> Findings:
    """A comparison of networks that are right where `right` is True."""
    dataset = toy_dataset()
    if images != 30:
        dataset = replace(dataset, splits=dataset.splits | {"test": toy_split(images, 3)})
    found = toy_findings(variants, seeds, dataset)
    labels, classes = dataset.splits["test"].labels, dataset.classes
    members = []
    for member in found.members:
        is_right = right(found.variants.index(member.variant), member.seed, labels)
        said = np.where(is_right, labels, (labels + 1) % len(classes))
        predictions = Predictions(5 * np.eye(len(classes), dtype=np.float32)[said], labels)
        assert isinstance(member.run, ToyRun)
        metrics = {**member.run.metrics, "test/accuracy": predictions.accuracy}
        run = replace(member.run.with_files(predictions_record(predictions, classes)), metrics=metrics)
        members.append(replace(member, run=run))
    return Findings(tuple(members), dataset)


def limits(findings: Findings) -> str:
    return "\n".join(answer.sentence for answer in answers(findings) if answer.part == "limit")


def better_by_seed(place: int, seed: int, labels: np.ndarray) -> np.ndarray:
    """The second variant is right on two to four images more."""
    return np.arange(len(labels)) < len(labels) // 2 + place * (2 + seed)


@pytest.mark.slow
@pytest.mark.parametrize(("seeds", "effect"), [(1, 0.1), (3, 0.0), (4, 0.2)])
def test_no_two_outputs_of_a_comparison_disagree(
    seeds: int, effect: float, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def right(place: int, seed: int, labels: np.ndarray) -> np.ndarray:
        return np.random.default_rng([place, seed]).random(len(labels)) < 0.7 + effect * place

    monkeypatch.setattr(compare, "iter_pictures", lambda findings: [])
    monkeypatch.setattr(compare, "file_address", lambda run, path: path)
    found = judged(right, seeds, ("baseline", "one", "two"))
    records = list(compare.iter_records(found, "name", "#/", {}))
    texts = {record.path: record.text for record in records if isinstance(record, Text)}
    told = json.loads(texts["comparison.json"])
    (note,) = [record.value for record in records if isinstance(record, Tag)]
    compare.announce(found, "#/", Run.__new__(Run), quiet=False)
    printed = capsys.readouterr().out
    for answer in answers(found):
        assert answer.sentence in unescape(texts["report.html"])
        assert {"question": answer.question, "sentence": answer.sentence, "part": answer.part} in told["answers"]
        if answer.part != "detail":
            assert answer.sentence in printed
            assert compare.as_markdown(answer.sentence) in note
    rows = {row["variant"]: row for row in told["differences"] if row["measure"] == "test/accuracy"}
    (table,) = [one.frame for one in records if isinstance(one, Table) and one.path == "differences.csv"]
    for one, said in zip(
        [one for one in told["primary"] if one["quantity"] == "test accuracy"],
        [answer.sentence for answer in answers(found) if answer.question == IS_BETTER],
        strict=True,
    ):
        row = rows[one["variant"]]
        in_csv = table[(table["measure"] == "test/accuracy") & (table["variant"] == one["variant"])].iloc[0]
        for name in ("mean", "mean_variant", "mean_baseline", "low", "high", "p"):
            assert one[name] == (None if row[name] is None else pytest.approx(row[name], abs=1e-12))
            assert pd.isna(in_csv[name]) if one[name] is None else in_csv[name] == pytest.approx(one[name], abs=1e-12)
        claimed = one["p_holm"] is not None and one["p_holm"] < 0.05 and not one["low"] <= 0 <= one["high"]
        assert claimed == (" is better than " in said or " is worse than " in said)
        if claimed:
            assert (" is better than " in said) == (one["mean"] > 0)
        assert f"{100 * one['mean_variant']:.2f} % against {100 * one['mean_baseline']:.2f} %" in said or (
            "is the same in each" in said
        )


def test_few_images_widen_the_interval_by_the_choice_of_images() -> None:
    found = judged(better_by_seed)
    (pair,) = found.pairs
    wide = found.difference(TEST_ACCURACY, pair)
    assert wide is not None
    over_seeds = paired_difference(*(found.right[name].mean(axis=1) for name in ("other", "baseline")))
    drawn = two_way_bootstrap(found.right["other"] * 1.0, found.right["baseline"] * 1.0, np.random.default_rng(0))
    assert over_seeds.low is not None
    assert over_seeds.high is not None
    assert (wide.low, wide.high) == (min(over_seeds.low, drawn.low), max(over_seeds.high, drawn.high))
    assert (wide.mean, wide.p) == (pytest.approx(over_seeds.mean), pytest.approx(over_seeds.p))
    assert "3 seeds and images" in answers(found)[0].sentence
    assert "with 30 test images, one image is worth 3.3 points of accuracy" in limits(found)


def test_many_images_do_not() -> None:
    found = judged(better_by_seed, images=500)
    (pair,) = found.pairs
    plain = paired_difference(*(found.right[name].mean(axis=1) for name in ("other", "baseline")))
    narrow = found.difference(TEST_ACCURACY, pair)
    assert narrow is not None
    assert (narrow.low, narrow.high) == pytest.approx((plain.low, plain.high))
    assert "one image is worth" not in limits(found)


def test_a_variant_near_chance_is_named_and_the_advice_is_to_train_longer() -> None:
    found = judged(lambda place, seed, labels: np.arange(len(labels)) % 3 < (1 if place else 3))
    assert "other is near chance (test accuracy 33.3 %): it learned nothing" in limits(found)
    assert "baseline is near chance" not in limits(found)
    assert advice(found).startswith("train longer")


def test_a_seed_that_learned_nothing_is_named() -> None:
    found = judged(lambda place, seed, labels: np.arange(len(labels)) % 3 < (1 if place and seed == 2 else 3))
    assert "other learned nothing with seed 2" in limits(found)


def test_two_classes_well_told_apart_are_not_near_chance() -> None:
    found = judged(lambda place, seed, labels: np.arange(len(labels)) % 10 < 8)
    assert "near chance" not in limits(found)
    assert not any(found.near_chance.values())


def test_a_ceiling_is_named() -> None:
    assert "all variants are right on 100.0 % of the test images" in limits(
        judged(lambda place, seed, labels: np.ones(len(labels), bool))
    )


def test_unequal_lengths_are_named() -> None:
    found = judged(better_by_seed)
    longer = tuple(
        replace(member, run=member.run.with_files(*config_records(toy_config(found.dataset, list(LAYERS), epochs=40))))
        if member.variant == "other" and isinstance(member.run, ToyRun)
        else member
        for member in found.members
    )
    assert "different numbers of epochs (baseline 20, other 40)" in limits(Findings(longer, found.dataset))
    assert "different numbers of epochs" not in limits(found)


def test_one_class_that_makes_the_difference_is_named() -> None:
    name = toy_dataset().classes[1]

    def right(place: int, seed: int, labels: np.ndarray) -> np.ndarray:
        # Without the class both are right on two of three images; on it the second variant is always right.
        return (np.arange(len(labels)) % 9 < 6 - (seed == 0)) | (
            (labels == 1) & (place == 1) & (np.arange(len(labels)) % 7 != seed)
        )

    found = judged(right, seeds=5, images=600)
    assert primary(found)[0].difference.shown
    assert f"of the difference in accuracy is in the class {name} alone" in limits(found)


def test_seeds_decide_what_comes_next() -> None:
    def right(place: int, seed: int, labels: np.ndarray) -> np.ndarray:
        return np.arange(len(labels)) % 10 < 8 + place

    assert advice(judged(right, 1)).endswith("-P seeds=3")
    equal = judged(lambda place, seed, labels: (np.arange(len(labels)) + seed + place) % 10 < 8, images=500)
    assert advice(equal).startswith(("add seeds", "compare variants"))
    assert "two networks also differ by chance" in limits(judged(right, 1))
