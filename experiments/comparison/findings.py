"""What finished runs say about their variants: tables and sentences, computed from what the runs have logged."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import combinations, combinations_with_replacement

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float64

from ..data.dataset import Dataset
from ..evidence.calibration import Calibration, calibration
from ..evidence.differences import ACCURACY, FEWEST, Difference, Quantity, holm, paired_difference
from ..evidence.networks import SeedNoise, by_class, mcnemar, seed_noise
from ..evidence.sentences import network_sentence, sentence
from ..explaining.probes import SPLIT, Probes, probes
from ..tracking.reading import FinishedRun
from ..training.predictions import Predictions, predictions_of
from .images import (
    Sides,
    alike,
    difference_of_images,
    difference_row,
    image_subsets,
    looks_of,
    paired_means,
    sampled_maps,
    seed_summary,
    shared_layers,
)
from .measures import FOCUS, HEADLINE_FOCUS, LAST, MEASURES, SECONDARY, WITHOUT_MASKS, Measure, last_layer

NEAR_CHANCE = 2  # times the accuracy of guessing, below which maps explain nothing worth looking at
LONG = 60  # epochs from which nothing is said about the length of the training
SHORT = (
    "DeVries and Taylor (2017) report a gain from Cutout after 200 epochs; in a short training (here epochs={epochs}) "
    "it can lower accuracy. This comparison says nothing about long ones."
)


@dataclass(frozen=True)
class Member:
    """A finished run of a comparison: which variant and seed it is."""

    variant: str
    seed: int
    run: FinishedRun
    reused: bool


@dataclass(frozen=True)
class Answer:
    """A question and the sentence that answers it."""

    question: str
    sentence: str


@dataclass(frozen=True)
class Pair:
    """Two variants whose seeds are laid side by side, in the order of the seeds."""

    variant: str
    against: str
    seeds: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Primary:
    """The difference that answers a question asked beforehand; `p_holm` where there are several such questions."""

    pair: Pair
    question: str
    quantity: Quantity
    difference: Difference
    p_holm: float | None = None


LOOKS_AT_OBJECT = "Does it look at the object?"


@dataclass(frozen=True)
class Findings:
    """The finished runs of a comparison and everything that follows from what they logged; each table once asked for.

    The first variant is the one that the others are compared with. Runs are paired by seed.
    """

    members: tuple[Member, ...]
    dataset: Dataset

    @property
    def variants(self) -> tuple[str, ...]:
        """The names, the one that the others are compared with first."""
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
        """Of each variant the run with the lowest seed: those whose pictures are shown, chosen by no outcome."""
        return {name: self.of(name)[0].run for name in self.variants}

    @property
    def seeds_shown(self) -> str:
        """The seeds of `first_seed`, in words."""
        seeds = dict.fromkeys(self.of(name)[0].seed for name in self.variants)
        return f"seed{'s' if len(seeds) > 1 else ''} {' / '.join(map(str, seeds))}"

    @property
    def last_layers(self) -> tuple[str, ...]:
        """The deepest layer of each variant."""
        return tuple(last_layer(run) for run in self.first_seed.values())

    @property
    def probe_labels(self) -> list[str]:
        """The true class of each probe image."""
        return [self.dataset.classes[label] for label in self.probes.labels]

    def shown_in_grid(self, most: int) -> list[Member]:
        """All runs, seed by seed, if there are no more than `most`; else of each variant that of median accuracy."""
        if len(self.members) <= most:
            return [member for paired in zip(*map(self.of, self.variants), strict=True) for member in paired]
        return [_median(self.of(name)) for name in self.variants]

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """Each other variant with the first one, their seeds paired in order."""
        first, *others = self.variants
        return tuple(
            Pair(name, first, tuple((a.seed, b.seed) for a, b in zip(self.of(name), self.of(first), strict=True)))
            for name in others
        )

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

    def predictions(self, run: FinishedRun) -> Predictions:
        """What the run said of each test image."""
        return predictions_of(run.read_table("predictions.parquet"), self.dataset.classes)

    @cached_property
    def _judged(self) -> dict[str, list[tuple[Bool[np.ndarray, "images"], Calibration]]]:
        """Of each run which test images it classifies correctly, and its calibration."""
        judged = {}
        for name in self.variants:
            predictions = (self.predictions(member.run) for member in self.of(name))
            judged[name] = [(predicted.right, calibration(predicted)) for predicted in predictions]
        return judged

    @property
    def right(self) -> dict[str, Bool[np.ndarray, "seeds images"]]:
        """Of each variant which test images each of its networks classifies correctly."""
        return {name: np.stack([right for right, _ in judged]) for name, judged in self._judged.items()}

    @property
    def calibrations(self) -> dict[str, list[Calibration]]:
        """Of each variant the calibration of each of its networks on the test images."""
        return {name: [found for _, found in judged] for name, judged in self._judged.items()}

    @cached_property
    def looks(self) -> dict[str, dict[str, dict[str, Float64[np.ndarray, "seeds images"]]]]:
        """By variant, layer and measure (and `right`): the value of each seed and measured test image, NaN = none."""
        return {name: looks_of([member.run for member in self.of(name)]) for name in self.variants}

    @cached_property
    def where(self) -> pd.DataFrame:
        """Where each variant looks: mean over images, then `mean`, `std` and `count` over seeds.

        A row per variant, layer, subset of the images (all, right, wrong) and measure. Which images are right or wrong
        depends on the variant: those rows are not differences on the same images.
        """
        return pd.DataFrame(
            {"variant": variant, "layer": layer, "subset": subset, "measure": name} | seed_summary(values, kept)
            for variant, layers in self.looks.items()
            for layer, table in layers.items()
            for name, values in table.items()
            if name != "right"
            for subset, kept in (
                ("all", table["right"] >= 0),
                ("right", table["right"] > 0),
                ("wrong", table["right"] == 0),
            )
        )

    @cached_property
    def look_differences(self) -> pd.DataFrame:
        """A row per pair, layer that both have, subset (all, both right) and measure: the difference, paired by seed.

        The seed is the unit: images are averaged within it. `boot_low` and `boot_high` come from drawing images anew
        too, at the last layer, for which alone claims are made. The other columns are those of `differences`.
        """
        return pd.DataFrame(
            {"variant": pair.variant, "against": pair.against, "layer": layer, "subset": subset, "measure": name} | row
            for pair in self.pairs
            for layer, after, before in shared_layers(self.looks[pair.variant], self.looks[pair.against])
            for name in after
            if name != "right" and name in before and (layer != LAST or name == "focus" or self.one_grid(pair))
            for subset, kept in image_subsets(after["right"], before["right"]).items()
            if (row := difference_of_images(after[name], before[name], kept, resampled=layer == LAST))
        )

    @cached_property
    def differences(self) -> pd.DataFrame:
        """A row per pair and measure: the difference to the first variant, paired by seed, with the 95 % interval.

        `per_seed` holds the difference of each seed, in their order. `low`, `high`, `p`, `smallest_shown` and
        `detectable` are NaN below three seeds. Measures of maps are averaged over the images on which both networks
        have one, so this is not always the difference of the means in `summary`. Measures that a run has not are left
        out, and all measures of maps but the focus index where the last layers have different resolutions.
        """
        rows = []
        for pair in self.pairs:
            for measure in self.measures:
                sides = self._sides(measure, pair)
                if sides is not None:
                    named = {"measure": measure.metric, "variant": pair.variant, "against": pair.against}
                    rows.append(named | difference_row(paired_difference(*sides)))
        return pd.DataFrame(rows)

    @cached_property
    def primary(self) -> tuple[Primary, ...]:
        """The answers to the two questions asked beforehand, for each pair; p values adjusted for all of them.

        Is the accuracy higher? And where there are object masks: is the focus index of the last layer another, on the
        images that both networks of a pair classify correctly?
        """
        found = [primary for pair in self.pairs for primary in self._primary(pair)]
        p_values = [math.nan if primary.difference.p is None else primary.difference.p for primary in found]
        if len(found) < 2:
            return tuple(found)
        adjusted = [None if math.isnan(p) else float(p) for p in holm(p_values)]
        return tuple(replace(primary, p_holm=p) for primary, p in zip(found, adjusted, strict=True))

    def _primary(self, pair: Pair) -> Iterator[Primary]:
        accuracy = self._sides(MEASURES[0], pair)
        if accuracy is not None:
            yield Primary(pair, "Is the network better?", ACCURACY, paired_difference(*accuracy))
        after, before = (self.looks[name][LAST] for name in (pair.variant, pair.against))
        if "focus" in after and "focus" in before:
            both = (after["right"] > 0) & (before["right"] > 0)
            sides = paired_means(after["focus"], before["focus"], both)
            if sides is not None:
                yield Primary(pair, LOOKS_AT_OBJECT, FOCUS, paired_difference(*sides))

    def _sides(self, measure: Measure, pair: Pair) -> Sides | None:
        """The measure of each seed of the pair's two variants; None where a seed has none, or maps do not compare."""
        after, before = (self._per_image(measure, name) for name in (pair.variant, pair.against))
        if after is not None and before is not None:
            fair = measure == HEADLINE_FOCUS or not measure.metric.startswith("cam/") or self.one_grid(pair)
            return paired_means(after, before, np.ones(after.shape, bool)) if fair else None
        sides = tuple(np.array([measure.of(m.run) for m in self.of(name)]) for name in (pair.variant, pair.against))
        return (sides[0], sides[1]) if np.isfinite(sides).all() else None

    def _per_image(self, measure: Measure, variant: str) -> Float64[np.ndarray, "seeds images"] | None:
        """The measure's value on each image, for measures that are means over images on which there is one."""
        if measure.metric.startswith(f"cam/{LAST}/"):
            return self.looks[variant][LAST].get(measure.metric.rpartition("/")[2])
        return self._margins.get(variant) if measure.metric == "faith/deletion_margin" else None

    @cached_property
    def _margins(self) -> dict[str, Float64[np.ndarray, "seeds images"]]:
        """The deletion margin of each image, of the variants whose runs have one."""
        tables = {
            name: [member.run.read_table("faithfulness.parquet") for member in self.of(name)]
            for name in self.variants
            if all("faith/deletion_margin" in member.run.metrics for member in self.of(name))
        }
        return {name: np.stack([t["deletion_margin"].to_numpy(float) for t in some]) for name, some in tables.items()}

    def one_grid(self, pair: Pair) -> bool:
        """Whether the last layers of both variants have one resolution: to a coarse one all but the focus is unfair."""
        return self.grids[pair.variant] == self.grids[pair.against]

    @cached_property
    def grids(self) -> dict[str, tuple[int, ...]]:
        """The resolution of each variant's last layer, (rows, columns)."""
        return {name: tuple(sampled_maps(run).shape[1:]) for name, run in self.first_seed.items()}

    @cached_property
    def answers(self) -> tuple[Answer, ...]:
        """One sentence per question and pair, and what must be known to read them."""
        answers = [answer for pair in self.pairs for answer in self._answers(pair)]
        answers += [
            Answer("How far does this reach?", SHORT.format(epochs=n)) for n in _short_with_cutout(self.members)
        ]
        return tuple(answers)

    def _answers(self, pair: Pair) -> Iterator[Answer]:
        for primary in self.primary:
            if primary.pair == pair:
                said = sentence(pair.variant, pair.against, primary.difference, primary.quantity, primary.p_holm)
                yield Answer(primary.question, said)
        masked = self.dataset.splits[SPLIT].masks is not None
        if not masked:
            said = f"no statement: {self.dataset.name} has no masks that say where the objects are."
            yield Answer(LOOKS_AT_OBJECT, f"{pair.variant} against {pair.against}: {said}")
        for name in (pair.against, pair.variant):
            if self.right[name].mean() < NEAR_CHANCE / len(self.dataset.classes):
                said = f"{name} is right on {self.right[name].mean():.1%} of the images, not far from chance"
                yield Answer("Can the maps be read?", f"{said}: its maps explain next to nothing.")
        if len(pair.seeds) == 1:
            network = mcnemar(self.right[pair.variant][0], self.right[pair.against][0])
            said = network_sentence(pair.variant, pair.against, pair.seeds[0][0], network)
            yield Answer("Do these two networks differ?", said)
        if len(pair.seeds) < FEWEST:
            return  # the other questions have no answer either
        for metric, question in (SECONDARY if masked else WITHOUT_MASKS).items():
            measure = next(measure for measure in MEASURES if measure.metric == metric)
            sides = self._sides(measure, pair)
            if sides is not None:
                said = sentence(pair.variant, pair.against, paired_difference(*sides), measure.quantity)
                yield Answer(question, said)

    @cached_property
    def noise(self) -> dict[str, SeedNoise]:
        """Of each variant how its seeds scatter; empty below three seeds."""
        return {name: seed_noise(right) for name, right in self.right.items() if len(right) >= FEWEST}

    @cached_property
    def agreement(self) -> pd.DataFrame:
        """How alike the last layer's maps of two networks are on the same images, mean over images and network pairs.

        A row per two variants, and per variant with itself, which is the noise floor: a difference between variants
        that is no larger than between seeds is none. Always of two seeds, where there are two. `rank_correlation`, and
        `top_iou` of the highest fifth; `pairs` of networks.
        """
        maps = {name: [sampled_maps(member.run) for member in self.of(name)] for name in self.variants}
        rows = []
        for one, other in combinations_with_replacement(self.variants, 2):
            # Never two networks of one seed, which share their start and the order of the images: then two variants
            # would agree more than two seeds of one for that alone. Of one seed there is nothing else.
            pairs = (
                list(combinations(maps[one], 2))
                if one == other
                else [(a, b) for i, a in enumerate(maps[one]) for j, b in enumerate(maps[other]) if i != j]
                or list(zip(maps[one], maps[other], strict=True))
            )
            if pairs and all(a.shape == b.shape for a, b in pairs):
                rows.append({"variant": one, "against": other, "pairs": len(pairs)} | alike(pairs))
        return pd.DataFrame(rows)

    @cached_property
    def classes(self) -> pd.DataFrame:
        """Class by class, for each pair: see `statistics.by_class`."""
        labels = self.dataset.splits[SPLIT].labels
        return pd.concat(
            by_class(self.right[pair.variant], self.right[pair.against], labels, self.dataset.classes).assign(
                name=pair.variant, against=pair.against
            )
            for pair in self.pairs
        )

    @cached_property
    def networks(self) -> pd.DataFrame:
        """Each pair of networks on the same images, which is no statement about the method: McNemar's test."""
        return pd.DataFrame(
            {"variant": pair.variant, "against": pair.against, "seed": seed, "against_seed": against_seed}
            | asdict(mcnemar(after, before))
            for pair in self.pairs
            for (seed, against_seed), after, before in zip(
                pair.seeds, self.right[pair.variant], self.right[pair.against], strict=True
            )
        )


def _median(members: Sequence[Member]) -> Member:
    """The run of median test accuracy; of an even number the lower of the two in the middle."""
    return sorted(members, key=lambda member: member.run.metrics["test/accuracy"])[(len(members) - 1) // 2]


def _short_with_cutout(members: Sequence[Member]) -> list[int]:
    """The length, in epochs, of the shortest training with Cutout, if that is short and others have none."""
    lengths = [int(m.run.params["resolved.epochs"]) for m in members if m.run.params["resolved.cutout"] == "true"]
    return [min(lengths)] if lengths and len(lengths) < len(members) and min(lengths) < LONG else []
