"""The tables of the report as text: sensible digits, shares in points, a dash for a missing value."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import pandas as pd

from ...evidence.differences import Difference, Quantity
from ...evidence.sentences import mean_text, noise_sentence, p_text, wins_text
from ...explaining.map_measures import MAP_MEASURES
from ...pictures.charts import by_difference
from ..findings import Findings, Pair
from ..images import BOTH_RIGHT
from ..measures import LAST, TEST_ACCURACY, Measure, of_maps
from ..primary import primary

DASH = "–"
SUBSETS = ("all", "right", "wrong")
REFERENCES = {"uniform": "uniform map", "random": "random map", "centre": "centred blob"}
LOOKS = {name: of_maps(row, name) for name, row in MAP_MEASURES.items()}
"""The measures of maps by name, in the order of tables."""

Row = Mapping[Any, Any]
"""A row of a table, by column."""


@dataclass(frozen=True)
class TextTable:
    """A table of texts; the first cell of each row is its heading."""

    caption: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]


def tables(findings: Findings, rows: Sequence[Mapping[str, str]]) -> dict[str, object]:
    """All tables of the page and the texts that belong to them."""
    # The last layer, where it has one name.
    shown = {LAST, *findings.last_layers} if len(set(findings.last_layers)) == 1 else {LAST}
    layers = [layer for layer in findings.where["layer"].unique() if layer not in shown]
    return {
        "summary": TextTable(
            "Mean over seeds ± standard deviation", list(rows[0]), [list(row.values()) for row in rows]
        ),
        "measures": findings.measures,
        "differences": [difference_table(findings, pair) for pair in findings.pairs],
        "measured": f"{measured(findings):,}",
        "looks": [look_table(findings, LAST)],
        "other_looks": [look_table(findings, layer) for layer in layers],
        "look_differences": [table for pair in findings.pairs if (table := look_difference_table(findings, pair)).rows],
        "uneven": [_uneven_text(findings, pair) for pair in findings.pairs if not findings.one_grid(pair)],
        "look_measures": [measure for name, measure in LOOKS.items() if name in set(findings.where["measure"])],
        "classes": [class_table(findings.classes, pair) for pair in findings.pairs],
        "groups": [class_table(findings.groups, pair, "group") for pair in findings.pairs if len(findings.groups)],
        "networks": [network_table(findings, pair) for pair in findings.pairs],
        "noise": [noise_sentence(name, noise) for name, noise in findings.noise.items()],
        "agreement": agreement_table(findings),
        "calibration": calibration_table(findings),
    }


def measured(findings: Findings) -> int:
    """The number of test images whose maps are measured."""
    images: int = findings.looks[findings.variants[0]][LAST]["right"].shape[1]
    return images


def _uneven_text(findings: Findings, pair: Pair) -> str:
    one, other = (f"{name} ({grid_text(findings.grids[name])})" for name in (pair.variant, pair.against))
    return (
        f"The last layers of {one} and {other} have different resolutions. Only the focus index takes that into "
        "account, so no other measure of their maps is compared."
    )


def grid_text(grid: Sequence[int]) -> str:
    """The resolution of a layer's maps: "4 × 4 cells"."""
    return f"{' × '.join(map(str, grid))} cells"


def difference_table(findings: Findings, pair: Pair) -> TextTable:
    """The difference of every measure; those asked beforehand come first."""
    asked = [one for one in primary(findings) if one.pair == pair]
    rows = [[*_difference_cells(one.difference, one.quantity), p_cell(one.p_holm)] for one in asked]
    names = {one.quantity.name for one in asked}
    measures = {measure.metric: measure for measure in findings.measures}
    for row in findings.differences.to_dict("records"):
        measure = measures[row["measure"]]
        if row["variant"] == pair.variant and measure.quantity.name not in names:
            rows.append([*_difference_cells(difference_of(row), measure.quantity), DASH])
    headings = ("measure", "difference", "95 % interval", "seeds", "smallest shown", "p", "p (Holm)")
    return TextTable(f"{pair.variant} against {pair.against}", headings, rows)


def _difference_cells(found: Difference, quantity: Quantity) -> list[str]:
    return [
        named(quantity),
        signed(found.mean, share=quantity.share),
        interval(found.low, found.high, share=quantity.share),
        wins_text(found, quantity.better),
        signed(found.smallest_shown, share=quantity.share, sign=""),
        p_cell(found.p),
    ]


def difference_of(row: Row) -> Difference:
    """The difference that a table's row was made from."""
    found: dict[str, Any] = {one.name: None if _missing(row[one.name]) else row[one.name] for one in fields(Difference)}
    return Difference(**found)


def look_table(findings: Findings, layer: str) -> TextTable:
    """The measures at a layer: a row per variant and subset of images; at the last layer also those of blind maps."""
    where = findings.where[findings.where["layer"] == layer]
    measures = [measure for name, measure in LOOKS.items() if name in set(where["measure"])]
    rows = []
    for name in dict.fromkeys(where["variant"]):
        for subset in SUBSETS:
            own = where[(where["variant"] == name) & (where["subset"] == subset)].set_index("measure")
            seeds = len(findings.of(name))
            cells = (measure.written(own.loc[measure.metric], seeds, none=DASH) for measure in measures)
            rows.append([f"{name}, {subset}", *cells])
    if layer == LAST:
        rows += reference_rows(findings, measures)
        layer = f"The last layer ({' or '.join(dict.fromkeys(findings.last_layers))})"
    return TextTable(layer, ["variant, images", *(measure.heading for measure in measures)], rows)


