"""Finished runs are grouped into variants as a person would, and refused in one line where they do not fit together."""

import json
import shutil
import sqlite3
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pytest

from experiments.comparison.findings import Member
from experiments.comparison.selection import members, members_of_runs, refuse_same, shared_dataset
from experiments.comparison.trained import trained_of
from experiments.data.dataset import Dataset
from experiments.runs.contents import RunMaps, config_records, maps_record
from experiments.runs.prepare import Prepared, prepare
from experiments.runs.train import iter_settings
from experiments.settings.base import SettingsError
from experiments.settings.command_line import typed
from experiments.settings.compare import CompareSettings
from experiments.settings.train import TrainSettings
from experiments.settings.trainings import Training
from experiments.system.progress import Reporter
from experiments.tracking.client import FINGERPRINT
from experiments.tracking.lifetime import open_run
from experiments.tracking.locations import TrackingError
from experiments.tracking.reading import FinishedRun, finished_run, finished_training
from experiments.tracking.records import Arrays, Param, Picture, Text
from experiments.tracking.store import prepare_store
from tests.conftest import forget_mlflow
from tests.toys.networks import toy_dataset
from tests.toys.runs import toy_config

SCENES = {"name": "scenes", "digest": "0123456789abcdef"}
OTHER = {"name": "cifar10", "digest": "fedcba9876543210"}
PROBES, SAMPLE = np.arange(5), np.arange(0, 100, 2)


def explained(probes: np.ndarray = PROBES, sample: np.ndarray = SAMPLE) -> RunMaps:
    """Maps of which only the images count that they are of."""
    n, layers = len(probes), ("stem", "layer3")
    maps, strength = np.zeros((2, n, 2, 2), np.float32), np.zeros((2, n), np.float32)
    return RunMaps(layers, maps, strength, probes, probes, sample, np.zeros((len(sample), 2, 2), np.float32))


def finished(
    *,
    kind: str = "train",
    fingerprint: str = "",
    data: Mapping[str, str] = SCENES,
    maps: Arrays | None = None,
    layers: tuple[str, ...] = ("stem", "layer3"),
    error: Exception | None = None,
    **given: str,
) -> str:
    """The id of a run that logged what a training with these options logs of itself; no network was trained."""
    config = replace(toy_config(replace(toy_dataset(), **data), layers, **{"dataset": "scenes"} | given), given=given)
    logged = {name: value for name, value in config.settings.as_params().items() if name in ("epochs", "lr")}
    name = f"{'cutout' if config.settings.cutout else 'baseline'}, seed {config.settings.seed}"
    tags = {FINGERPRINT: fingerprint} if fingerprint else {}
    with open_run(kind=kind, name=name, tags=tags) as run:
        run.log([Param(f"resolved.{key}", value) for key, value in logged.items()])
        run.log([*config_records(config), maps or maps_record(explained())])
        if error:
            raise error
    return run.id


SINCE = ("sample_indices", "sample_maps", "sha256")  # what maps.npz has that the first version did not write


def without_sample() -> Arrays:
    """The maps as a version logged them that had no sample."""
    whole = maps_record(explained())
    return Arrays(whole.path, {name: value for name, value in whole.arrays.items() if name not in SINCE})


def failed() -> str:
    with pytest.raises(ValueError, match="the loss is nan"):
        finished(error=ValueError("the loss is nan"), epochs="9")
    return str(mlflow.search_runs(filter_string="attributes.status = 'FAILED'").run_id[0])


def make_runs() -> dict[str, str]:
    """Run ids by short names."""
    made = {f"cut{seed}": finished(cutout="true", seed=str(seed)) for seed in (0, 1, 2)}
    made |= {f"base{seed}": finished(cutout="False", seed=str(seed)) for seed in (0, 1, 2)}
    small = {"cutout": "true", "cutout_size": "8-20"}
    return made | {
        "small0": finished(**small),
        "small1": finished(**small, seed="1"),
        "slow0": finished(lr="0.05", fingerprint="5104", gallery_size="3", threads="2"),
        "slow0_again": finished(lr="0.05", fingerprint="5104", device="cpu"),
        "slow_cut0": finished(lr="0.05", cutout="true"),
        "old_cut0": finished(cutout="true", maps=without_sample()),
        "old_base0": finished(maps=maps_record(explained(probes=PROBES + 1))),
        "few0": finished(maps=maps_record(explained(sample=SAMPLE[:20]))),
        "cifar0": finished(data=OTHER, dataset="cifar10"),
        "hires0": finished(cam_method="HiResCAM"),
        "layer2": finished(layers=("layer2",)),
        "resnet0": finished(recipe="resnet18", layers=("layer4",)),
        "compare": finished(kind="compare"),
        "failed": failed(),
    }


