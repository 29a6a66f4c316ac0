"""Recipes decide every option, say where they come from, and can be read from a file of one's own."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.settings.base import SettingsError
from experiments.settings.notation import channel_numbers
from experiments.settings.recipes import PLAIN, RECIPES, RecipeError, as_toml, find, read
from experiments.settings.train import TrainSettings

ALL = dict(RECIPES["resnet18_steplr"].values.items())


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_complete_valid_and_says_where_it_comes_from(name: str) -> None:
    recipe = RECIPES[name]
    assert set(recipe.values) == set(PLAIN)
    assert TrainSettings.of(recipe=name).recipe_values == recipe.values
    assert recipe.summary
    assert recipe.source
    assert recipe.reported
    assert recipe.measured


@pytest.mark.parametrize("name", RECIPES)
def test_a_saved_recipe_gives_the_same_settings(name: str, tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text(as_toml("as measured", RECIPES[name].values))
    assert read(path).values == RECIPES[name].values
    assert TrainSettings.of(recipe=str(path)).recipe_values == RECIPES[name].values


def test_a_recipe_saved_by_an_older_version_leaves_newer_options_off(tmp_path: Path) -> None:
    path = write(tmp_path, as_toml("older", {**RECIPES["fast"].values, "ema": 0.9}))
    path.write_text("\n".join(line for line in path.read_text().splitlines() if not line.startswith("grad_clip")))
    assert read(path).values == {**RECIPES["fast"].values, "ema": 0.9, "grad_clip": 0.0}


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_summary_survives(summary: str) -> None:
    import tomllib

    assert tomllib.loads(as_toml(summary, PLAIN))["summary"] == summary


def test_published_settings_are_those_of_the_sources() -> None:
    def has(name: str, **values: object) -> None:
        assert {key: RECIPES[name].values[key] for key in values} == values

    published = {"holdout": False, "track_test": True, "model": "resnet18"}
    has("resnet18_steplr", epochs=20, batch_size=64, lr=0.01, schedule="step", dropout=0.0, l1=0.0, l2_norm=0.0)
    has(
        "resnet18_steplr",
        weight_decay=0.0,
        label_smoothing=0.0,
        hflip=0.5,
        cutout=True,
        crop_padding="0.125",
        **published,
    )
    has("resnet18_onecycle", epochs=35, batch_size=64, lr=0.01, momentum=0.9, schedule="onecycle", dropout=0.15)
    has("resnet18_onecycle", lr_warmup=0.3, momentum_swing=0.05, border="reflect")
    has("resnet18_onecycle", l1=1e-6, l2_norm=1e-3, weight_decay=0.0, hflip=0.5, hsv_p=0.25, affine_p=0.5, rotate=15.0)
    has(
        "resnet18_onecycle",
        shift=0.0,
        scale=0.0,
        cutout_size="0.125-0.5",
        cutout_p=0.75,
        cutout_fill="mean",
        **published,
    )
    for name, cutout in (("resnet18_cutout", True), ("resnet18_no_cutout", False)):
        has(name, epochs=200, batch_size=128, lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4, cutout=cutout)
        has(name, lr_steps="60,120,160", lr_gamma=0.2, crop_padding="0.125", hflip=0.5, cutout_size="0.5", **published)


def test_scratch_224_is_torchvisions_reference() -> None:
    from torchvision.models import ResNet50_Weights

    values, weights = RECIPES["scratch_224"].values, ResNet50_Weights.IMAGENET1K_V1
    assert "references/classification#resnet" in weights.meta["recipe"]
    assert f"{weights.meta['_metrics']['ImageNet-1K']['acc@1']} % on ImageNet" == RECIPES["scratch_224"].reported
    assert channel_numbers(str(values["normalise"])) == (
        tuple(weights.transforms().mean),
        tuple(weights.transforms().std),
    )
    assert weights.transforms().crop_size == [values["image_size"]]
    assert (
        TrainSettings.of(recipe="scratch_224").side,
        TrainSettings.of(recipe="scratch_224", image_size=96).side,
    ) == (224, 96)


def write(folder: Path, text: str) -> Path:
    path = folder / "own.toml"
    path.write_text(text)
    return path


def test_a_file_may_start_from_a_recipe(tmp_path: Path) -> None:
    path = write(tmp_path, 'base = "fast"\nsummary = "mine"\n[settings]\nlr = 0.05\ncutout = true\n')
    recipe = find(str(path))
    assert recipe.values == {**RECIPES["fast"].values, "lr": 0.05, "cutout": True}
    assert recipe.summary == "mine"
    settings = TrainSettings.of(recipe=str(path), epochs=3)
    assert (settings.lr, settings.cutout, settings.epochs) == (0.05, True, 3)


def test_a_file_may_give_holes_a_height_and_a_width(tmp_path: Path) -> None:
    path = write(tmp_path, 'base = "fast"\n[settings]\ncutout = true\ncutout_size = "8-12x16-20"\n')
    settings = TrainSettings.of(recipe=str(path))
    assert settings.cutout_sizes == ((8, 12), (16, 20))
    left = write(tmp_path, as_toml("as left by a run", settings.recipe_values))
    assert TrainSettings.of(recipe=str(left)).recipe_values == settings.recipe_values


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("epochs: 3", "cannot be read as a recipe"),
        ('base = "fst"', r"base 'fst' must be one of fast, .*; did you mean 'fast'\?"),
        ('base = "fast"\n[settings]\nepoch = 3', "'epoch' is not an option of a recipe; did you mean 'epochs'"),
        ('base = "fast"\n[settings]\ndataset = "scenes"', "'dataset' is not an option of a recipe"),
        (
            'base = "fast"\nepochs = 3',
            r"epochs: not part of a recipe file.*; write options below the line \[settings\]",
        ),
        ('base = "fast"\nbse = 3', r"bse: not part of a recipe file.* \[settings\]$"),
        ("[settings]\nepochs = 3", "does not decide model, "),
        ('base = "fast"\n[settings]\nepochs = true', "epochs = true must be a number or a text, not true or false"),
        ('base = "fast"\n[settings]\ncutout = 1', "cutout = 1 must be true or false"),
        ('settings = "none"\nbase = "fast"', r"settings must be a table: write the options below a line \[settings\]"),
        ('base = "fast"\n[[settings]]\nepochs = 3', "settings must be a table"),
        (f'base = "fast"\n[settings]\nepochs = {"9" * 5000}', "cannot be read as a recipe"),
        (f'base = "fast"\n[settings]\nepochs = {"[" * 5000}', "cannot be read as a recipe"),
    ],
)
def test_what_is_no_recipe_is_told_in_one_line(text: str, said: str, tmp_path: Path) -> None:
    path = write(tmp_path, text)
    with pytest.raises(RecipeError, match=said):
        read(path)
    with pytest.raises(SettingsError) as error:
        TrainSettings.of(recipe=str(path))
    assert len(error.value.problems) == 1
    assert str(error.value).startswith(f"recipe={path}: ")


def test_a_value_out_of_range_in_a_file_is_told_like_one_given_by_hand(tmp_path: Path) -> None:
    path = write(tmp_path, 'base = "fast"\n[settings]\nlr = -1\n')
    with pytest.raises(SettingsError, match="lr=-1: must be a number, above 0"):
        TrainSettings.of(recipe=str(path))


def test_a_file_may_begin_with_the_mark_of_its_encoding(tmp_path: Path) -> None:
    path = write(tmp_path, '\ufeffbase = "fast"\n[settings]\nlr = 0.05\n')
    assert TrainSettings.of(recipe=str(path)).lr == 0.05


def test_a_missing_file_and_an_unknown_name_are_told(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"No such file"):
        find(str(tmp_path / "none.toml"))
    with pytest.raises(RecipeError, match="cannot be read"):
        find("~nobody-of-this-name/own.toml")
    with pytest.raises(RecipeError, match="cannot be read"):
        find("a\0b.toml")
    with pytest.raises(RecipeError, match="did you mean 'resnet18_cutout'"):
        find("resnet18_cutuot")


@pytest.mark.parametrize(
    ("recipe", "epochs", "steps"),
    [
        ("resnet18_steplr", 20, "15"),
        ("resnet18_steplr", 40, "30"),
        ("resnet18_steplr", 4, "3"),
        ("resnet18_cutout", 10, "3,6,8"),
        ("resnet18_cutout", 200, "60,120,160"),
        ("resnet18_cutout", 2, "1"),
    ],
)
def test_the_steps_of_a_recipe_keep_their_shares_of_another_length(recipe: str, epochs: int, steps: str) -> None:
    assert TrainSettings.of(recipe=recipe, epochs=epochs).lr_steps == steps


@pytest.mark.parametrize(
    ("base", "epochs", "steps"), [("resnet18_steplr", 40, "30"), ("resnet18_cutout", 30, "9,18,24")]
)
def test_a_file_that_changes_the_length_moves_the_steps(base: str, epochs: int, steps: str, tmp_path: Path) -> None:
    path = write(tmp_path, f'base = "{base}"\n[settings]\nepochs = {epochs}\n')
    assert TrainSettings.of(recipe=str(path)).lr_steps == steps
    assert TrainSettings.of(recipe=base, epochs=epochs).lr_steps == steps


@pytest.mark.parametrize("bad", ["lr_steps = [1, 2]", 'lr_steps = "a,b"', 'epochs = "x"', "epochs = 0"])
def test_wrong_values_in_a_file_are_told_whatever_the_length(bad: str, tmp_path: Path) -> None:
    path = write(tmp_path, f'base = "resnet18_steplr"\n[settings]\n{bad}\n')
    name = bad.partition(" ")[0]
    with pytest.raises(SettingsError, match=f"{name}="):
        TrainSettings.of(recipe=str(path))
    with pytest.raises(SettingsError, match=r"epochs=²|lr_steps="):
        TrainSettings.of(recipe=str(path), epochs="²")


def test_one_epoch_has_no_step() -> None:
    settings = TrainSettings.of(recipe="resnet18_steplr", epochs=1)
    assert (settings.schedule, settings.lr_steps) == ("constant", "none")


def test_steps_given_by_hand_are_not_moved() -> None:
    assert TrainSettings.of(recipe="resnet18_steplr", epochs=4, lr_steps="2").lr_steps == "2"
    with pytest.raises(SettingsError, match="lr_steps=15: all must be before the last epoch"):
        TrainSettings.of(recipe="resnet18_steplr", epochs=4, lr_steps="15")