def reference_rows(findings: Findings, measures: Sequence[Measure]) -> list[list[str]]:
    """The scores of blind maps on the measured images, at each resolution of the variants' last layers.

    Empty without masks.
    """
    rows = []
    for grid, found in findings.references.items():
        where = f", {grid_text(grid)}" if len(findings.references) > 1 else ""
        scores = found.to_dict("index")
        for name, text in REFERENCES.items():
            values = (value_text(measure, scores[name].get(measure.metric, math.nan)) for measure in measures)
            rows.append([text + where, *values])
    return rows


def look_difference_table(findings: Findings, pair: Pair) -> TextTable:
    """The differences of the last layer's measures, on all images and on those that both classify correctly."""
    table = findings.look_differences
    own = table[(table["variant"] == pair.variant) & (table["layer"] == LAST)] if len(table) else table
    found = {(row["measure"], row["subset"]): row for row in own.to_dict("records")}
    keys = [(name, subset) for name in LOOKS for subset in ("all", BOTH_RIGHT) if (name, subset) in found]
    rows = [_look_cells(found[key], LOOKS[key[0]].quantity) for key in keys]
    headings = ("measure", "images", "difference", "95 % interval", "images resampled too", "seeds", "smallest shown")
    return TextTable(f"{pair.variant} against {pair.against}, last layer", headings, rows)


def _look_cells(row: Row, quantity: Quantity) -> list[str]:
    name, *amount, wins, smallest, _ = _difference_cells(difference_of(row), quantity)
    drawn = interval(row["boot_low"], row["boot_high"], share=quantity.share)
    return [name, f"{row['subset']} ({row['images']:,})", *amount, drawn, wins, smallest]


def class_table(classes: pd.DataFrame, pair: Pair, what: str = "class") -> TextTable:
    """The accuracies of each class, or group, and their difference."""
    table, shown = classes[classes["name"] == pair.variant], by_difference(classes, what)
    some = (
        f"; {len(shown)} of {len(table):,} classes, those with the largest differences"
        if len(shown) < len(table)
        else ""
    )
    rows = [
        [
            str(row[what]),
            f"{row['images']:,}",
            value_text(TEST_ACCURACY, row["baseline"]),
            value_text(TEST_ACCURACY, row["variant"]),
            signed(row["difference"], share=True),
            interval(row["low"], row["high"], share=True),
            p_cell(row["p_holm"]),
            "yes" if row["shown"] else "not shown",
        ]
        for row in table[table[what].isin(shown)].to_dict("records")
    ]
    headings = (what, "images", pair.against, pair.variant, "difference, points", "95 % interval", "p (Holm)")
    about = " or ".join(dict.fromkeys(table["about"]))
    return TextTable(f"{pair.variant} against {pair.against}: about {about}{some}", (*headings, "differs"), rows)


def network_table(findings: Findings, pair: Pair) -> TextTable:
    """A row per two networks of a pair of seeds."""
    table = findings.networks[findings.networks["variant"] == pair.variant]
    rows = [
        [
            " and ".join(dict.fromkeys((str(row["seed"]), str(row["against_seed"])))),
            f"{row['images']:,}",
            f"{row['only_variant']:,}",
            f"{row['only_baseline']:,}",
            signed(row["mean"], share=True),
            interval(row["low"], row["high"], share=True),
            p_cell(row["p"]),
        ]
        for row in table.to_dict("records")
    ]
    right = [f"right only with {name}" for name in (pair.variant, pair.against)]
    headings = ("seed", "images", *right, "difference, points", "95 % interval over images", "McNemar mid-p")
    return TextTable(f"{pair.variant} against {pair.against}: about these networks", headings, rows)


def agreement_table(findings: Findings) -> TextTable:
    """How similar the maps of every two variants are, and of two seeds of each variant."""
    rows = [
        [whose(row), f"{row['pairs']:,}", _plain(row["rank_correlation"]), _plain(row["top_iou"])]
        for row in findings.agreement.to_dict("records")
    ]
    headings = ("maps of", "pairs of networks", "rank correlation", "overlap of the highest fifth")
    return TextTable("1 = the same map; mean over images and pairs of networks", headings, rows)


def whose(row: Row) -> str:
    one, other = row["variant"], row["against"]
    return f"two seeds of {one}" if one == other else f"{one} and {other}"


def calibration_table(findings: Findings) -> TextTable:
    """Calibration error and Brier score of each variant."""
    rows = []
    for name, found in findings.calibrations.items():
        values = ([calibration.ece for calibration in found], [calibration.brier for calibration in found])
        rows.append([name, str(len(found)), *map(mean_text, values)])
    headings = ("variant", "seeds", "expected calibration error", "Brier score")
    return TextTable("Calibration: mean over seeds ± standard deviation", headings, rows)


def _missing(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def named(quantity: Quantity) -> str:
    return f"{quantity.name}, points" if quantity.share else quantity.name


def value_text(measure: Measure, value: float) -> str:
    return DASH if _missing(value) else measure.format.format(value)


def _plain(value: float) -> str:
    return DASH if _missing(value) else f"{value:.3f}"


def p_cell(value: float | None) -> str:
    return DASH if _missing(value) else p_text(value).removeprefix("p ").removeprefix("= ")


def signed(value: float | None, *, share: bool, sign: str = "+") -> str:
    """A difference (shares in percentage points), with more decimals if the usual ones would show zero."""
    if value is None or math.isnan(value):
        return DASH
    scaled, usual = (100 * value, 2) if share else (value, 3)
    decimals = next((n for n in range(usual, 7) if abs(scaled) >= 0.5 * 10**-n), usual)
    return f"{scaled:{sign}z.{decimals}f}"


def interval(low: float | None, high: float | None, *, share: bool) -> str:
    if _missing(low) or _missing(high):
        return DASH
    return f"{signed(low, share=share)} to {signed(high, share=share)}"
