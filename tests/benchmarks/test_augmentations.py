"""The benchmarks of augmentations compare what they say, and report what they found."""

from pathlib import Path

import numpy as np

from benchmarks import augmentation_speed, paired_randomness
from benchmarks.timing import Timing
from experiments.evidence.differences import paired_difference
from experiments.settings.train import TrainSettings


def test_each_option_is_one_step_more_than_the_recipe() -> None:
    plain = TrainSettings.of(recipe="fast")
    for options in augmentation_speed.OPTIONS.values():
        settings = TrainSettings.of(recipe="fast", **options)
        changed = {name for name, value in settings.as_params().items() if value != plain.as_params()[name]}
        assert changed == set(options)
        assert not settings.without_effect()
    assert set(augmentation_speed.steps(500, 1)) == {augmentation_speed.RECIPE, *augmentation_speed.OPTIONS}


def test_both_sides_apply_the_same_pipeline(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(augmentation_speed.PIPELINE)
    ours = augmentation_speed.inputs(tmp_path / "own.py", 500, 1)[augmentation_speed.OWN].args[0]  # type: ignore[attr-defined]
    theirs = augmentation_speed.loader(ours)
    prepared = augmentation_speed.training_runs.prepared_case(ours)
    steps = [str(step) for step in theirs.dataset.transform.transforms[:-1]]  # type: ignore[attr-defined]
    assert all(step in str(prepared.augmentation) for step in steps)
    assert (theirs.num_workers, theirs.batch_size) == (ours.settings.augment_workers, ours.settings.batch_size)


def test_the_costs_are_ratios_and_a_missed_target_is_named() -> None:
    names = (augmentation_speed.RECIPE, *augmentation_speed.OPTIONS, augmentation_speed.OWN, augmentation_speed.LOADER)
    timings = {name: Timing([1.0, 1.0], [1.0, 1.0]) for name in names} | {"mixup": Timing([1.2, 1.2], [1.0, 1.0])}
    rows = list(augmentation_speed.report(timings))
    assert rows[2] == "| mixup / the recipe | at most 1.05 | 1.20 (missed) | 1.00 |"
    assert len(rows) == 2 + len(augmentation_speed.OPTIONS) + 1
    assert rows[-1] == "| gaussian_noise / the recipe | none | 1.00 | 1.00 |"


def test_what_seeds_have_in_common_makes_the_paired_interval_narrower() -> None:
    rng = np.random.default_rng(0)
    common, noise = rng.normal(size=10), rng.normal(size=(2, 10)) / 10
    one, other = common + noise
    paired, apart = paired_randomness.halves(one, other)
    assert paired == paired_difference(other, one).smallest_shown
    assert paired < 0.2 * apart
    row = list(paired_randomness.report({"a": dict.fromkeys(MEASURES, one), "b": dict.fromkeys(MEASURES, other)}))[2]
    assert row.startswith("| test accuracy | a, b | +0.9")
    assert row.endswith(f"| ±{100 * paired:.2f} | ±{100 * apart:.2f} | {paired / apart:.2f} |")


MEASURES = paired_randomness.MEASURES
