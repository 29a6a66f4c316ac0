"""What finished runs say: tables by hand, and what must hold whatever the numbers are."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from experiments.comparison.answers import answers, primary
from experiments.comparison.findings import Findings, Member
from experiments.comparison.images import BOTH_RIGHT
from experiments.comparison.measures import LAST
from experiments.comparison.pictures import shown_in_grid
from experiments.data.dataset import Dataset, Split
from experiments.evidence.differences import holm
from experiments.runs.contents import (
    RunMaps,
    config_records,
    map_measures,
    map_measures_record,
    maps,
    maps_record,
)
from experiments.tracking.records import Table
from tests.toys.runs import ToyRun, by_path, toy_config, toy_findings

CLASSES = ("cat", "dog")
IMAGES = 40
LAYERS = ("stem", "layer1")


def logged(name: str, seed: int, *, cutout: bool = False, shift: float = 0.0, epochs: int = 6) -> ToyRun:
    """A run with made-up but consistent files; `shift` moves everything that is measured."""
    random = np.random.default_rng([seed, cutout])
    labels = np.arange(IMAGES) % 2
    right = random.random(IMAGES) < 0.7
    said = np.where(right, labels, 1 - labels)
    sure = np.where(said == 0, 0.8, 0.2)
    predictions = pd.DataFrame({"index": range(IMAGES), "label": labels, "prediction": said})
    predictions = predictions.assign(p_cat=sure, p_dog=1 - sure)
    looks = [
        pd.DataFrame({"focus": random.random(IMAGES) + shift, "coverage": random.random(IMAGES)}).assign(
            index=range(IMAGES), layer=layer, right=right
        )
        for layer in LAYERS
    ]
    looks[0].loc[3, "focus"] = np.nan
    return ToyRun(
        id=f"{name}{seed}",
        name=f"{name}, seed {seed}",
        experiment_id="0",
        params={},
        tags={},
        metrics={"test/accuracy": float(right.mean()), "cam/layer1/focus": float(looks[1]["focus"].mean())},
        files=by_path(
            *config_records(toy_config(dataset(), LAYERS, cutout=cutout, epochs=epochs)),
            Table("predictions.parquet", predictions),
            map_measures_record(pd.concat(looks, ignore_index=True)),
            maps_record(explained(random.random((IMAGES, 4, 4)).astype(np.float16))),
        ),
    )


def explained(sample_maps: np.ndarray) -> RunMaps:
    """Maps of which only those of the sample count."""
    probes = np.arange(2)
    maps, strength = np.zeros((2, 2, 8, 8), np.float32), np.zeros((2, 2), np.float32)
    return RunMaps(LAYERS, maps, strength, probes, probes, np.arange(IMAGES), sample_maps)


def dataset() -> Dataset:
    split = Split(np.zeros((IMAGES, 8, 8, 3), np.uint8), np.arange(IMAGES) % 2, np.ones((IMAGES, 8, 8), bool))
    return Dataset("made", CLASSES, {"train": split, "val": split, "test": split}, "d" * 16, "made for tests")


def findings(names: Mapping[str, list[ToyRun]]) -> Findings:
    members = tuple(Member(name, seed, run, False) for name, runs in names.items() for seed, run in enumerate(runs))
    return Findings(members, dataset())


def two(seeds: int = 3, *, swapped: bool = False) -> Findings:
    runs = {
        "baseline": [logged("b", seed) for seed in range(seeds)],
        "cutout": [logged("c", seed, cutout=True, shift=0.2) for seed in range(seeds)],
    }
    return findings(dict(reversed(runs.items())) if swapped else runs)


def test_differences_are_those_of_the_seeds() -> None:
    found = two(4)
    values = {
        name: [run.metrics["test/accuracy"] for run in (member.run for member in found.of(name))]
        for name in found.variants
    }
    row = found.differences.set_index("measure").loc["test/accuracy"]
    gains = np.subtract(values["cutout"], values["baseline"])
    assert row["mean"] == pytest.approx(gains.mean())
    assert (row["low"], row["high"]) == pytest.approx(tuple(stats.ttest_1samp(gains, 0).confidence_interval(0.95)))
    assert row["larger_in"] == (gains > 0).sum()


def test_where_it_looks_is_averaged_over_images_and_then_over_seeds() -> None:
    found = two()
    table = found.where.set_index(["variant", "layer", "subset", "measure"])
    logs = [map_measures(member.run) for member in found.of("baseline")]
    at = [log[log["layer"] == "stem"] for log in logs]
    for subset, kept in (("all", at), ("right", [t[t["right"]] for t in at]), ("wrong", [t[~t["right"]] for t in at])):
        means = [one["focus"].mean() for one in kept]  # leaves out what is missing
        row = table.loc[("baseline", "stem", subset, "focus")]
        assert (row["mean"], row["std"], row["count"]) == pytest.approx((np.mean(means), np.std(means, ddof=1), 3))
    pd.testing.assert_series_equal(
        table.loc[("cutout", LAST, "all", "coverage")],
        table.loc[("cutout", "layer1", "all", "coverage")],
        check_names=False,
    )


def test_images_that_both_get_right_are_compared_image_by_image() -> None:
    found = two()
    rows = found.look_differences.set_index(["layer", "subset", "measure"])
    row, last = rows.loc[("stem", BOTH_RIGHT, "focus")], rows.loc[(LAST, BOTH_RIGHT, "focus")]
    gains = []
    for one, other in zip(found.of("cutout"), found.of("baseline"), strict=True):
        a, b = (map_measures(m.run).query("layer == 'stem'") for m in (one, other))
        both = (
            a["right"].to_numpy()
            & b["right"].to_numpy()
            & a["focus"].notna().to_numpy()
            & b["focus"].notna().to_numpy()
        )
        gains.append(a["focus"].to_numpy()[both].mean() - b["focus"].to_numpy()[both].mean())
    assert row["per_seed"] == pytest.approx(gains)
    assert last["boot_low"] < last["mean"] < last["boot_high"]


def test_measures_of_maps_are_paired_by_image() -> None:
    found = two()
    row = found.differences.set_index("measure").loc["cam/last/focus"]
    gains = []
    for one, other in zip(found.of("cutout"), found.of("baseline"), strict=True):
        a, b = (map_measures(m.run).query("layer == 'layer1'")["focus"] for m in (one, other))
        gains.append((a - b).mean())  # only where both have a value
    assert row["per_seed"] == pytest.approx(gains)


def test_a_measure_that_older_runs_lack_is_left_out_where_they_are() -> None:
    def older(run: ToyRun) -> ToyRun:
        return run.with_files(map_measures_record(map_measures(run).drop(columns="coverage")))

    newer = [logged("c", seed, cutout=True) for seed in range(2)]
    found = findings({"baseline": [logged("b", 0), older(logged("b", 1))], "cutout": newer})
    measures = found.where.groupby("variant")["measure"].unique().map(set).to_dict()
    assert measures == {"baseline": {"focus"}, "cutout": {"focus", "coverage"}}
    assert set(found.look_differences["measure"]) == {"focus"}


def test_maps_of_other_resolutions_are_compared_by_the_focus_index_alone() -> None:
    def coarse(run: ToyRun) -> ToyRun:
        return run.with_files(maps_record(explained(maps(run).sample_maps[:, ::2, ::2])))

    found = findings({"a": [logged("a", s) for s in range(3)], "b": [coarse(logged("b", s)) for s in range(3)]})
    assert found.grids == {"a": (4, 4), "b": (2, 2)}
    last = found.look_differences.query("layer == @LAST")
    assert set(last["measure"]) == {"focus"}
    assert set(two().look_differences.query("layer == @LAST")["measure"]) == {"focus", "coverage"}
    assert list(found.agreement["variant"]) == ["a", "b"]  # each with itself only


def test_without_masks_nothing_is_said_of_the_object() -> None:
    found = two()
    bare = {name: replace(split, masks=None) for name, split in found.dataset.splits.items()}
    without = Findings(found.members, replace(found.dataset, splits=bare))
    (said,) = [
        answer.sentence
        for answer in answers(without)
        if answer.question == "Does it look at the object?" and "masks" in answer.sentence
    ]
    assert said == "no statement: made has no object masks (docs/data.md shows how to add some)."


@pytest.mark.slow
def test_swapping_the_variants_changes_the_sign_of_every_difference() -> None:
    one, other = two(), two(swapped=True)
    for table, keys in (("differences", ["measure"]), ("look_differences", ["layer", "subset", "measure"])):
        here, there = (getattr(found, table).set_index(keys).sort_index() for found in (one, other))
        assert here["mean"].to_numpy() == pytest.approx(-there["mean"].to_numpy())
        assert here["low"].to_numpy() == pytest.approx(-there["high"].to_numpy())
    classes = [found.classes.set_index("class")["difference"].to_numpy() for found in (one, other)]
    assert classes[0] == pytest.approx(-classes[1])
    assert one.networks["only_variant"].tolist() == other.networks["only_baseline"].tolist()


@pytest.mark.slow
def test_a_comparison_of_runs_with_themselves_finds_nothing_anywhere() -> None:
    runs = [logged("b", seed) for seed in range(3)]
    found = findings({"one": runs, "same": runs})
    for table in (found.differences, found.look_differences):
        assert table["mean"].abs().max() == 0
        assert (table["low"] == 0).all()
        assert (table["high"] == 0).all()
    assert found.classes["difference"].abs().max() == 0
    assert (found.networks["p"] == 1).all()
    # Of two seeds of one and the same thing, that is: a variant agrees with its twin as it does with itself.
    agreement = found.agreement.set_index(["variant", "against"])[["rank_correlation", "top_iou"]]
    assert agreement.loc[("one", "same")].to_numpy() == pytest.approx(agreement.loc[("one", "one")].to_numpy())
    assert "is the same in each of 3 seeds" in answers(found)[0].sentence


def test_agreement_between_variants_stands_beside_that_between_seeds() -> None:
    table = two(3).agreement.set_index(["variant", "against"])
    assert table["pairs"].to_dict() == {("baseline", "baseline"): 3, ("baseline", "cutout"): 6, ("cutout", "cutout"): 3}
    assert table["rank_correlation"].abs().max() < 0.3  # the made-up maps have nothing in common


@pytest.mark.slow
def test_all_questions_asked_beforehand_share_one_correction() -> None:
    runs = {
        name: [logged(name, seed, shift=shift) for seed in range(3)]
        for name, shift in (("a", 0), ("b", 0.3), ("c", 0.6))
    }
    found = findings(runs)
    assert [(one.pair.variant, one.quantity.name[:5]) for one in primary(found)] == [
        ("b", "test "),
        ("b", "focus"),
        ("c", "test "),
        ("c", "focus"),
    ]
    raw = [np.nan if one.difference.p is None else one.difference.p for one in primary(found)]
    adjusted = [np.nan if one.p_holm is None else one.p_holm for one in primary(found)]
    assert adjusted == pytest.approx(holm(raw).tolist(), nan_ok=True)


@pytest.mark.parametrize(("seeds", "question"), [(1, "Do these two networks differ?"), (2, None)])
def test_below_three_seeds_nothing_is_said_of_the_method(seeds: int, question: str | None) -> None:
    found = two(seeds)
    asked = [answer.question for answer in answers(found)]
    assert (question in asked) == (question is not None)
    assert all("no statement about the method" in a.sentence for a in answers(found) if a.question.startswith("Is the"))
    assert found.noise == {}
    assert "Does this hold for long trainings?" in asked  # Cutout, six epochs


def test_the_grid_shows_all_runs_seed_by_seed_or_one_of_each_variant() -> None:
    found = two(3)
    assert [(m.variant, m.seed) for m in shown_in_grid(found, 6)] == [
        *[("baseline", 0), ("cutout", 0), ("baseline", 1), ("cutout", 1), ("baseline", 2), ("cutout", 2)]
    ]
    chosen = shown_in_grid(found, 5)
    assert [member.variant for member in chosen] == ["baseline", "cutout"]
    for member in chosen:
        accuracies = [m.run.metrics["test/accuracy"] for m in found.of(member.variant)]
        assert member.run.metrics["test/accuracy"] == np.median(accuracies)


def test_layers_that_a_variant_does_not_have_are_left_out_but_for_the_last() -> None:
    def renamed(run: ToyRun) -> ToyRun:
        table = map_measures(run).replace({"layer": {"layer1": "layer4"}})
        own = config_records(toy_config(dataset(), ("stem", "layer4")))
        return run.with_files(*own, map_measures_record(table))

    found = findings({"a": [logged("a", s) for s in range(3)], "b": [renamed(logged("b", s)) for s in range(3)]})
    assert set(found.look_differences["layer"]) == {"stem", LAST}
    assert found.last_layers == ("layer1", "layer4")


def test_answers_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    found = toy_findings()
    first = answers(found), primary(found)

    def again(*arguments: object) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr("experiments.comparison.primary.paired_difference", again)
    assert (answers(found), primary(found)) == first
