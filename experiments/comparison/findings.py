"""The numbers of a comparison: tables that are computed from what its finished runs logged."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float64, Int64

from ..data.dataset import Dataset
from ..evidence.differences import FEWEST, Difference, paired_difference
from ..evidence.network_tests import (
    Calibration,
    SeedNoise,
    by_class,
    calibration,
    mcnemar,
    seed_noise,
    two_way_bootstrap,
)
from ..explaining import measuring
from ..explaining.probes import SPLIT, Probes, probes
from ..runs import contents
from ..tracking.reading import FinishedRun
from . import images
from .measures import HEADLINE_FOCUS, LAST, MEASURES, TEST_ACCURACY, Measure, last_layer

FEW_IMAGES = 500
"""Test images below which the interval of the accuracy also covers which images were drawn."""


@dataclass(frozen=True)
class Member:
    """A finished run with its variant and seed; `reused` if it was not trained for this comparison."""

    variant: str
    seed: int
    run: FinishedRun
    reused: bool


@dataclass(frozen=True)
class Pair:
    """Two variants, and their seeds paired in order."""

    variant: str
    against: str
    seeds: tuple[tuple[int, int], ...]


@dataclass(frozen=True, eq=False)
class Compared:
    """The finished runs of a comparison. The first variant is the baseline of all differences; seeds are paired."""

    members: tuple[Member, ...]
    dataset: Dataset

    @property
    def variants(self) -> tuple[str, ...]:
        """The names of the variants, the baseline of the differences first."""
        return tuple(dict.fromkeys(member.variant for member in self.members))

    @cached_property
    def probes(self) -> Probes:
        """The images that every run explains."""
        return probes(self.dataset)

    def of(self, variant: str) -> list[Member]:
        """The variant's runs, by seed."""
        return sorted((member for member in self.members if member.variant == variant), key=lambda member: member.seed)

    @property
    def first_seed(self) -> dict[str, FinishedRun]:
        """The run with the lowest seed of each variant; pictures show these, so that no result selects them."""
        return {name: self.of(name)[0].run for name in self.variants}

    @property
    def last_layers(self) -> tuple[str, ...]:
        """The deepest layer of each variant."""
        return tuple(last_layer(run) for run in self.first_seed.values())

    @property
    def probe_labels(self) -> list[str]:
        """The true class of each probe image."""
        return [self.dataset.classes[label] for label in self.probes.labels]

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """Each of the other variants with the first one."""
        first, *others = self.variants
        return tuple(
            Pair(name, first, tuple((a.seed, b.seed) for a, b in zip(self.of(name), self.of(first), strict=True)))
            for name in others
        )


