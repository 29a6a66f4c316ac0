"""Whatever is typed, and whatever the environment is: no traceback, exit code 0, 1, 2 or 130, a line for each problem.

Trainings do not start here: a command line that is accepted ends where its run would be opened.
"""

from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.toys.command_lines import (
    LOCALES,
    Line,
    check,
    command_lines,
    every_value_of_every_option,
    run_program,
    try_line,
    try_program,
    where_no_training_starts,
)


@pytest.fixture(scope="module")
def quick() -> Iterator[None]:
    """Few scenes, no network, and the end where a run would be opened."""
    with where_no_training_starts():
        yield


def property_of(examples: int | None) -> Callable[..., None]:
    def tried(quick: None, line: Line) -> None:
        try_line(*line)

    chosen = settings(suppress_health_check=list(HealthCheck), **({"max_examples": examples} if examples else {}))
    return chosen(given(line=command_lines())(tried))


test_any_command_line_ends_well = property_of(None)
test_ten_thousand_command_lines_end_well = pytest.mark.wild(property_of(10_000))


@pytest.mark.wild
def test_every_odd_value_of_every_option_ends_well(quick: None) -> None:
    for name, words in every_value_of_every_option():
        try_line(name, words, {})


ONCE_A_TRACEBACK = (
    *(("train", option, "~nobody/x") for option in ("data_dir", "checkpoint", "resume")),
    *(("train", option, "x" * 300) for option in ("data_dir", "checkpoint", "resume", "dataset")),
    *(("train", option, "a\0b") for option in ("data_dir", "recipe", "cam_layers")),
    *(("train", option, "nan") for option in ("lr", "background_bias", "dropout")),
    *(("train", "recipe", f"{what}.toml") for what in ("deep", "pipe", "loop", "folder", "binary", "odd", "new")),
    *(("train", "epochs", value) for value in ("9" * 30, "9" * 5000)),
    *(("train", "checkpoint", place) for place in ("pipe", "loop", "/dev/full", "file/inside", "file")),
    ("train", "cutout_size", "9" * 5000),
    ("train", "recipe", "a\nb.toml"),
    ("compare", "variants", "a\nb"),
    ("tune", "hours", "nan"),
)


def test_values_that_once_ended_with_a_traceback(quick: None) -> None:
    for name, option, value in ONCE_A_TRACEBACK:
        try_line(name, [f"--{option}={value}", *(["--dataset=scenes"] if option != "dataset" else [])], {})


@pytest.mark.wild
@settings(suppress_health_check=list(HealthCheck), max_examples=200)
@given(line=command_lines(), locale=st.sampled_from(LOCALES))
def test_two_hundred_programs_end_well(line: Line, locale: dict[str, str]) -> None:
    try_program(*line, locale)


def test_a_program_in_an_ascii_locale_ends_well() -> None:
    words = ["--study=ä", "--lr=±", "--cutout_size=−1"]
    code, said = run_program("tune", words, LOCALES[0] | {"COLUMNS": "1", "TERM": "dumb"})
    check("tune", words, code, said)
    assert code == 2
    assert run_program("tune", ["--help"], LOCALES[0] | {"COLUMNS": "1"})[0] == 0
