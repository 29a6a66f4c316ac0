"""Records: the data to log. Making a list of records needs no server, so tests can check the list.

Only `experiments.tracking` turns records into MLflow calls.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import UInt8
from torch import nn


@dataclass(frozen=True)
class Param:
    """One setting of the run, under `key`; written only if the run does not have the key yet."""

    key: str
    value: str | int | float | bool


@dataclass(frozen=True)
class Tag:
    """One tag of the run."""

    key: str
    value: str


@dataclass(frozen=True)
class Metrics:
    """Several metrics of one step, written with one call."""

    values: Mapping[str, float]
    step: int


@dataclass(frozen=True)
class Picture:
    """A PNG at `path` inside the run's files, the same path in every run."""

    path: str
    image: UInt8[np.ndarray, "h w 3"]


@dataclass(frozen=True)
class KeyedPicture:
    """A picture for MLflow's image grid: rows are keys, columns are runs, and the slider selects `step`."""

    key: str
    image: UInt8[np.ndarray, "h w 3"]
    step: int


@dataclass(frozen=True)
class Text:
    """A text file (JSON, HTML, TOML, ...) at `path`."""

    path: str
    text: str


@dataclass(frozen=True)
class File:
    """Any other file, at `path`."""

    path: str
    content: bytes


@dataclass(frozen=True)
class Table:
    """A table at `path`; the ending decides the format: `.parquet`, `.csv`, or `.json`, which MLflow's UI shows."""

    path: str
    frame: pd.DataFrame


@dataclass(frozen=True)
class Arrays:
    """Named arrays at `path`, a compressed `.npz`."""

    path: str
    arrays: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class DatasetUse:
    """The data set that the run used, with the digest that identifies it."""

    name: str
    digest: str
    source: str
    rows: Mapping[str, int]


@dataclass(frozen=True)
class Model:
    """The trained network, with one batch of its input `(n, 3, h, w)` and output `(n, classes)`, both float32.

    `declaration` says in values of JSON which network it is; under `sources` the text of one's own files that build it,
    by path, and under `libraries` the versions of the packages that do.
    """

    module: nn.Module
    example_input: np.ndarray
    example_output: np.ndarray
    step: int
    declaration: Mapping[str, Any] = field(default_factory=dict)


Record = Param | Tag | Metrics | Picture | KeyedPicture | Text | File | Table | Arrays | DatasetUse | Model
