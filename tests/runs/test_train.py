"""One variant leaves everything that a comparison and a person need in its run, and can be explained again."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from mlflow import MlflowClient
from mlflow.pytorch import load_model

from cam_core import cams, normalise, resize
from experiments.data.tensors import to_tensor
from experiments.explaining.map_measures import MAP_MEASURES
from experiments.explaining.measuring import background_shift
from experiments.pictures.style import take_failures
from experiments.runs.evaluate import curves_title, iter_evaluation
from experiments.runs.fingerprint import deciding_sources
from experiments.runs.prepare import Prepared, prepare
from experiments.runs.train import headline, train, work
from experiments.settings.base import SettingsError
from experiments.settings.train import TrainSettings
from experiments.system.progress import Printer, Reporter
from experiments.tracking.reading import FinishedRun, completed_run
from experiments.tracking.records import Metrics, Record
from experiments.tracking.store import prepare_store
from experiments.training.checkpoints import CheckpointError
from experiments.training.loop import TrainingDiverged, build_model
from experiments.training.predictions import Predictions, predict, predict_with_mirrors
from tests.conftest import put_store
from tests.toys.networks import CLASSES, narrow_resnet18, toy_dataset, toy_split

QUICK = {
    "epochs": 2,
    "batch_size": 16,
    "lr": 0.05,
    "threads": 1,
    "device": "cpu",
    "precision": "fp32",
    "image_size": 16,
}


def ready(**options: object) -> Prepared:
    given = QUICK | {"gallery_size": 5} | options
    return prepare(TrainSettings.of(**given), dataset=toy_dataset())


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({}, "baseline, seed 0"),
        ({"cutout": True, "cutout_size": 6}, "cutout 6 px, seed 0"),
        ({"cutout": True, "cutout_size": "4-6x8", "seed": 3}, "cutout 4-6x8 px, seed 3"),
    ],
)
def test_a_run_is_called_what_is_done_to_its_images(options: dict[str, object], name: str) -> None:
    assert ready(**options).name == name


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"freeze": "until:layer9"}, "freeze=until:layer9: the network has no layer 'layer9'; .*did you mean 'layer"),
        ({"optimizer_args": "beta=1"}, "optimizer_args=beta=1: muon takes ns_coefficients, eps, ns_steps, adjust_lr"),
    ],
)
def test_layers_and_arguments_are_checked_before_a_run_exists(options: dict[str, object], said: str) -> None:
    before = torch.get_rng_state()
    with pytest.raises(SettingsError, match=said):
        ready(**options)
    assert torch.equal(torch.get_rng_state(), before)


def test_curves_say_what_they_are_of() -> None:
    smoothed, plain = ready(label_smoothing=0.2), ready(label_smoothing=0)
    of_train = "train: mean over the epoch's steps, on augmented images"
    untracked = pd.DataFrame({"train/loss": [1.0, 0.5]}, index=[1, 2])
    assert curves_title(smoothed, untracked) == f"baseline, seed 0\n{of_train}, labels smoothed by 0.2"
    tracked = pd.DataFrame({"test/accuracy": [0.75, 0.875, 0.8125]}, index=[1, 2, 3])
    expected = "baseline, seed 0: test accuracy 81.25% after the last epoch; best of 3: 87.50% in epoch 2"
    assert curves_title(plain, tracked) == f"{expected}\n{of_train}"


class Kept(Reporter):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, ready_store: Path) -> tuple[Path, FinishedRun]:
    """A finished training and the folder of its store."""
    folder = tmp_path_factory.mktemp("trained")
    put_store(ready_store, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        prepare_store(folder)
        run = train(ready(), reporter := Kept())
    mlflow.set_tracking_uri(None)
    assert not [line for line in reporter.lines if "could not be drawn" in line]
    return folder, run


@pytest.fixture
def finished(trained: tuple[Path, FinishedRun], monkeypatch: pytest.MonkeyPatch) -> FinishedRun:
    """A finished training that tests only read."""
    folder, run = trained
    monkeypatch.chdir(folder)
    prepare_store(folder)
    return run


@pytest.mark.slow
def test_a_run_leaves_everything(finished: FinishedRun) -> None:
    client = MlflowClient()
    files = {
        file.path
        for folder in (None, "galleries", "gradcam")
        for file in client.list_artifacts(finished.id, folder)
        if not file.is_dir
    }
    assert files >= {
        "config.json",
        "augmented.png",
        "curves.png",
        "confusion.png",
        "predictions.parquet",
        "cam_measures.parquet",
        "faithfulness.parquet",
        "maps.npz",
        "galleries/correct.png",
        "gradcam/correct.png",
        "gradcam/correct_heat.png",
        "recipe.toml",
        "gradcam/probes.png",
        "gradcam/methods.png",
        *(() if finished.metrics["test/accuracy"] == 1 else ("gradcam/misclassified_predicted.png",)),
    }
    assert len(finished.list_keys()) == 10
    run = client.get_run(finished.id)
    assert run.info.status == "FINISHED"
    assert run.data.tags["camparison.status"] == "completed"
    assert run.data.tags["camparison.kind"] == "train"
    assert run.data.params["resolved.epochs"] == "2"
    assert run.data.params["resolved.momentum"] == "0.6"
    assert {name for name in run.data.params if not name.startswith("resolved.")} == set()  # each setting once
    given = finished.read_json("config.json")["given"]
    assert given["epochs"] == "2"
    assert "momentum" not in given
    assert run.data.params["resolved.device"] == "cpu"
    dataset = run.inputs.dataset_inputs[0].dataset
    assert (dataset.name, dataset.digest) == ("toy", toy_dataset().digest)


@pytest.mark.slow
def test_its_numbers_agree_with_its_tables(finished: FinishedRun) -> None:
    table = finished.read_table("predictions.parquet")
    labels = toy_dataset().splits["test"].labels
    assert table["label"].tolist() == labels.tolist()
    assert finished.metrics["test/accuracy"] == (table["prediction"] == table["label"]).mean()
    looking = finished.read_table("cam_measures.parquet")
    at_last = looking[looking["layer"] == "layer3"]
    assert finished.metrics["cam/layer3/energy"] == pytest.approx(at_last["energy"].mean(), rel=1e-6)
    assert len(at_last) == len(labels)
    assert at_last["right"].tolist() == (table["prediction"] == table["label"]).tolist()
    again = finished.read_table("faithfulness.parquet")
    assert finished.metrics["faith/deletion_margin"] == pytest.approx(again["deletion_margin"].mean(), rel=1e-6)
    assert finished.metrics["cam/layer3/flip_consistency"] == pytest.approx(again["flip_consistency"].mean(), rel=1e-6)
    assert [step for step, _ in finished.metric_history("val/accuracy")] == [1, 2]
    assert finished.read_json("config.json")["settings"]["epochs"] == 2


def test_every_measure_of_maps_that_it_logs_is_in_the_table_and_the_other_way_round(finished: FinishedRun) -> None:
    logged = {key.rpartition("/")[2] for key in finished.metrics if key.startswith("cam/")}
    # Of whether a map is trusted, not of the map; the other such number, the deletion margin, is logged as faith/...
    assert logged - {"flip_consistency"} == set(MAP_MEASURES)


@pytest.mark.slow
def test_times_of_all_phases_are_recorded(finished: FinishedRun) -> None:
    phases = {key.split("/")[1] for key in finished.metrics if key.startswith("time/")}
    assert phases >= {
        "data_s",
        "train_s",
        "train_cpu_s",
        "evaluate_s",
        "cam_s",
        "faithfulness_s",
        "pictures_s",
        "tracking_s",
    }


@pytest.mark.slow
def test_the_logged_model_predicts_and_is_explained_as_before(finished: FinishedRun) -> None:
    model = load_model(f"runs:/{finished.id}/model")
    arrays = finished.read_arrays("maps.npz")
    split = toy_dataset().splits["test"]
    images = to_tensor(split.images[arrays["indices"]])
    found = cams(model, images, model.cam_layers, torch.from_numpy(arrays["labels"]))
    assert np.allclose(found.maps.numpy(), arrays["maps"], atol=1e-5)
    probabilities = finished.read_table("predictions.parquet").loc[arrays["indices"], [f"p_{c}" for c in CLASSES]]
    assert np.allclose(found.logits.softmax(1).numpy(), probabilities, atol=1e-5)
    images, labels = to_tensor(split.images[arrays["sample_indices"]]), split.labels[arrays["sample_indices"]]
    sampled = torch.from_numpy(arrays["sample_maps"].astype(np.float32))
    expected = cams(model, images, model.cam_layers[-1:], torch.from_numpy(labels)).maps[0]
    torch.testing.assert_close(normalise(resize(sampled, (16, 16))), expected, atol=2e-3, rtol=0)


@pytest.mark.slow
def test_a_diverged_training_is_a_failed_run_with_its_reason(store: Path) -> None:
    prepare_store(store)
    lost = ready(lr=100, schedule="constant", momentum=0.99, weight_decay=1.0, epochs=60)
    with pytest.raises(TrainingDiverged, match="learning rate 100"):
        train(lost, Reporter())
    run = MlflowClient().search_runs(["0"])[0]
    assert run.info.status == "FAILED"
    assert "learning rate 100" in run.data.tags["camparison.error"]
    assert completed_run(lost.fingerprint) is None


# Going on after an interruption


class Interrupting(Reporter):
    """Ctrl-C at one of the training steps."""

    def __init__(self, step: int) -> None:
        self._left = step

    def advance(self, steps: int = 1) -> None:
        self._left -= steps
        if self._left == 0:
            raise KeyboardInterrupt


def weights(run: FinishedRun) -> dict[str, torch.Tensor]:
    return dict(load_model(f"runs:/{run.id}/model").state_dict())


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"dropout": 0.3, "cutout": True}, {"model": "resnet18", "optimizer": "sgd"}])
def test_an_interrupted_training_ends_as_if_it_had_not_been(
    store: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, object]
) -> None:
    monkeypatch.setattr("experiments.runs.prepare.AUTO_EVERY_S", 0.0)
    narrow_resnet18(monkeypatch)
    prepare_store(store)
    same = QUICK | {"epochs": 4, "track_test": True, "gallery_size": 2, "cam_methods": "gradcam"} | options
    whole = train(ready(**same, data_dir="a"), Reporter())
    steps = 96 // 16
    with pytest.raises(KeyboardInterrupt):
        train(ready(**same, data_dir="b"), Interrupting(2 * steps + 3))
    kept = list(Path("b/checkpoints").iterdir())
    assert [path.name for path in kept] == [f"{ready(**same).fingerprint}.pt"]
    again = ready(**same, data_dir="b")
    assert again.checkpoint is not None
    assert again.checkpoint.epochs == 2
    assert work(ready(**same, data_dir="a")) - work(again) == 2 * steps  # what is left to do
    resumed = train(again, Reporter())
    assert resumed.tags["camparison.resumed_after_epoch"] == "2"
    for name in ("train/loss", "val/loss", "test/accuracy", "train/lr"):
        assert resumed.metric_history(name) == whole.metric_history(name)
    expected, found = weights(whole), weights(resumed)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert not list(Path("b/checkpoints").iterdir())
    statuses = sorted(run.info.status for run in MlflowClient().search_runs(["0"]))
    assert statuses == ["FINISHED", "FINISHED"]  # it went on in its own run


@pytest.mark.slow
def test_a_checkpoint_of_ones_own_stays_and_another_training_refuses_it(store: Path) -> None:
    prepare_store(store)
    train(ready(checkpoint="mine.pt"), Reporter())
    assert Path("mine.pt").is_file()
    finished = ready(resume="mine.pt")
    assert finished.checkpoint is not None
    assert finished.checkpoint.epochs == 2
    with pytest.raises(CheckpointError, match="is a folder"):
        ready(checkpoint=".")
    with pytest.raises(CheckpointError, match=r"of another training \(lr=0\.05 there, 0\.06 here\)"):
        ready(resume="mine.pt", lr=0.06)
    assert ready(resume="none").checkpoint is None


@pytest.mark.slow
def test_the_same_command_carries_on_from_a_file_of_ones_own(store: Path) -> None:
    prepare_store(store)
    with pytest.raises(KeyboardInterrupt):
        train(ready(checkpoint="mine.pt"), Interrupting(9))
    again = ready(checkpoint="mine.pt")
    assert again.checkpoint is not None
    assert again.checkpoint.epochs == 1
    assert ready(checkpoint="mine.pt", resume="none").checkpoint is None
    assert ready(checkpoint="other.pt").checkpoint is None


def test_a_damaged_automatic_checkpoint_is_told_and_left(capsys: pytest.CaptureFixture[str]) -> None:
    own = Path("data/checkpoints") / f"{ready().fingerprint}.pt"
    own.parent.mkdir(parents=True)
    own.write_bytes(b"half")
    given = QUICK | {"gallery_size": 5}
    found = prepare(TrainSettings.of(**given), dataset=toy_dataset(), reporter=Printer())
    assert found.checkpoint is None
    assert "starts over: resume=data/checkpoints/" in capsys.readouterr().out


@pytest.mark.slow
def test_nothing_is_written_where_no_checkpoint_is_wanted(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.runs.prepare.AUTO_EVERY_S", 0.0)
    prepare_store(store)
    with pytest.raises(KeyboardInterrupt):
        train(ready(checkpoint="none"), Interrupting(9))
    assert not Path("data").exists()


# Training on everything, as published


@pytest.mark.slow
def test_without_validation_images_the_last_and_the_best_epoch_are_told_apart(store: Path) -> None:
    prepare_store(store)
    given = QUICK | {"holdout": "false", "track_test": "true", "epochs": 3, "test_flip": True}
    splits = {name: split for name, split in toy_dataset().splits.items() if name != "val"}
    everything = replace(toy_dataset(), splits=splits)
    run = train(prepare(TrainSettings.of(**given), dataset=everything), Reporter())
    curve = [value for _, value in run.metric_history("test/accuracy")]
    assert len(curve) == 3
    assert run.metrics["test/best_accuracy"] == max(curve)
    assert run.metrics["test/best_epoch"] == 1 + curve.index(max(curve))
    assert not [name for name in run.metrics if name.startswith("val/")]
    assert 0 <= run.metrics["test/accuracy_with_mirrors"] <= 1
    said = headline(run)
    assert f"test accuracy {curve[-1]:.2%}, after the last epoch; best of its epochs {max(curve):.2%} in epoch" in said
    assert "validation" not in said


def test_mirror_images_are_averaged_as_logits() -> None:
    plain = ready()
    model, split = build_model(plain.settings, len(CLASSES), *plain.dataset.statistics), toy_split(6, 5)
    mirrored = np.ascontiguousarray(split.images[:, :, ::-1])
    expected = [predict(model, images, split.labels, "cpu").logits for images in (split.images, mirrored)]
    found = predict_with_mirrors(model, split.images, split.labels, "cpu")
    np.testing.assert_allclose(found.logits, np.mean(expected, axis=0), rtol=1e-6)
    again = predict_with_mirrors(model, mirrored, split.labels, "cpu")
    np.testing.assert_allclose(found.logits, again.logits, rtol=1e-5)


# What the background does


def predicted(*classes: int) -> Predictions:
    return Predictions(np.eye(3, dtype=np.float32)[list(classes)], np.array([0, 1, 2, 0]))


def test_shift_is_what_the_background_does_to_the_same_objects() -> None:
    # Of four objects the first two are right on their own background; elsewhere the second and the third move.
    found = {"own": predicted(0, 1, 0, 1), "other": predicted(0, 2, 1, 1), "background_only": predicted(0, 1, 2, 1)}
    assert background_shift(found) == {
        "shift/own_accuracy": 0.5,
        "shift/other_accuracy": 0.25,
        "shift/background_only_accuracy": 0.75,
        "shift/background_gap": 0.25,
        "shift/background_flips": 0.5,
    }


def test_predictions_that_move_without_a_gap_are_flips_all_the_same() -> None:
    found = background_shift({"own": predicted(0, 0, 0, 1), "other": predicted(1, 1, 0, 1)})
    assert (found["shift/background_gap"], found["shift/background_flips"]) == (0, 0.5)


def test_a_picture_that_fails_leaves_its_error_and_all_other_records(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = ready()
    split = plain.dataset.splits["test"]
    model = build_model(plain.settings, len(CLASSES), *plain.dataset.statistics)
    said = predict(model, split.images, split.labels, "cpu")
    whole = list(iter_evaluation(plain, model, said, 1))

    def fail(*_: object) -> np.ndarray:
        raise ValueError("no such glyph")

    monkeypatch.setattr("experiments.runs.evaluate.confusion", fail)
    found = list(iter_evaluation(plain, model, said, 1))
    assert list(map(type, found)) == list(map(type, whole))
    assert take_failures() == ["confusion.png could not be drawn (ValueError: no such glyph)"]


def test_only_scenes_have_a_background_to_shift() -> None:
    plain = ready()
    split = plain.dataset.splits["test"]
    shifted = {"own": split, "other": toy_split(len(split), 4)}
    scenes = replace(plain, dataset=replace(plain.dataset, splits={**plain.dataset.splits, **shifted}))
    model = build_model(plain.settings, len(CLASSES), *plain.dataset.statistics)
    said = predict(model, split.images, split.labels, "cpu")
    metrics = [
        {name for record in iter_evaluation(prepared, model, said, 1) for name in metrics_of(record)}
        for prepared in (plain, scenes)
    ]
    assert metrics[1] - metrics[0] == {
        *("shift/own_accuracy", "shift/other_accuracy"),
        *("shift/background_gap", "shift/background_flips"),
    }


def metrics_of(record: Record) -> Mapping[str, float]:
    return record.values if isinstance(record, Metrics) else {}


# Fingerprints


@pytest.mark.parametrize(
    "options",
    [
        *(
            {"seed": 1},
            {"lr": 0.06},
            {"epochs": 3},
            {"cutout": True},
            {"model": "resnet18"},
            {"cam_method": "hirescam"},
        ),
        *({"augment_by": "albumentations"}, {"optimizer": "sgd", "nesterov": False}, {"hflip": 0.25}),
        {"channels_last": "false"},  # the state of an optimizer has another layout
    ],
)
def test_what_decides_the_result_changes_the_fingerprint(options: dict[str, object]) -> None:
    assert ready(**options).fingerprint != ready().fingerprint


@pytest.mark.parametrize(
    "options",
    [
        *({"cutout_size": 8}, {"lr_gamma": 0.5}, {"threads": 2}, {"data_dir": "elsewhere"}, {"compile": True}),
        *({"rotate": 10.0}, {"hue": 5}, {"augment_by": "batch"}, {"checkpoint": "none"}, {"resume": "none"}),
    ],
)
def test_what_does_not_matter_leaves_the_fingerprint(options: dict[str, object]) -> None:
    assert ready(**options).fingerprint == ready().fingerprint


def test_other_data_change_the_fingerprint() -> None:
    settings = TrainSettings.of(**QUICK)
    first, second = toy_dataset(), toy_dataset()
    object.__setattr__(second, "digest", "fedcba9876543210")
    assert prepare(settings, dataset=first).fingerprint != prepare(settings, dataset=second).fingerprint


def test_a_reworded_heading_trains_nothing_again() -> None:
    names = {path.name for path in deciding_sources()}
    assert {"measuring.py", "fastnet.py", "quality.py", "notation.py"} < names
    assert "map_measures.py" not in names


@pytest.mark.slow
def test_config_json_is_json_with_the_settings_as_types(finished: FinishedRun) -> None:
    config = json.loads(finished.read_text("config.json"))
    assert TrainSettings(**config["settings"]) == TrainSettings.of(**QUICK, gallery_size=5)
    assert config["layers"] == ["stem", "layer1", "layer2", "layer3"]
