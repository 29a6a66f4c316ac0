"""What is written into a run is read back from it, also from runs of former versions."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from experiments.comparison.findings import Findings, Member
from experiments.runs.contents import (
    RunMaps,
    config,
    config_records,
    maps,
    maps_record,
    predictions,
    predictions_record,
)
from experiments.runs.prepare import prepare
from experiments.runs.train import iter_settings
from experiments.settings.train import TrainSettings
from experiments.tracking.locations import TrackingError
from experiments.tracking.reading import FinishedRun
from experiments.tracking.records import Arrays, Param, Table, Text
from experiments.tracking.writing import _save
from experiments.training.predictions import Predictions
from tests.toys.networks import toy_dataset
from tests.toys.runs import ToyRun, by_path, toy_config, toy_findings

LAYERS = ("stem", "layer3")
CONFIG = toy_config(toy_dataset(), LAYERS, cutout="true", cutout_size="6", image_size="16", cam_method="HiResCAM")


def run_with(*files: Text | Table | Arrays) -> ToyRun:
    return ToyRun("0123456789abcdef", "toy", "0", {}, {}, {}, by_path(*files))


def changed(change: Callable[[dict[str, object]], object]) -> ToyRun:
    """A run whose config.json is another one."""
    text, recipe = config_records(CONFIG)
    logged = json.loads(text.text)
    del logged["sha256"]  # as in a run of version 0.2
    change(logged)
    return run_with(Text(text.path, json.dumps(logged)), recipe)


def test_settings_come_back_with_their_types() -> None:
    assert config(run_with(*config_records(CONFIG))) == CONFIG
    assert CONFIG.method == "hirescam"


def test_the_parameters_of_a_run_are_made_of_its_config() -> None:
    ready = prepare(TrainSettings.of(image_size=16, cutout_size="6", device="cpu"), dataset=toy_dataset())
    records = list(iter_settings(ready))
    params = {record.key: record.value for record in records if isinstance(record, Param)}
    run = run_with(*(record for record in records if isinstance(record, Text)))
    assert params == {f"resolved.{name}": text for name, text in config(run).resolved.items()}
    assert params["resolved.layers"] == "stem layer1 layer2 layer3"
    assert params["resolved.dataset"] == "toy"  # not `auto`
    assert "RandomCrop" in str(params["resolved.augmentation"])


def test_a_run_of_version_0_1_is_read() -> None:
    def former(logged: dict[str, object]) -> None:
        del logged["methods"], logged["augmentation"]

    run = changed(former)
    assert config(run) == replace(CONFIG, methods=(), augmentation="")
    assert config(run).resolved.items() <= CONFIG.resolved.items() | {("cam_methods", "auto")}


def test_options_that_came_later_are_off_and_those_that_have_gone_are_left_out() -> None:
    def older(logged: dict[str, object]) -> None:
        settings = logged["settings"]
        assert isinstance(settings, dict)
        del settings["sides"], settings["cam_method"]
        settings["gone"] = 1

    settings = config(changed(older)).settings
    assert (settings.sides, settings.cam_method) == ("none", "gradcam")
    assert settings.cutout


def test_a_recipe_file_may_have_gone() -> None:
    def from_file(logged: dict[str, object]) -> None:
        settings = logged["settings"]
        assert isinstance(settings, dict)
        settings["recipe"] = "gone.toml"

    settings = config(changed(from_file)).settings
    assert settings.recipe == "gone.toml"
    assert settings.epochs == CONFIG.settings.epochs


@pytest.mark.parametrize("missing", ["layers", "machine", "dataset"])
def test_settings_that_cannot_be_read_are_refused_in_one_line(missing: str) -> None:
    run = changed(lambda logged: logged.pop(missing))
    with pytest.raises(TrackingError, match=r"^run 01234567 \(toy\) was not logged as this version does it .*again$"):
        config(run)


def test_maps_come_back_and_those_of_the_sample_as_precisely_as_half_floats_can() -> None:
    random = np.random.default_rng(0)
    places = np.arange(3)
    shown, strength = random.random((2, 3, 8, 8)).astype(np.float32), np.ones((2, 3), np.float32)
    written = RunMaps(LAYERS, shown, strength, places, places, np.arange(5), random.random((5, 4, 4)))
    found = maps(run_with(maps_record(written)))
    assert found.layers == LAYERS
    assert np.array_equal(found.maps, shown)
    assert found.sample_maps.dtype == np.float32
    assert np.allclose(found.sample_maps, written.sample_maps, atol=1e-3)
    whole = maps_record(written)
    with pytest.raises(TrackingError, match="'strength'"):
        maps(run_with(Arrays(whole.path, {name: whole.arrays[name] for name in ("layers", "maps")})))


def test_predictions_come_back() -> None:
    logits = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    written = Predictions(logits, np.arange(6) % 3)
    found = predictions(run_with(predictions_record(written, ("a", "b", "c"))), ("a", "b", "c"))
    assert np.array_equal(found.labels, written.labels)
    assert np.allclose(found.probabilities, written.probabilities, atol=1e-6)


@dataclass(frozen=True)
class Counting(ToyRun):
    """Counts how often each text file is read."""

    reads: list[str] = field(default_factory=list)

    def read_text(self, path: str) -> str:
        self.reads.append(path)
        return super().read_text(path)


def test_a_comparison_reads_the_settings_of_each_run_once() -> None:
    made = toy_findings(seeds=3)
    runs = [
        Counting(run.id, run.name, "0", {}, {}, run.metrics, run.files)
        for member in made.members
        if isinstance(run := member.run, ToyRun)
    ]
    members = [Member(one.variant, one.seed, run, True) for one, run in zip(made.members, runs, strict=True)]
    found = Findings(tuple(members), made.dataset)
    assert len(found.runs) == 6
    assert len(found.differences)
    assert found.last_layers == ("layer3", "layer3")
    assert [run.reads for run in runs] == [["config.json"]] * 6


def test_a_changed_value_in_a_file_that_is_read_back_is_noticed() -> None:
    random = np.random.default_rng(0)
    logits = random.normal(size=(6, 3)).astype(np.float32)
    table = predictions_record(Predictions(logits, np.arange(6) % 3), ("a", "b", "c"))
    frame = table.frame.copy()
    frame.loc[2, "p_b"] *= 1.0001
    places, sample = np.arange(3), random.random((3, 4, 4))
    shown, strength = random.random((2, 3, 8, 8), np.float32), np.ones((2, 3), np.float32)
    arrays = maps_record(RunMaps(LAYERS, shown, strength, places, places, places, sample))
    maps_changed = arrays.arrays["maps"].copy()
    maps_changed[1, 2, 7, 7] += 1e-6
    text, _ = config_records(CONFIG)
    readers = {
        "predictions.parquet": lambda: predictions(run_with(Table(table.path, frame)), ("a", "b", "c")),
        "maps.npz": lambda: maps(run_with(Arrays(arrays.path, {**arrays.arrays, "maps": maps_changed}))),
        "config.json": lambda: config(run_with(Text(text.path, text.text.replace('"epochs": 8', '"epochs": 9')))),
    }
    for path, read in readers.items():
        with pytest.raises(
            TrackingError,
            match=rf"\(toy\): its file {path} is damaged \(its content .*: train it again, or leave it out",
        ):
            read()


@dataclass(frozen=True)
class StoredRun(FinishedRun):
    """A run whose files are in a folder."""

    folder: Path

    @contextmanager
    def _fetched(self, path: str) -> Iterator[Path]:
        yield self.folder / path


@pytest.mark.parametrize("count", [4, pytest.param(350, marks=pytest.mark.wild)])
@pytest.mark.parametrize("kind", ["config.json", "predictions.parquet", "maps.npz"])
def test_a_flipped_bit_or_a_cut_is_noticed_or_changes_nothing(kind: str, count: int, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    made_up = toy_findings().members[0].run
    assert isinstance(made_up, ToyRun)
    run = StoredRun("0123456789abcdef", "toy", "0", {}, {}, {}, tmp_path)
    _save(made_up.files[kind], tmp_path / kind)
    read = {
        "config.json": lambda: repr(config(replace(run))),
        "predictions.parquet": lambda: predictions(run, toy_dataset().classes).logits.tobytes(),
        "maps.npz": lambda: [np.asarray(value).tobytes() for value in vars(maps(run)).values()],
    }[kind]
    whole, content = read(), (tmp_path / kind).read_bytes()
    for _ in range(count):
        at, bit = int(random.integers(len(content))), int(random.integers(8))
        flipped = content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :]
        (tmp_path / kind).write_bytes(flipped if at % 4 else content[:at])
        with suppress(TrackingError):
            assert read() == whole
