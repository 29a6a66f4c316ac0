"""Settings are typed and strict, and say every problem at once."""

import itertools
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.settings.base import BY_RECIPE, SettingsError
from experiments.settings.command_line import read
from experiments.settings.compare import CompareSettings, parse_runs
from experiments.settings.notation import hole_ranges
from experiments.settings.recipes import RECIPES
from experiments.settings.train import TrainSettings
from experiments.settings.trainings import SHARED, plan
from experiments.settings.variants import parse_variants

HOLE_SIZES = (
    "must be pixels such as 16 or shares of the side such as 0.5, a range such as 8-20, or height x width such as "
    "12x20 or 8-12x16-20, above 0"
)
BY_RECIPE_NAMES = {name for name, field in TrainSettings.model_fields.items() if BY_RECIPE in field.metadata}


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_decides_exactly_the_options_marked_so(recipe: str) -> None:
    assert set(RECIPES[recipe].values) == BY_RECIPE_NAMES


def test_recipes_give_values_of_the_declared_type() -> None:
    for recipe in RECIPES:
        settings = TrainSettings.of(recipe=recipe)
        for name in BY_RECIPE_NAMES:
            assert getattr(settings, name) == RECIPES[recipe].values[name]
            assert type(getattr(settings, name)) is type(RECIPES[recipe].values[name]), name


def test_a_value_by_hand_wins_over_the_recipe_and_auto_does_not() -> None:
    settings = TrainSettings.of(recipe="resnet18", epochs="3", lr="auto")
    assert settings.epochs == 3
    assert settings.lr == RECIPES["resnet18"].values["lr"]


@pytest.mark.parametrize("word", ["true", "True", "TRUE", "1", "yes"])
def test_booleans_take_a_value_in_any_case(word: str) -> None:
    assert TrainSettings.of(cutout=word).cutout is True
    assert TrainSettings.of(cutout="False").cutout is False


