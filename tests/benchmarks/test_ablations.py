"""The benchmark that takes parts out of a recipe takes out what it says, and reports what it found."""

from pathlib import Path

import pytest
import torch

from benchmarks import ablations
from benchmarks.ablations import PARTS, PATHS, THE_RECIPE, Outcome
from experiments.models.fastnet import FastNet
from experiments.runs.prepare import prepare
from experiments.settings.train import TrainSettings
from experiments.training import loop
from tests.toys.networks import toy_dataset
from tests.toys.scenes import put_scenes

TINY = {"recipe": "fast", "image_size": 16, "epochs": 2, "batch_size": 32, "sides": "none", "threads": 1}

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("name", [*PARTS, *PATHS])
def test_every_row_differs_from_the_recipe_in_what_it_names(name: str) -> None:
    part, recipe = (PARTS | PATHS)[name], TrainSettings.of(recipe="fast")
    settings = TrainSettings.of(**part.options)
    assert all(getattr(settings, option) != getattr(recipe, option) for option in part.options)
    assert (name == THE_RECIPE) == (part == ablations.Part({}))


def test_an_ordinary_stem_learns_and_a_whitening_one_does_not() -> None:
    settings = TrainSettings.of(**TINY)
    prepared = prepare(settings, dataset=toy_dataset())
    for change, learns in ((ablations.PARTS[THE_RECIPE].change, False), (ablations.ordinary_stem, True)):
        model = loop.build_model(settings, 3, *prepared.dataset.statistics)
        assert isinstance(model, FastNet)
        change(model)
        results = loop.fit(model, prepared.dataset, prepared.augmentation, settings, prepared.machine)
        filters = [model.stem.get_parameter("0.weight").detach().clone() for _ in results]
        assert torch.equal(*filters) != learns


def test_an_outcome_is_that_of_the_last_epoch() -> None:
    prepared = prepare(TrainSettings.of(**TINY), dataset=toy_dataset())
    found = ablations.outcome(prepared, lambda model: None)
    model = loop.build_model(prepared.settings, 3, *prepared.dataset.statistics)
    *_, last = loop.fit(model, prepared.dataset, prepared.augmentation, prepared.settings, prepared.machine)
    assert found.accuracy == last.metrics["val/accuracy"]
    assert found.seconds > 0


def test_the_report_has_means_spreads_and_what_they_show() -> None:
    names = list(PATHS)
    found = [(names[0], Outcome(0.90, 0.91, 10)), (names[1], Outcome(0.80, 0.82, 30))]
    once = list(ablations.report(PATHS, found))
    assert once[2] == "| the recipe | 90.00 % | 91.00 % | 1 | 10.0 |"
    assert "no statement about the method" in once[-1]
    more = [(names[0], Outcome(0.92, 0.93, 12)), (names[1], Outcome(0.83, 0.84, 32))]
    again = list(ablations.report(PATHS, found + more + more))
    # Of 90, 92 and 92.
    assert again[2] == "| the recipe | 91.33 ± 1.15 % | 92.33 ± 1.15 % | 3 | 11.3 |"
    assert "is worse than the recipe: " in again[-1]
    assert "difference -9.33 points" in again[-1]


def test_a_training_without_validation_images_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        ablations.main(["path", "--recipe", "fast_94"])
    assert ended.value.code == 2
    assert "holdout=false: leaves no validation images for the accuracy" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.wild
def test_rows_are_trained_seed_by_seed_in_fresh_processes(tmp_path: Path) -> None:
    put_scenes(tmp_path)
    given = TINY | {"dataset": "scenes", "train_images": 64, "epochs": 1}
    found = list(ablations.outcomes(PATHS, given, range(2)))
    assert [name for name, _ in found] == [*PATHS] * 2
    assert found[0][1].accuracy != found[2][1].accuracy or found[0][1].mirrored != found[2][1].mirrored
