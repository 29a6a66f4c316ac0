"""The pictures of the report: PNG inside the page, caption, and a text alternative made from the numbers."""

import base64
import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image

from cam_core import overlay

from ...evidence.differences import mean_of_present
from ...pictures.sheets import notes
from ...pictures.style import Pixels
from ..findings import Findings, Member
from ..measures import LAST, TEST_ACCURACY
from ..pictures import last_maps, verdicts_of
from .tables import DASH, difference_of, interval, named, signed, value_text, whose


@dataclass(frozen=True)
class Figure:
    """A picture in the page: data URI, text alternative, caption, size in pixels; `name` if it is one of several."""

    source: str
    alt: str
    caption: str
    width: int
    height: int
    name: str = ""


@dataclass(frozen=True)
class Words:
    """The texts of a picture: its caption, and for its text alternative what it shows and the numbers."""

    caption: str
    seen: str
    numbers: Callable[[Findings], str]
    name: str = ""


def figure_groups(findings: Findings, pictures: Mapping[str, Pixels]) -> dict[str, list[Figure]]:
    """The pictures that exist, by their place on the page."""
    alone = [path for path in pictures if path.startswith("side_by_side/")]
    deepest = set(findings.last_layers)
    if "side_by_side.png" in pictures and len(deepest) == 1:
        alone = [path for path in alone if _within(path) not in deepest]  # shown as the last layer
    groups = {
        "side_by_side": ["side_by_side.png"],
        "layers": alone,
        "averages": ["over_seeds.png", "mean_maps.png"],
        "changed": [path for path in pictures if path.startswith("changed/")],
        "class_charts": ["charts/classes.png"],
        "agreement_charts": ["charts/agreement.png"],
    }
    groups |= {name: [f"charts/{name}.png"] for name in ("forest", "seeds", "reliability", "curves")}
    return {
        group: [_figure(findings, path, pictures[path]) for path in paths if path in pictures]
        for group, paths in groups.items()
    }


def _figure(findings: Findings, path: str, picture: Pixels) -> Figure:
    found = words(findings, path)
    alt = f"{found.seen} {found.numbers(findings)}".strip()
    return Figure(data_uri(picture), alt, found.caption, picture.shape[1], picture.shape[0], found.name)


def _within(path: str) -> str:
    """The layer or variant in the picture's path; the name of a variant may contain slashes."""
    return path.partition("/")[2].removesuffix(".png")


def looks_text(findings: Findings) -> str:
    """On how many measured images the variant's last map is more on the object, or larger, than the baseline's.

    Without variants whose last layers have another resolution than the baseline's: coarse maps are always larger.
    """
    parts = []
    for pair in filter(findings.one_grid, findings.pairs):
        after, before = (findings.looks[name][LAST] for name in (pair.variant, pair.against))
        measure = "energy" if "energy" in after else "coverage"
        difference = mean_of_present(after[measure] - before[measure], axis=0)
        present = difference[np.isfinite(difference)]
        if len(present):
            what = "has a larger share on the object" if measure == "energy" else "covers more of the image"
            parts.append(
                f"On {int((present > 0).sum()):,} of {len(present):,} test images the map of {pair.variant} {what} "
                f"than that of {pair.against} (median {signed(float(np.median(present)), share=True)} points)."
            )
    return " ".join(parts)


def differences_text(findings: Findings) -> str:
    """All differences as text."""
    quantities = {measure.metric: measure.quantity for measure in findings.measures}
    parts = []
    for row in findings.differences.to_dict("records"):
        quantity, found = quantities[row["measure"]], difference_of(row)
        mean, bounds = signed(found.mean, share=quantity.share), interval(found.low, found.high, share=quantity.share)
        shown = mean if bounds == DASH else f"{mean} ({bounds})"
        parts.append(f"{row['variant']}, {named(quantity)}: {shown}")
    return "; ".join(parts) + "."


def accuracies_text(findings: Findings) -> str:
    """The test accuracy of every run."""
    parts = (
        f"{name} {', '.join(value_text(TEST_ACCURACY, TEST_ACCURACY.of(member.run)) for member in findings.of(name))}"
        for name in findings.variants
    )
    return f"Test accuracy: {'; '.join(parts)}."


def calibration_text(findings: Findings) -> str:
    """The expected calibration error of each variant."""
    parts = (
        f"{name} {np.mean([found.ece for found in calibrations]):.3f}"
        for name, calibrations in findings.calibrations.items()
    )
    return f"Expected calibration error: {'; '.join(parts)}."


