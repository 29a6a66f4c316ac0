"""The images that are explained are the same for everyone and meet every class."""

import re

import numpy as np

from experiments.data.dataset import Dataset, Split
from experiments.explaining.probes import PROBES, in_turn, picture_key, probes, spread
from tests.toys.networks import toy_dataset


def test_probes_take_turns_through_the_classes() -> None:
    chosen = probes(toy_dataset())
    assert chosen.labels.tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 2, 0]
    assert chosen.indices.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert len(set(chosen.keys)) == PROBES
    assert chosen.keys[0] == "gradcam/test_00000_red"


def test_probes_meet_every_class_of_a_sorted_split() -> None:
    labels = np.repeat(np.arange(5), 20)
    split = Split(np.zeros((100, 16, 16, 3), np.uint8), labels, None)
    dataset = Dataset("sorted", tuple("abcde"), {"train": split, "val": split, "test": split}, "0" * 16, "a test")
    assert probes(dataset).indices.tolist() == [0, 20, 40, 60, 80, 1, 21, 41, 61, 81]


def test_in_turn_takes_the_first_of_each_class_among_the_chosen() -> None:
    labels = np.array([0, 0, 0, 1, 1, 2])
    among = np.array([False, True, True, True, True, True])
    assert in_turn(labels, among, 4).tolist() == [1, 3, 5, 2]
    assert in_turn(labels, among, 99).tolist() == [1, 3, 5, 2, 4]
    assert in_turn(labels, np.zeros(6, bool), 3).tolist() == []


def test_keys_have_only_letters_that_mlflow_allows() -> None:
    key = picture_key(7, "Bärlapp: 3/4 = %")
    assert re.fullmatch(r"[a-zA-Z0-9_\-./ ]+", key)
    assert key.startswith("gradcam/test_00007_B")


def test_a_spread_sample_is_even_and_never_repeats() -> None:
    assert spread(5, 10).tolist() == [0, 1, 2, 3, 4]
    assert spread(9, 3).tolist() == [0, 4, 8]
    assert len(spread(2000, 500)) == 500