def test_every_problem_is_named_at_once_in_one_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    bad = ["--epochs", "abc", "--cuttout", "true", "--model", "resnet19", "--cutout_size", "20-8", "--lr", "nan"]
    with pytest.raises(SystemExit) as ended:
        read(TrainSettings, bad)
    assert ended.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    prefix = "python -m experiments.train: "
    assert set(lines[:-1]) == {
        prefix + "unknown option 'cuttout'; did you mean 'cutout'?",
        prefix + "model=resnet19: must be one of fastnet, fastnet_wide, resnet18, torchvision:NAME, timm:NAME, "
        "FILE.py:function, module:function; did you mean 'resnet18'?",
        prefix + "epochs=abc: must be a whole number, 1 or more, up to 10000",
        prefix + "lr=nan: must be a number, above 0, up to 100",
        prefix + f"cutout_size=20-8: {HOLE_SIZES}",
    }
    assert "nothing was started" in lines[-1]


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"epochs": "0"}, "epochs=0: must be a whole number, 1 or more, up to 10000"),
        ({"epochs": "2.5"}, "epochs=2.5: must be a whole number"),
        ({"cutout_p": "1.5"}, "cutout_p=1.5: must be a number, 0 or more, up to 1"),
        ({"lr": "inf"}, "lr=inf: must be a number, above 0, up to 100"),
        ({"dataset": "cifar"}, "torchvision:NAME or FILE.py:function; did you mean 'cifar10'"),
        (
            {"dataset": "folder:"},
            "must be auto, cifar10, cifar10_c, scenes, folder:PATH, csv:FILE, torchvision:NAME or FILE.py:function",
        ),
        ({"recipe": "fst"}, f"recipe=fst: must be one of {', '.join(RECIPES)}, or a FILE.toml; did you mean 'fast'?"),
        ({"image_size": "8"}, "image_size=8: must be a whole number, 16 or more, up to 1024, or auto"),
        ({"train_images": "some"}, "train_images=some: must be a whole number, 1 or more, or all"),
        ({"lr_steps": "60,30"}, "lr_steps=60,30: must be none, or rising epochs such as 60,120,160"),
        ({"lr_steps": "0,30"}, "lr_steps=0,30: must be none, or rising epochs such as 60,120,160"),
        ({"cutout": "banana"}, "cutout=banana: must be true or false"),
        ({"seed": "-1"}, "seed=-1: must be a whole number, 0 or more"),
        ({"data_dir": ""}, "data_dir: is empty; give a value, or leave data_dir out"),
        ({"optimizer": "SGD"}, "optimizer=SGD: must be one of sgd, adamw, adam, "),
        ({"optimizer": "AdamV"}, "rprop, muon; did you mean 'adam'?"),
        ({"optimizer_args": "betas"}, "optimizer_args=betas: must be none, or arguments such as betas=0.9/0.95"),
        ({"lr_head": "0"}, "lr_head=0: must be a number, above 0, up to 100, or none"),
        ({"freeze": "until:"}, "freeze=until:: must be none, backbone, or until:LAYER such as until:layer2"),
        ({"seeds": "3"}, "unknown option 'seeds'; it is an option of 'python -m experiments.compare'"),
        ({"trials": "40"}, "unknown option 'trials'; it is an option of 'python -m experiments.tune'"),
        ({"study": "cutout"}, "an option of 'python -m experiments.compare' and 'python -m experiments.tune'"),
    ],
)
def test_a_bad_value_is_refused_with_what_is_allowed(given: dict[str, str], problem: str) -> None:
    with pytest.raises(SettingsError) as refused:
        TrainSettings.of(**given)
    assert len(refused.value.problems) == 1
    assert problem in refused.value.problems[0]


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"cutout": True, "cutout_size": "8-40"}, "cutout_size=8-40: must be at most the images' side of 32 pixels"),
        ({"cutout": True, "cutout_size": "40x8"}, "cutout_size=40x8: must be at most the images' side of 32 pixels"),
        ({"cutout": True, "cutout_size": "8x33"}, "cutout_size=8x33: must be at most the images' side of 32 pixels"),
        (
            {"cutout": True, "cutout_size": "4-33x8"},
            "cutout_size=4-33x8: must be at most the images' side of 32 pixels",
        ),
        ({"cutout": True, "image_size": 16, "cutout_size": 20}, "must be at most the images' side of 16 pixels"),
        (
            {"schedule": "onecycle", "momentum_swing": 0.1, "momentum": 0.9},
            "momentum_swing=0.1: moves momentum=0.9 out",
        ),
        ({"momentum": 0}, "momentum=0: nesterov needs a momentum; add nesterov=false"),
        ({"schedule": "step"}, "schedule=step: needs lr_steps, such as lr_steps=60,120,160"),
        (
            {"schedule": "step", "lr_steps": "2,3", "epochs": 3},
            "lr_steps=2,3: all must be before the last epoch, epochs=3",
        ),
    ],
)
def test_values_that_do_not_fit_together_are_refused(given: dict[str, object], problem: str) -> None:
    with pytest.raises(SettingsError) as refused:
        TrainSettings.of(**given)
    assert len(refused.value.problems) == 1
    assert problem in refused.value.problems[0]
    assert TrainSettings.of(cutout_size=40).cutout is False  # nothing is cut out