class Findings(Compared):
    """The tables that follow from the finished runs, each computed when it is first used."""

    @cached_property
    def runs(self) -> pd.DataFrame:
        """A row per run: `variant`, `seed`, `run`, `reused`, and a column per measure that any run has."""
        rows = [
            {"variant": member.variant, "seed": member.seed, "run": member.run.id, "reused": member.reused}
            | {measure.metric: measure.of(member.run) for measure in MEASURES}
            for member in self.members
        ]
        return pd.DataFrame(rows).dropna(axis="columns", how="all")

    @property
    def measures(self) -> list[Measure]:
        """The measures that these runs have."""
        return [measure for measure in MEASURES if measure.metric in self.runs]

    @cached_property
    def summary(self) -> pd.DataFrame:
        """Per variant the mean, standard deviation and count over seeds of each measure."""
        values = self.runs.drop(columns=["seed", "run", "reused"]).groupby("variant", sort=False)
        return values.agg(["mean", "std", "count"])

    @cached_property
    def _judged(self) -> dict[str, list[tuple[Bool[np.ndarray, "images"], Calibration, bool]]]:
        """For each run the test images that it classifies correctly, its calibration, and whether it is near chance."""
        judged = {}
        for name in self.variants:
            found = (contents.predictions(member.run, self.dataset.classes) for member in self.of(name))
            judged[name] = [(one.right, calibration(one), bool(one.near_chance)) for one in found]
        return judged

    @property
    def right(self) -> dict[str, Bool[np.ndarray, "seeds images"]]:
        """For each variant the test images that its networks classify correctly."""
        return {name: np.stack([right for right, *_ in judged]) for name, judged in self._judged.items()}

    @property
    def calibrations(self) -> dict[str, list[Calibration]]:
        """For each variant the calibration of its networks on the test images."""
        return {name: [found for _, found, _ in judged] for name, judged in self._judged.items()}

    @property
    def near_chance(self) -> dict[str, list[int]]:
        """For each variant the seeds whose networks are not surely better than naming the largest class."""
        return {
            name: [member.seed for member, (*_, near) in zip(self.of(name), judged, strict=True) if near]
            for name, judged in self._judged.items()
        }

    @cached_property
    def looks(self) -> dict[str, images.Looks]:
        """By variant, layer and measure (and `right`): the values of all seeds and measured images, NaN = undefined."""
        return {name: images.looks_of([member.run for member in self.of(name)]) for name in self.variants}

    @cached_property
    def where(self) -> pd.DataFrame:
        """Where each variant looks: mean over images, then `mean`, `std` and `count` over seeds.

        A row per variant, layer, subset of the images (all, right, wrong) and measure. Which images are right or wrong
        depends on the variant: these rows do not compare variants on the same images.
        """
        rows = ({"variant": name} | row for name, layers in self.looks.items() for row in images.iter_where(layers))
        return pd.DataFrame(rows)

    @cached_property
    def look_differences(self) -> pd.DataFrame:
        """A row per pair, layer that both have, subset (all, both right) and measure: the difference, paired by seed.

        The seed is the unit: images are averaged within it. `boot_low` and `boot_high`, at the last layer only, come
        from a bootstrap over seeds and images. The other columns are those of `differences`.
        """
        rows = []
        for pair in self.pairs:
            after, before = self.looks[pair.variant], self.looks[pair.against]
            for row in images.iter_differences(after, before, one_grid=self.one_grid(pair)):
                rows.append({"variant": pair.variant, "against": pair.against} | row)
        return pd.DataFrame(rows)

    @cached_property
    def differences(self) -> pd.DataFrame:
        """A row per pair and measure: the difference to the first variant, paired by seed, with the 95 % interval.

        `per_seed` is the difference of each seed, in their order. `low`, `high`, `p`, `smallest_shown` and
        `detectable` are NaN below three seeds. Measures of maps are averaged over the images on which both networks
        have a value, so this is not always the difference of the means in `summary`. Left out: measures that a run does
        not have and, if the last layers have different resolutions, all measures of maps but the focus index.
        """
        rows = []
        for pair in self.pairs:
            for measure in self.measures:
                if (found := self.difference(measure, pair)) is not None:
                    named = {"measure": measure.metric, "variant": pair.variant, "against": pair.against}
                    rows.append(named | images.difference_row(found))
        return pd.DataFrame(rows)

    def difference(self, measure: Measure, pair: Pair) -> Difference | None:
        """The difference that every table and sentence reports; None where `sides` is None.

        With fewer than `FEW_IMAGES` test images the interval of the test accuracy is the wider one of two: Student's t
        over seeds, and the bootstrap over seeds and images.
        """
        if (sides := self.sides(measure, pair)) is None:
            return None
        found = paired_difference(*sides)
        if measure != TEST_ACCURACY or found.low is None or len(self.dataset.splits[SPLIT]) >= FEW_IMAGES:
            return found
        after, before = (self.right[name].astype(float) for name in (pair.variant, pair.against))
        drawn = two_way_bootstrap(after, before, np.random.default_rng(0))
        return found.widened(drawn.low, drawn.high)

    def sides(self, measure: Measure, pair: Pair) -> images.Sides | None:
        """The measure for each seed of both variants; None if a seed has no value or the maps cannot be compared."""
        after, before = (self._per_image(measure, name) for name in (pair.variant, pair.against))
        if after is not None and before is not None:
            fair = measure == HEADLINE_FOCUS or not measure.metric.startswith("cam/") or self.one_grid(pair)
            return images.paired_means(after, before, np.ones(after.shape, bool)) if fair else None
        sides = tuple(np.array([measure.of(m.run) for m in self.of(name)]) for name in (pair.variant, pair.against))
        return (sides[0], sides[1]) if np.isfinite(sides).all() else None

    def _per_image(self, measure: Measure, variant: str) -> Float64[np.ndarray, "seeds images"] | None:
        """The values on each image, of measures that are means over images."""
        if measure.metric.startswith(f"cam/{LAST}/"):
            return self.looks[variant][LAST].get(measure.metric.rpartition("/")[2])
        return self._margins.get(variant) if measure.metric == "faith/deletion_margin" else None

    @cached_property
    def _margins(self) -> dict[str, Float64[np.ndarray, "seeds images"]]:
        """The deletion margin of each image, for variants whose runs all have it."""
        return {
            name: np.stack([contents.faithfulness(member.run)["deletion_margin"].to_numpy(float) for member in members])
            for name, members in ((name, self.of(name)) for name in self.variants)
            if all("faith/deletion_margin" in member.run.metrics for member in members)
        }

    def one_grid(self, pair: Pair) -> bool:
        """Whether the last layers have the same resolution; if not, only the focus index compares them fairly."""
        return self.grids[pair.variant] == self.grids[pair.against]

    @cached_property
    def grids(self) -> dict[str, tuple[int, ...]]:
        """The resolution of each variant's last layer, (rows, columns)."""
        return {name: tuple(images.sampled_maps(run).shape[1:]) for name, run in self.first_seed.items()}

    @cached_property
    def references(self) -> dict[tuple[int, ...], pd.DataFrame]:
        """By resolution of the last layer: the scores of blind maps on the measured images; empty without masks."""
        masks = self.dataset.splits[SPLIT].masks
        if masks is None:
            return {}
        own = masks[contents.maps(self.members[0].run).sample_indices]
        return {grid: measuring.references(own, grid) for grid in dict.fromkeys(self.grids.values())}

    @cached_property
    def noise(self) -> dict[str, SeedNoise]:
        """How the seeds of each variant scatter; empty below three seeds."""
        return {name: seed_noise(right) for name, right in self.right.items() if len(right) >= FEWEST}

    @cached_property
    def agreement(self) -> pd.DataFrame:
        """How similar the last layer's maps of every two variants are, and of two seeds of each variant."""
        maps = {name: [images.sampled_maps(member.run) for member in self.of(name)] for name in self.variants}
        return images.agreement(maps)

    @cached_property
    def classes(self) -> pd.DataFrame:
        """A row per pair and class: the columns of `evidence.network_tests.by_class`, `name` and `against`."""
        return _by(self, self.dataset.splits[SPLIT].labels, self.dataset.classes)

    @cached_property
    def groups(self) -> pd.DataFrame:
        """The same for the groups of images, in the column `group`; empty without groups."""
        groups = self.dataset.splits[SPLIT].groups
        found = pd.DataFrame() if groups is None else _by(self, groups, self.dataset.groups)
        return found.rename(columns={"class": "group"})

    @cached_property
    def networks(self) -> pd.DataFrame:
        """A row per pair of networks: McNemar's test on the same images. It is no statement about the method."""
        return pd.DataFrame(
            {"variant": pair.variant, "against": pair.against, "seed": seed, "against_seed": against_seed}
            | asdict(mcnemar(after, before))
            for pair in self.pairs
            for (seed, against_seed), after, before in zip(
                pair.seeds, self.right[pair.variant], self.right[pair.against], strict=True
            )
        )


def _by(findings: Findings, members: Int64[np.ndarray, "images"], names: Sequence[str]) -> pd.DataFrame:
    """`by_class` for each pair; `members` has the place in `names` of each test image."""
    return pd.concat(
        by_class(findings.right[pair.variant], findings.right[pair.against], members, names).assign(
            name=pair.variant, against=pair.against
        )
        for pair in findings.pairs
    )