def agreement_text(findings: Findings) -> str:
    """The rank correlation of the maps of every two variants."""
    parts = (f"{whose(row)} {row['rank_correlation']:.2f}" for row in findings.agreement.to_dict("records"))
    return f"Rank correlation: {'; '.join(parts)}."


def changes_text(findings: Findings, variant: str) -> str:
    """How many test images only one of the first networks of variant and baseline classifies correctly."""
    if variant not in findings.right:
        return ""
    after, before = findings.right[variant][0], findings.right[findings.variants[0]][0]
    fixed, broken, wrong = (int(kept.sum()) for kept in (after & ~before, ~after & before, ~after & ~before))
    alone = f"{fixed:,} are right only with {variant}, {broken:,} only with {findings.variants[0]}"
    return f"Of {len(after):,} test images {alone}, {wrong:,} with neither (first seeds)."


def classes_text(findings: Findings) -> str:
    """For each variant the classes with the lowest and the highest difference."""
    parts = []
    for name, table in findings.classes.dropna(subset="difference").groupby("name", sort=False):
        ordered = table.sort_values("difference").to_dict("records")
        ends = " to ".join(
            f"{signed(row['difference'], share=True)} ({row['class']})" for row in (ordered[0], ordered[-1])
        )
        shown = [str(row["class"]) for row in ordered if row["shown"]]
        parts.append(f"{name}: {ends}; differences shown: {', '.join(shown) or 'none'}")
    return f"{'. '.join(parts)}."


WORDS = {
    "side_by_side.png": Words(
        "The last layer",
        "One test image per column: the original, then the last layer’s map of each variant.",
        looks_text,
    ),
    "over_seeds.png": Words(
        "The mean of a variant’s maps over its seeds, and where its seeds differ",
        "Mean and spread over seeds of the last layer’s maps.",
        looks_text,
        "Over all seeds",
    ),
    "mean_maps.png": Words(
        "The mean map over many test images: what all maps have in common, such as a preference for the middle",
        "Mean of the last layer’s maps over test images.",
        looks_text,
        "The mean map",
    ),
    "charts/forest.png": Words("Every dot is a pair of seeds", "Differences and 95 % intervals.", differences_text),
    "charts/seeds.png": Words("Every dot is a run", "The measures of every run.", accuracies_text),
    "charts/curves.png": Words("Loss and accuracy per epoch", "Loss and accuracy per epoch.", accuracies_text),
    "charts/classes.png": Words("The accuracy of each class", "Differences per class, in points.", classes_text),
    "charts/reliability.png": Words(
        "On the diagonal the confidence is equal to the accuracy", "Accuracy against confidence.", calibration_text
    ),
    "charts/agreement.png": Words(
        "Agreement between variants, compared with the agreement between seeds of one variant",
        "Agreement of maps.",
        agreement_text,
    ),
}
"""The texts of the pictures with fixed paths."""


def words(findings: Findings, path: str) -> Words:
    """The texts of the picture at `path`."""
    first, own = findings.variants[0], _within(path)
    if path.startswith("side_by_side/"):
        seen = f"The same test images, each with the map of every variant at {own}."
        return Words(f"The same images at {own}", seen, lambda findings: "", f"At {own}")
    if path.startswith("changed/"):
        caption = f"Images selected by how the predictions of {first} and {own} differ, one seed"
        return Words(caption, caption + ".", lambda findings: changes_text(findings, own), f"{own} against {first}")
    return WORDS[path]


def data_uri(picture: Pixels) -> str:
    """The picture as a PNG inside a data URI."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")  # optimised it is a fiftieth smaller and takes ten times as long
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def blinks(findings: Findings) -> list[tuple[str, Figure, Figure]]:
    """The class of each probe image, and the last layer's maps of two variants on it; none with more variants."""
    if len(findings.variants) != 2:
        return []
    before, after = (_overlaid(findings, findings.of(name)[0]) for name in findings.variants)
    return list(zip(findings.probe_labels, before, after, strict=True))


def _overlaid(findings: Findings, member: Member) -> Iterator[Figure]:
    """The network's map over each probe image, and its prediction."""
    chosen, maps, said = findings.probes, last_maps(member.run), verdicts_of(findings, member.run)
    for image, map_, verdict, note in zip(chosen.images, maps, said, notes(maps, chosen.masks), strict=True):
        words = ", ".join(filter(None, (f"{member.variant}: {verdict.caption}", verdict.verdict, note)))
        yield Figure(data_uri(overlay(image, map_)), words, words, image.shape[1], image.shape[0])