def test_an_option_without_effect_is_refused_rather_than_ignored(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        read(TrainSettings, ["--cutout_size", "8"])
    assert "cutout_size=8: has no effect while cutout is false; add cutout=true" in capsys.readouterr().err
    assert read(TrainSettings, ["--cutout_size", "8", "--cutout", "true"]).cutout_sizes == ((8, 8), (8, 8))


def test_a_hole_larger_than_the_images_is_refused_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        read(TrainSettings, ["--cutout", "true", "--cutout_size", "40x8"])
    said, _ = capsys.readouterr().err.splitlines()
    assert said == "python -m experiments.train: cutout_size=40x8: must be at most the images' side of 32 pixels"


@pytest.mark.parametrize(
    ("argv", "problem"),
    [
        (
            ["--schedule", "step", "--lr_steps", "3", "--lr_warmup", "0.1"],
            "lr_warmup=0.1: has no effect while schedule is",
        ),
        (
            ["--optimizer", "adamw", "--momentum", "0.8"],
            "momentum=0.8: has no effect while optimizer is adamw; add opt",
        ),
        (["--optimizer", "rmsprop", "--nesterov", "false"], "nesterov=false: has no effect while optimizer is rmsprop"),
        (["--optimizer", "rprop", "--weight_decay", "0.1"], "weight_decay=0.1: has no effect while optimizer is rprop"),
        (
            ["--optimizer", "adam", "--schedule", "onecycle", "--momentum_swing", "0.01"],
            "momentum_swing=0.01: has no effect while optimizer is adam; add optimizer=sgd",
        ),
        (["--freeze", "backbone", "--lr_head", "0.1", "--lr", "0.2"], "lr=0.2: has no effect while freeze is backbone"),
        (["--lr_gamma", "0.5"], "lr_gamma=0.5: has no effect while schedule is linear"),
        (
            ["--dataset", "cifar10", "--background_bias", "0.9"],
            "background_bias=0.9: has no effect while dataset is cifar10",
        ),
    ],
)
def test_every_idle_option_is_named(argv: list[str], problem: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        read(TrainSettings, argv)
    assert problem in capsys.readouterr().err


def test_the_default_of_an_idle_option_is_no_slip() -> None:
    # `mlflow run` passes every option, given or not.
    assert read(TrainSettings, ["--dataset", "cifar10", "--background_bias", "0.5"]).dataset == "cifar10"


def test_abbreviated_options_are_not_guessed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        read(TrainSettings, ["--epoch", "3"])
    assert "unknown option 'epoch'; did you mean 'epochs'?" in capsys.readouterr().err


def test_as_params_reads_back_to_the_same_settings() -> None:
    settings = TrainSettings.of(cutout=True, cutout_size="8-20", lr=0.1, threads=2)
    assert TrainSettings.of(**settings.as_params()) == settings


def test_sizes_and_steps_are_numbers() -> None:
    settings = TrainSettings.of(cutout_size="8-20", schedule="step", lr_steps="60,120", epochs=200)
    assert settings.cutout_sizes == ((8, 20), (8, 20))
    assert settings.lr_step_epochs == (60, 120)
    assert TrainSettings.of().lr_step_epochs == ()


@pytest.mark.parametrize(
    ("text", "sizes", "square"),
    [
        ("16", ((16, 16), (16, 16)), True),
        ("8-20", ((8, 20), (8, 20)), True),
        ("12x20", ((12, 12), (20, 20)), False),
        ("8-12x16-20", ((8, 12), (16, 20)), False),
        ("12x16-20", ((12, 12), (16, 20)), False),
        ("8-12x20", ((8, 12), (20, 20)), False),
        ("1x32", ((1, 1), (32, 32)), False),
    ],
)
def test_hole_sizes_are_one_range_or_height_x_width(text: str, sizes: object, square: bool) -> None:
    settings = TrainSettings.of(cutout=True, cutout_size=text)
    assert (settings.cutout_sizes, settings.cutout_square) == (sizes, square)
    assert settings.as_params()["cutout_size"] == text  # what fingerprints are made of


@pytest.mark.parametrize(
    "text",
    [
        *("", "x", "12x", "x20", "12x20x4", "12 x 20", "12X20", "12*20", "20-8x4", "4x20-8", "0", "0x8", "8x0"),
        *("0-4x8", "8-x4", "8--12", "8-12-16", "-8", "8x-4", "8.5x4", "12x20px", "²x4"),
        *("1.5", "0.0", "0.25-16", "8-0.5", "0.5-0.25", "1.", "0.5px", "1e-1"),
    ],
)
def test_other_hole_sizes_are_refused_with_what_is_allowed(text: str) -> None:
    with pytest.raises(SettingsError) as refused:
        TrainSettings.of(cutout_size=text)
    assert refused.value.problems == (f"cutout_size={text}: {HOLE_SIZES}",)


@pytest.mark.parametrize(
    ("side", "size", "pixels"),
    [
        *((32, "0.5", "16"), (224, "0.5", "112"), (32, "1.0", "32"), (32, "1", "1"), (32, "0.125-0.5", "4-16")),
        *((64, "0.25x.5", "16x32"), (32, "0.001", "1"), (64, "16", "16"), (48, "12x0.25-0.5", "12x12-24")),
    ],
)
def test_a_size_with_a_decimal_point_is_a_share_of_the_side(side: int, size: str, pixels: str) -> None:
    shared = TrainSettings.of(cutout=True, cutout_size=size, image_size=side)
    assert shared.in_pixels["cutout_size"] == pixels
    counted = TrainSettings.of(cutout=True, cutout_size=pixels, image_size=side)
    assert shared.cutout_sizes == counted.cutout_sizes
    assert shared.as_params()["cutout_size"] == size


def test_a_padding_may_be_a_share_of_the_side() -> None:
    shown = [TrainSettings.of(crop_padding=text, image_size=64).padding for text in ("0", "4", "0.125", "1", "1.0")]
    assert shown == [0, 4, 8, 1, 64]
    for text in ("-1", "4-8", "1.5", "four", ""):
        with pytest.raises(
            SettingsError, match=r"must be pixels such as 4, or a share of the side such as 0\.125, or 0"
        ):
            TrainSettings.of(crop_padding=text)
    with pytest.raises(SettingsError, match="crop_padding=33: must be at most the images' side of 32 pixels"):
        TrainSettings.of(crop_padding=33)


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_have_the_pixels_of_their_sources_at_the_side_of_their_sources(recipe: str) -> None:
    pixels = TrainSettings.of(recipe=recipe).in_pixels
    larger = TrainSettings.of(recipe=recipe, image_size=64).in_pixels
    small = {"resnet18_onecycle": ("4-16", 0), "fast": ("16", 2), "fast_94": ("16", 2)}
    hole, padding = (small | {"finetune": ("16", 0), "scratch_224": ("112", 0)}).get(recipe, ("16", 4))
    assert pixels == {"cutout_size": hole, "crop_padding": str(padding)}
    assert larger["crop_padding"] == str(2 * padding)


def test_a_former_spelling_works_with_a_note(capsys: pytest.CaptureFixture[str]) -> None:
    assert read(TrainSettings, ["--augment", "albumentations"]).augment_path == "albumentations"
    assert "--augment is now called --augment_by; the old name still works" in capsys.readouterr().err
    assert TrainSettings.of(augment="albumentations").given == {"augment_by": "albumentations"}
    with pytest.raises(SettingsError, match="augment: is the former spelling of augment_by, which is given too"):
        TrainSettings.of(augment="batch", augment_by="batch")


RANGES = st.tuples(st.integers(1, 256), st.integers(1, 256)).map(lambda ends: (min(ends), max(ends)))


@given(st.lists(RANGES, min_size=1, max_size=2))
def test_any_hole_size_reads_back(ranges: list[tuple[int, int]]) -> None:
    texts = [{f"{low}-{high}", *([str(low)] if low == high else [])} for low, high in ranges]
    for text in map("x".join, itertools.product(*texts)):
        assert hole_ranges(text) == ranges
        settings = TrainSettings.of(cutout=True, cutout_size=text, image_size=256)
        assert settings.cutout_sizes == (ranges[0], ranges[-1])
        assert TrainSettings.of(**settings.as_params()) == settings


@pytest.mark.parametrize("module", ["experiments.train", "experiments.compare"])
def test_help_needs_none_of_the_packages_that_take_seconds_to_import(module: str) -> None:
    code = f"""
import sys
from {module} import main
try:
    main(["--help"])
except SystemExit as ended:
    assert ended.code == 0
heavy = {{"torch", "mlflow", "albumentations", "cv2", "matplotlib", "pandas"}} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_help_shows_units_ranges_and_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        read(TrainSettings, ["--help"])
    text = " ".join(capsys.readouterr().out.split())
    for name in TrainSettings.model_fields:
        assert f"--{name} " in text
    assert "passes over the training images; a whole number, 1 or more, up to 10000 (default: fast: 8; " in text
    assert "side of a hole in pixels" in text
    assert "decides everything random in the training; a whole number, 0 or more, below 2147483648 (default: 0)" in text


# Comparisons


def test_variants_are_named_or_spelled_out() -> None:
    variants = parse_variants("baseline; cutout; mixed: cutout=true cutout_size=8-12x20 lr=0.05")
    assert [variant.name for variant in variants] == ["baseline", "cutout", "mixed"]
    assert variants[2].options == {"cutout": "true", "cutout_size": "8-12x20", "lr": "0.05"}
    assert [variant.name for variant in parse_variants("cutout, baseline")] == ["cutout", "baseline"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("baseline", "a comparison needs two to ten variants, not 1 (baseline)"),
        (" ; ", "a comparison needs two to ten variants, not 0 (none)"),
        ("a: lr=1, b: lr=2", "; separate variants that have options with ';'"),
        ("a: lr=1,b: cutout=true", "; separate variants that have options with ';'"),
        ("baseline, b: lr=2", "; separate variants that have options with ';'"),
        ("baseline; b: lr=1 lr=2", "b: lr is given twice; give it once"),
        (f"baseline; {'b' * 101}: lr=1", "is not a name; use up to 100 letters"),
        ("baseline,cutot", "unknown variant 'cutot'; known variants: baseline, cutout; did you mean 'cutout'?"),
        ("baseline,baseline", "'baseline' is named twice"),
        ("baseline; Baseline: cutout=true", "'baseline' and 'Baseline' differ only in case"),
        ("baseline; big: cutout", "big: 'cutout' is not option=value"),
        ("baseline; a/b: cutout=true", "'a/b' is not a name"),
        ("baseline; cutout+mix: cutout=true", "'cutout+mix' is not a name"),
        ("baseline; ..: cutout=true", "'..' is not a name"),
        (";".join(f"v{i}: seed={i}" for i in range(11)), "a comparison needs two to ten variants, not 11 (v0, v1"),
    ],
)
def test_bad_variants_are_refused(text: str, problem: str) -> None:
    with pytest.raises(SettingsError) as refused:
        parse_variants(text)
    assert problem in str(refused.value)


def test_a_plan_has_every_variant_with_every_seed_and_shared_options() -> None:
    given = {"epochs": "3", "seeds": "2", "seed": "5", "cutout_size": "8"}
    trainings = plan(CompareSettings.of(**given))
    assert [training.name for training in trainings] == [
        "baseline, seed 5",
        "baseline, seed 6",
        "cutout, seed 5",
        "cutout, seed 6",
    ]
    assert {training.settings.epochs for training in trainings} == {3}
    baseline, cutout = trainings[0].settings, trainings[2].settings
    assert (baseline.cutout, cutout.cutout) == (False, True)
    differing = {name for name in TrainSettings.model_fields if getattr(baseline, name) != getattr(cutout, name)}
    assert differing == {"cutout"}


def test_a_plan_names_the_variant_whose_option_is_wrong() -> None:
    given = {"variants": "baseline; odd: lr=-1; other: dataset=scenes cutout_hole=2"}
    with pytest.raises(SettingsError) as refused:
        plan(CompareSettings.of(**given))
    assert set(refused.value.problems) == {
        "variants: odd: lr=-1: must be a number, above 0, up to 100",
        "variants: other: dataset must be the same in all variants",
        "variants: other: unknown option 'cutout_hole'; did you mean 'cutout_holes'?",
    }


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        # Without the first, a training without Cutout would be called cutout.
        (
            {"variants": "baseline; cutout: cutout_size=8 lr=0.2"},
            "variants: cutout: cutout_size=8: has no effect while",
        ),
        ({"cutout": "true"}, "cutout=true: has no effect, because every variant sets cutout; leave it out"),
        (
            {"cutout_size": "8", "variants": "a: lr=0.1; b: lr=0.2"},
            "cutout_size=8: has no effect while cutout is false",
        ),
        ({"lr_gamma": "0.5"}, "lr_gamma=0.5: has no effect while schedule is linear"),
    ],
)
def test_a_plan_refuses_an_option_without_effect(given: dict[str, str], problem: str) -> None:
    with pytest.raises(SettingsError) as refused:
        plan(CompareSettings.of(**given))
    (said,) = refused.value.problems
    assert said.startswith(problem)


def test_an_option_with_effect_in_one_variant_is_welcome() -> None:
    assert plan(CompareSettings.of(cutout_size="8", epochs="3", variants="baseline; cutout; long: epochs=5"))


def test_shared_options_exist() -> None:
    assert set(SHARED) <= set(TrainSettings.model_fields)


# Finished runs

RUN_IDS = st.lists(st.from_regex(r"[0-9a-f]{6,32}", fullmatch=True), min_size=1, max_size=4)
BETWEEN = st.sampled_from([" ", ",", ", ", "  "])


@given(RUN_IDS, BETWEEN)
def test_run_ids_are_separated_by_spaces_or_commas(ids: list[str], between: str) -> None:
    assert parse_runs(f" {between.join(ids)} ") == {None: tuple(ids)}


NAMES = st.from_regex(r"[A-Za-z][A-Za-z0-9_.-]{0,8}", fullmatch=True)


@given(st.lists(st.tuples(NAMES, RUN_IDS), min_size=1, unique_by=lambda pair: pair[0].lower()), BETWEEN)
def test_runs_may_have_names_in_their_order(named: list[tuple[str, list[str]]], between: str) -> None:
    text = between.join(f"{name}={'+'.join(ids)}" for name, ids in named)
    assert list(parse_runs(text).items()) == [(name, tuple(ids)) for name, ids in named]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "must be none, or run ids"),
        (" , ", "must be none, or run ids"),
        ("1a2b3", "'1a2b3' is not a run id: 6 to 32 of 0-9 and a-f"),
        ("1a2b3c " + "a" * 33, f"'{'a' * 33}' is not a run id"),
        ("1a2b3c+9f8e7d", "'1a2b3c+9f8e7d' is not a run id"),
        ("plain=1a2b3c+ cutout=77aa01", "'' is not a run id"),
        ("plain=baseline", "'baseline' is not a run id"),
        ("a/b=1a2b3c", "'a/b' is not a name; use up to 100 letters, digits, _ . -"),
        ("=1a2b3c", "'' is not a name"),
        ("a=1a2b3c a=77aa01", "'a' is named twice; join the run ids of a variant with +"),
        ("a=1a2b3c 77aa01", "'77aa01' has no name; name all runs (name=id+id) or none of them"),
    ],
)
def test_bad_runs_are_refused_in_one_line(text: str, problem: str) -> None:
    with pytest.raises(SettingsError) as refused:
        CompareSettings.of(runs=text)
    assert len(refused.value.problems) == 1
    assert refused.value.problems[0].startswith(f"runs={text}: ")
    assert problem in refused.value.problems[0]
    assert "\n" not in refused.value.problems[0]


def test_without_runs_and_filter_variants_are_trained() -> None:
    assert CompareSettings.of().finished_by == ""
    assert parse_runs("none") == {}
    assert CompareSettings.of(runs="1a2b3c 77aa01").finished_by == "runs"
    assert CompareSettings.of(filter="tags.a = 'b'").finished_by == "filter"


def test_runs_are_chosen_in_one_way() -> None:
    with pytest.raises(
        SettingsError, match=r"^filter=tags.a = 'b': runs=1a2b3c already chooses the runs; leave out one"
    ):
        CompareSettings.of(runs="1a2b3c", filter="tags.a = 'b'")


@pytest.mark.parametrize("chooser", [["--runs", "1a2b3c 77aa01"], ["--filter", "tags.a = 'b'"]])
def test_finished_runs_leave_nothing_to_the_options_of_a_training(
    chooser: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        read(CompareSettings, [*chooser, "--variants", "baseline; cutout", "--seeds", "3", "--epochs", "2"])
    said, option = capsys.readouterr().err, chooser[0].removeprefix("--")
    for line in ("variants=baseline; cutout", "seeds=3", "epochs=2"):
        name = line.split("=")[0]
        assert f"{line}: has no effect on finished runs; leave out {name} or {option}\n" in said
    # As `mlflow run` spells the defaults; and what does matter.
    rest = ["--seeds", "1", "--compile", "False", "--lr", "auto", "--quiet", "True", "--data_dir", "elsewhere"]
    settings = read(CompareSettings, [*chooser, *rest])
    assert (settings.quiet, settings.data_dir) == (True, "elsewhere")


def test_variants_by_recipe_must_share_the_data() -> None:
    text = "a: recipe=fast; b: recipe=resnet18_steplr"
    with pytest.raises(SettingsError, match="holdout must be the same in all variants, not true in a, false in b"):
        plan(CompareSettings.of(variants=text))
    assert len(plan(CompareSettings.of(variants=text, holdout=False))) == 2


@pytest.mark.parametrize("name", ["checkpoint", "resume"])
def test_a_comparison_takes_no_checkpoint_file(name: str) -> None:
    with pytest.raises(SettingsError, match=f"{name}=one.pt: a comparison trains several networks; use auto or none"):
        CompareSettings.of(**{name: "one.pt"})
    assert CompareSettings.of(**{name: "none"})