@pytest.fixture(scope="session")
def made(ready_store: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A folder with finished runs of many kinds, and their ids. The tests only read them."""
    folder = tmp_path_factory.mktemp("runs")
    shutil.copy(ready_store / "mlflow.db", folder)
    connection = sqlite3.connect(folder / "mlflow.db")
    with connection:
        connection.execute("UPDATE experiments SET artifact_location = ?", (f"{folder}/mlruns/0",))
    connection.close()
    forget_mlflow()
    prepare_store(folder)
    made = make_runs()
    forget_mlflow()
    return folder, made


@pytest.fixture
def ids(made: tuple[Path, dict[str, str]]) -> dict[str, str]:
    folder, runs = made
    prepare_store(folder)
    return runs


def found(ids: Mapping[str, str], *names: str) -> list[FinishedRun]:
    return [finished_run(ids[name]) for name in names]


def shape(chosen: tuple[Member, ...]) -> list[tuple[str, int]]:
    return [(member.variant, member.seed) for member in chosen]


def problem_of(**options: object) -> str:
    """The one line in which the choice is refused."""
    with pytest.raises(SettingsError) as refused:
        members(CompareSettings.of(**options))
    (problem,) = refused.value.problems
    assert "\n" not in problem
    return problem


# ----------------------------------------------------------------------------------------------------------- grouping


def test_runs_that_differ_in_the_seed_alone_are_one_variant_and_the_baseline_comes_first(ids: dict[str, str]) -> None:
    chosen = members_of_runs(found(ids, "cut1", "small0", "base1", "cut0", "base0", "small1"))
    assert shape(chosen) == [
        *(("baseline", 0), ("baseline", 1)),
        *(("cutout-size_16", 0), ("cutout-size_16", 1)),
        *(("cutout-size_8-20", 0), ("cutout-size_8-20", 1)),
    ]
    assert [member.run.id for member in chosen[:2]] == [ids["base0"], ids["base1"]]
    assert all(member.reused for member in chosen)


def test_the_order_of_runs_changes_nothing_that_can_be_told_from_them(ids: dict[str, str]) -> None:
    runs = found(ids, "cut0", "base1", "base0", "small1", "cut1", "small0")
    assert members_of_runs(runs) == members_of_runs(runs[::-1])


@pytest.mark.parametrize(
    ("runs", "names"),
    [
        (("cut0", "base0"), ["baseline", "cutout"]),
        (("small0", "cut0"), ["cutout_size_16", "cutout_size_8-20"]),
        (("slow0", "base0"), ["lr_0.12", "lr_0.05"]),
        (("slow_cut0", "slow0", "cut0", "base0"), ["baseline", "lr_0.05", "cutout", "cutout-lr_0.05"]),
        (("slow_cut0", "base0"), ["baseline", "cutout-lr_0.05"]),
    ],
)
def test_variants_are_named_by_what_is_their_own(ids: dict[str, str], runs: tuple[str, ...], names: list[str]) -> None:
    assert [member.variant for member in members_of_runs(found(ids, *runs))] == names


def test_a_name_stays_short_and_its_own_where_much_differs(ids: dict[str, str]) -> None:
    first, second = (member.variant for member in members_of_runs(found(ids, "base0", "resnet0")))
    assert first.endswith(ids["base0"][:8])
    assert second.endswith(ids["resnet0"][:8])
    assert first.startswith("model_fastnet")
    assert second.startswith("model_resnet18")
    assert max(len(first), len(second)) < 50


def test_where_it_ran_and_what_is_drawn_make_no_variant(ids: dict[str, str]) -> None:
    # The two differ in gallery_size, threads and device; without a filter they are seed 0 twice.
    text = f"{ids['slow0']} {ids['slow0_again']} {ids['base0']}"
    assert "lr_0.05 has seed 0 twice" in problem_of(runs=text)


# ----------------------------------------------------------------------------------------------------------- choosing


def test_runs_are_chosen_by_the_beginnings_of_their_ids(ids: dict[str, str]) -> None:
    chosen = members(CompareSettings.of(runs=f"{ids['cut0'][:12]}, {ids['base0']}"))
    assert [(member.variant, member.run.id) for member in chosen] == [
        ("baseline", ids["base0"]),
        ("cutout", ids["cut0"]),
    ]


def test_names_given_by_hand_stand_and_so_does_their_order(ids: dict[str, str]) -> None:
    text = f"holes={ids['cut1']}+{ids['cut0']} plain={ids['base1']}+{ids['base0']}"
    chosen = members(CompareSettings.of(runs=text))
    assert shape(chosen) == [("holes", 0), ("holes", 1), ("plain", 0), ("plain", 1)]
    assert [member.run.id for member in chosen] == [ids[name] for name in ("cut0", "cut1", "base0", "base1")]


def test_runs_are_chosen_by_filter_and_a_training_done_twice_counts_once(ids: dict[str, str]) -> None:
    chosen = members(CompareSettings.of(filter="params.`resolved.lr` = '0.05'"))
    assert [(member.variant, member.run.id) for member in chosen] == [
        ("baseline", ids["slow0_again"]),
        ("cutout", ids["slow_cut0"]),
    ]


# ----------------------------------------------------------------------------------------------------------- refusals


def test_every_run_that_cannot_be_had_is_named_at_once(ids: dict[str, str]) -> None:
    text = f"{ids['failed']} {ids['compare']} {ids['base0']}"
    with pytest.raises(SettingsError) as refused:
        members(CompareSettings.of(runs=text))
    assert set(refused.value.problems) == {
        f"runs: run {ids['failed']} did not complete (status FAILED, ValueError: the loss is nan): train it again",
        f"runs: run {ids['compare']} (baseline, seed 0) is of kind 'compare': give the ids of trainings",
    }


def test_an_unknown_run_is_named_with_the_nearest(ids: dict[str, str]) -> None:
    slip = ids["cut0"][:9] + next(digit for digit in "0123456789abcdef" if digit != ids["cut0"][9])
    problem = problem_of(runs=f"{slip} {ids['base0']}")
    assert problem == f"runs: no run id begins with '{slip}'; did you mean {ids['cut0'][:10]} (cutout, seed 0)?"


def test_a_beginning_that_several_runs_share_is_refused(ids: dict[str, str]) -> None:
    # There are more runs than digits.
    firsts = [run_id[0] for run_id in ids.values()]
    digit = max(firsts, key=firsts.count)
    with pytest.raises(TrackingError, match=rf"{firsts.count(digit)} run ids begin with '{digit}', such as .*digits"):
        finished_training(digit)


@pytest.mark.parametrize("text", ["epochs is six", "params.a = 'b' OR params.a = 'c'"])
def test_a_filter_that_mlflow_does_not_take_is_refused_in_its_words(ids: dict[str, str], text: str) -> None:
    problem = problem_of(filter=text)
    assert problem.startswith("filter: MLflow does not accept ")
    assert "Invalid clause(s) in filter string" in problem


def test_a_filter_that_finds_nothing_completed_is_refused(ids: dict[str, str]) -> None:
    assert "matches no completed training" in problem_of(filter="tags.nobody = 'here'")
    problem = problem_of(filter="params.`resolved.epochs` = '9'")
    assert f"no completed training, only such as {ids['failed']} (baseline, seed 0, FAILED)" in problem


@pytest.mark.parametrize(
    ("runs", "parts"),
    [
        (
            ("base0", "cifar0", "cut0"),
            (
                "trained on different data: ",
                "scenes 01234567 (image_size=auto, train_images=all, background_bias=0.5): {base0} (baseline, seed 0), "
                "{cut0} (cutout, seed 0); ",
                "cifar10 fedcba98 (image_size=auto, train_images=all): {cifar0} (baseline, seed 0); ",
            ),
        ),
        (
            ("base0", "old_base0"),
            ("different probe images: 5 images 0 1 2 3 4: {base0}", "5 images 1 2 3 4 5: {old_base0}"),
        ),
        (("cut0", "few0"), ("different samples of test images: 50 images 0 2", "20 images 0 2 4")),
        (
            ("base0", "old_cut0"),
            ("run {old_cut0} (cutout, seed 0) was not logged", "'sample_indices'", "train it again"),
        ),
        (("base0", "hires0"), ("different methods: gradcam: {base0}", "hirescam: {hires0}", "one cam_method")),
        (("base0", "layer2"), ("different layers of fastnet: stem layer3: {base0}", "layer2: {layer2}")),
        (("base0",), ("one variant, of 1 run: add runs of another one",)),
        (("base0", "base1"), ("one variant, of 2 runs, which differ in nothing but the seed: add runs",)),
        (
            ("base0", "base0", "cut0"),
            ("baseline has seed 0 twice, {base0} (baseline, seed 0) and {base0}", "leave one out"),
        ),
    ],
)
def test_runs_that_do_not_fit_together_are_refused(
    ids: dict[str, str], runs: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    problem = problem_of(runs=" ".join(ids[name] for name in runs))
    assert problem.startswith("runs: ")
    for part in parts:
        assert part.format(**{name: run_id[:8] for name, run_id in ids.items()}) in problem


def test_different_layers_of_different_networks_are_none_of_that(ids: dict[str, str]) -> None:
    assert len(members_of_runs(found(ids, "base0", "resnet0"))) == 2


def test_unequal_numbers_of_seeds_are_refused_with_what_to_train_and_what_to_leave_out(ids: dict[str, str]) -> None:
    runs = ("base0", "base1", "base2", "small1", "cut0", "cut1", "cut2")
    problem = problem_of(runs=" ".join(ids[name] for name in runs))
    assert problem == (
        "runs: the variants have different seeds (baseline: 0 1 2; cutout-size_16: 0 1 2; "
        "cutout-size_8-20: 1); add the runs, or train cutout-size_8-20 with seed 0 2 "
        "(`python -m experiments.train --cutout true --cutout_size 8-20 --seed 0`); or leave out "
        f"{ids['base0'][:8]} (baseline, seed 0), {ids['base2'][:8]} (baseline, seed 2), "
        f"{ids['cut0'][:8]} (cutout, seed 0), {ids['cut2'][:8]} (cutout, seed 2)"
    )


def test_seeds_that_overlap_but_differ_are_refused(ids: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match=r"different seeds \(baseline: 1 2; cutout: 0 1\); add the runs, or"):
        members_of_runs(found(ids, "base1", "base2", "cut0", "cut1"))


def test_other_seeds_are_paired_in_their_order(ids: dict[str, str]) -> None:
    assert shape(members_of_runs(found(ids, "base2", "cut1"))) == [("baseline", 2), ("cutout", 1)]


def test_more_than_ten_variants_are_refused(store: Path) -> None:
    prepare_store(store)
    for epochs in range(1, 12):
        finished(epochs=str(epochs))
    problem = problem_of(filter="attributes.status = 'FINISHED'")
    assert problem == "filter: 11 variants, such as epochs_8, epochs_1, epochs_2 and 8 more: ten at most"


def test_one_variant_under_two_names_is_refused_unless_it_is_meant(ids: dict[str, str]) -> None:
    text = f"a={ids['base0']} b={ids['base1']}"
    assert problem_of(runs=text) == (
        "runs: 'a' and 'b' have the same settings but for the seed; join their run ids under one name, "
        "or add allow_same=true"
    )
    assert shape(members(CompareSettings.of(runs=text, allow_same=True))) == [("a", 0), ("b", 1)]
    itself = members(CompareSettings.of(runs=f"a={ids['base0']} b={ids['base0']}", allow_same=True))
    assert [member.run.id for member in itself] == [ids["base0"]] * 2


def test_two_variants_under_one_name_are_refused(ids: dict[str, str]) -> None:
    text = f"mixed={ids['slow0']}+{ids['cut1']} plain={ids['base0']}+{ids['base1']}"
    assert problem_of(runs=text) == (
        f"runs: 'mixed' mixes {ids['slow0'][:8]} (baseline, seed 0) and {ids['cut1'][:8]} (cutout, seed 1), "
        "which differ in lr=0.05 and 0.12, cutout=false and true"
    )


def test_settings_that_are_no_longer_taken_are_named(store: Path) -> None:
    prepare_store(store)
    old = {"given": {}, "settings": {"epochs": -1}, "machine": {"precision": "fp32"}, "dataset": {"digest": "0"}}
    with open_run(kind="train", name="old") as run:
        run.log([Text("config.json", json.dumps(old))])
    with open_run(kind="train", name="empty") as empty:
        pass
    assert f"run {run.id[:8]} (old) was not logged as this version does it (config.json: epochs=-1" in problem_of(
        runs=run.id
    )
    assert f"run {empty.id[:8]} (empty) was not logged" in problem_of(runs=empty.id)


def test_the_same_training_in_a_plan_is_refused_unless_it_is_meant() -> None:
    def prepared(name: str, **options: str) -> tuple[Training, Prepared]:
        given = {"image_size": "16", "cutout_size": "6", "device": "cpu"} | options
        settings = TrainSettings.of(**given)
        return Training(name, settings), prepare(settings, dataset=toy_dataset())

    plan = [prepared("baseline"), prepared("same", cutout="false"), prepared("cutout", cutout="true")]
    trainings, ready = [training for training, _ in plan], [one for _, one in plan]
    with pytest.raises(
        SettingsError, match=r"'baseline, seed 0' and 'same, seed 0' are the same training; .*allow_same"
    ):
        refuse_same(trainings, ready, allow_same=False)
    refuse_same(trainings, ready, allow_same=True)
    refuse_same(trainings[1:], ready[1:], allow_same=False)


# --------------------------------------------------------------------------------------------------------- the data


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[TrainSettings]:
    """The settings that a data set is loaded with; what comes is the toy data set."""
    settings: list[TrainSettings] = []

    def load(given: TrainSettings, reporter: Reporter) -> Dataset:
        settings.append(given)
        return toy_dataset()

    monkeypatch.setattr("experiments.comparison.selection.load_dataset", load)
    return settings


def test_the_data_of_the_runs_is_loaded_again(store: Path, asked: list[TrainSettings]) -> None:
    # Logged as a training does it: what is read here is what is written there.
    prepare_store(store)
    for cutout in ("true", "false"):
        given = {
            "cutout": cutout,
            "image_size": "16",
            "cutout_size": "6",
            "data_dir": "elsewhere",
            "train_images": "96",
        }
        ready = prepare(TrainSettings.of(**given), dataset=toy_dataset())
        with open_run(kind="train", name=cutout, tags={FINGERPRINT: ready.fingerprint}) as run:
            run.log([record for record in iter_settings(ready) if not isinstance(record, Picture)])
            run.log([maps_record(explained())])
    settings = CompareSettings.of(filter="params.`resolved.train_images` = '96'")
    chosen = members(settings)
    assert shape(chosen) == [("baseline", 0), ("cutout", 0)]
    assert shared_dataset(chosen, settings, Reporter()).digest == toy_dataset().digest
    loaded = asked[0]
    assert (loaded.dataset, loaded.data_dir, loaded.image_size, loaded.train_images) == ("toy", "elsewhere", 16, 96)


def test_other_data_than_that_of_the_runs_is_refused(ids: dict[str, str], asked: list[TrainSettings]) -> None:
    toys = {"name": "toy", "digest": toy_dataset().digest}
    settings = CompareSettings.of(runs=ids["cifar0"], data_dir="somewhere")
    (run,) = found(ids, "cifar0")
    with pytest.raises(
        SettingsError, match=f"data set toy .* has digest {toys['digest']}, but .* {OTHER['digest']}: restore"
    ):
        shared_dataset([Member("plain", 0, run, True)], settings, Reporter())
    assert (asked[0].dataset, asked[0].data_dir) == ("cifar10", "somewhere")


def test_data_asked_for_in_two_ways_is_one(store: Path) -> None:
    prepare_store(store)
    runs = [finished(image_size="32", train_images="45000"), finished(cutout="true")]
    assert len(members_of_runs([finished_run(run_id) for run_id in runs])) == 2


def test_a_run_names_the_command_that_trains_it_with_another_seed(ids: dict[str, str]) -> None:
    (run,) = found(ids, "small1")
    command = trained_of("runs", run).command(7)
    given = typed(TrainSettings, command.split()[3:])
    assert given == {"cutout": "true", "cutout_size": "8-20", "seed": "7"}
