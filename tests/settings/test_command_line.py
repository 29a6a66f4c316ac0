"""Every word of a command line is an option or is refused, before anything is started."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.settings.base import Settings
from experiments.settings.command_line import groups, options_in, read, words_of
from experiments.settings.compare import CompareSettings
from experiments.settings.train import TrainSettings
from experiments.study.settings import TuneSettings
from tests.conftest import PYTHONPATH

KINDS = (TrainSettings, CompareSettings, TuneSettings)
NAMES = list(TrainSettings.model_fields)


@pytest.mark.parametrize("settings", KINDS)
@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["cutout=true"], "'cutout=true': this word belongs to no option; did you mean --cutout true?"),
        (["cuttout=true"], "'cuttout=true': this word belongs to no option; did you mean --cutout true?"),
        (["--epochs", "3", "4"], "'4': this word belongs to no option; write options as --name value"),
        (["—epochs", "3"], "'—epochs 3': this word belongs to no option; did you mean --epochs 3?"),
        (["–epochs=3"], "'–epochs=3': this word belongs to no option; did you mean --epochs 3?"),
        (["-epochs", "3"], "'-epochs 3': this word belongs to no option; did you mean --epochs 3?"),
        (["-P", "epochs=3"], "'-P epochs=3': this word belongs to no option; did you mean --epochs 3?"),
        (["epochs", "3"], "'epochs': this word belongs to no option; write options as --name value"),
        (["--"], "'--': this word belongs to no option"),
        ([""], "'': this word belongs to no option"),
        (["--epochs"], "--epochs: has no value; give one, as in --epochs VALUE"),
        (["--cutout", "--epochs", "3"], "--cutout: has no value; give one, as in --cutout VALUE"),
        (["--epochs", "3", "--lr=0.1", "--epochs=5"], "--epochs: is given twice; give it once"),
        (["--no-cutout"], "'--no-cutout': this word belongs to no option; did you mean --cutout?"),
        (["--epochs:3"], "'--epochs:3': this word belongs to no option; did you mean --epochs?"),
        (["--epoch", "3"], "unknown option 'epoch'; did you mean 'epochs'?"),
    ],
)
def test_a_word_that_no_option_takes_ends_the_program_with_the_likely_spelling(
    settings: type[Settings], words: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        read(settings, words)
    assert end.value.code == 2
    assert f"{settings.command}: {line}" in capsys.readouterr().err


def test_all_problems_are_listed_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        read(TrainSettings, ["cutout=true", "--epochs", "0", "--modell", "fastnet"])
    said = capsys.readouterr().err.splitlines()
    assert ["cutout=true" in said[0], "'modell'" in said[1], "epochs=0" in said[2]] == [True] * 3


@pytest.mark.parametrize("value", ["-1", "--x", "a b", "$HOME;*", "", "=", "a=b", "-h5", "—"])
def test_any_value_arrives_as_it_is(value: str) -> None:
    assert options_in(["--filter", value], ["filter", "epochs"]) == ({"filter": value}, [])
    assert options_in([f"--filter={value}"], ["filter", "epochs"]) == ({"filter": value}, [])


@given(st.dictionaries(st.sampled_from(NAMES), st.text().filter(lambda text: not text.startswith("--")), max_size=5))
def test_options_come_back_from_their_words(options: dict[str, str]) -> None:
    assert options_in(words_of(options), NAMES) == (options, [])


@given(st.lists(st.text(), max_size=6))
def test_no_word_is_lost(words: list[str]) -> None:
    options, problems = options_in(words, NAMES)
    assert bool(options) or bool(problems) or not words
    if len(words) == 1 and "=" not in words[0]:
        assert problems


@pytest.mark.parametrize("settings", KINDS)
def test_help_lists_every_option_once(settings: type[Settings], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        read(settings, ["--help"])
    said = capsys.readouterr().out
    assert sorted(name for names in groups(settings).values() for name in names) == sorted(settings.model_fields)
    assert all(said.count(f"  --{name} ") == 1 for name in settings.model_fields)


@pytest.mark.slow
@pytest.mark.parametrize("module", ["train", "compare", "tune", "tune worker", "tune ray", "tracking prepare"])
def test_every_entry_point_refuses_a_stray_word_before_anything_exists(module: str, tmp_path: Path) -> None:
    program, *rest = module.split()
    project, home = tmp_path / "project", tmp_path / "home"
    project.mkdir()
    done = subprocess.run(
        [sys.executable, "-m", f"experiments.{program}", *rest, "cutout=true"],
        cwd=project,
        env={"PYTHONPATH": PYTHONPATH, "PATH": "", "HOME": str(home)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, done.stderr
    assert "cutout=true" in done.stderr
    assert list(project.iterdir()) == []
