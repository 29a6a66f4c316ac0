"""The report says what the findings say, needs nothing but itself, and lets no name become markup."""

import base64
import io
import math
import re
from dataclasses import replace
from html import escape
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cam_core import overlay, relative_to_mean
from experiments.comparison.answers import answers
from experiments.comparison.compare import as_markdown
from experiments.comparison.findings import Findings, Member
from experiments.comparison.measures import LAST, TEST_ACCURACY
from experiments.comparison.report import page as report
from experiments.comparison.report.figures import blinks, changes_text, data_uri, looks_text
from experiments.comparison.report.tables import (
    DASH,
    LOOKS,
    TextTable,
    class_table,
    difference_table,
    interval,
    look_difference_table,
    look_table,
    network_table,
    p_cell,
    signed,
)
from experiments.data.dataset import Dataset
from experiments.evidence.network_tests import mcnemar
from experiments.explaining import measuring
from experiments.pictures import charts
from experiments.runs import contents
from tests.toys.networks import toy_dataset
from tests.toys.runs import toy_findings, toy_run

EVIL = "<script>alert('x')</script> & \"co\""
COMMAND = "python -m experiments.compare --variants baseline,cutout"
ADDRESS = "http://127.0.0.1:5000/#/experiments/0/runs?viewStateShareKey=camparison-1&x=2"
PATHS = (
    *("side_by_side.png", "side_by_side/stem.png", "side_by_side/layer3.png", "over_seeds.png", "mean_maps.png"),
    *(f"charts/{name}.png" for name in ("forest", "seeds", "curves", "reliability", "classes", "agreement")),
)


@pytest.fixture(scope="module")
def findings() -> Findings:
    return toy_findings()


def pictures(findings: Findings) -> dict[str, np.ndarray]:
    """A picture of one colour at every path there is."""
    own = [f"changed/{name}.png" for name in findings.variants[1:]]
    return {path: np.full((4, 6, 3), 10 * i, np.uint8) for i, path in enumerate([*PATHS, *own])}


def summary_rows(findings: Findings) -> list[dict[str, str]]:
    return [{"variant": name, "seeds": "3", "test accuracy": f"{name} of accuracy"} for name in findings.variants]


def page(findings: Findings, command: str = COMMAND, chosen: str = "") -> str:
    rows, shown = summary_rows(findings), pictures(findings)
    return report.html("baseline & others", findings, rows, shown, ADDRESS, " (hint)", command=command, chosen=chosen)


def of_two_resolutions(dataset: Dataset) -> Findings:
    """Variants whose last layers have grids of 4 × 4 and 8 × 8."""
    layers = {"baseline": {"stem": 8, "layer3": 4}, "cutout": {"stem": 8, "layer2": 8}}
    return Findings(
        tuple(
            Member(name, seed, toy_run(name, place, seed, dataset, own, 20), reused=False)
            for place, (name, own) in enumerate(layers.items())
            for seed in range(3)
        ),
        dataset,
    )


@pytest.fixture(scope="module")
def uneven() -> Findings:
    return of_two_resolutions(toy_dataset())


def test_names_from_right_to_left_do_not_turn_the_text_around_them(findings: Findings) -> None:
    names = ("עברית", "\u202egnp")
    dataset = replace(toy_dataset(), classes=("قط", "dog", "fish"))
    found = page(toy_findings(variants=names, dataset=dataset), command="--variants עברית")
    shown = re.sub(r"<code>--variants .*?</code>", "", found)
    for name in (*names, "قط"):
        assert shown.count(name) == shown.count(f"\u2068{name}\u2069") > 0
    assert "<code>--variants עברית</code>" in found
    assert "\u2068" not in page(findings)


class Elements(HTMLParser):
    """Every tag with its attributes, the tables by caption, what each term means, and the headings by their level."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.terms: dict[str, str] = {}
        self.headings: list[tuple[str, str]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag != "code":
            self.text = ""
        if tag == "table":
            self.rows: list[list[str]] = []
        elif tag == "tr":
            self.rows.append([])

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_endtag(self, tag: str) -> None:
        if tag == "caption":
            self.caption = self.text
        elif tag == "dt":
            self.term = self.text
        elif tag == "dd":
            self.terms[self.term] = self.text
        elif tag in ("h2", "h3", "h4"):
            self.headings.append((tag, self.text))
        elif tag in ("td", "th"):
            self.rows[-1].append(self.text)
        elif tag == "table":
            self.tables[self.caption] = self.rows


def column(table: TextTable, heading: str) -> dict[str, str]:
    """The cells under a heading, by the heading of their row."""
    place = list(table.headings).index(heading)
    return {row[0]: row[place] for row in table.rows}


@pytest.mark.slow
def test_the_page_needs_nothing_but_itself(findings: Findings) -> None:
    text = page(findings)
    for tag, attributes in Elements(text).tags:
        assert tag not in ("link", "iframe", "object", "base", "form")
        if tag == "img":
            assert str(attributes["src"]).startswith("data:image/png;base64,")
        elif "src" in attributes:
            pytest.fail(f"{tag} loads {attributes['src']}")
    assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest|localStorage", text)
    assert text.count("<script>") == 1


def test_the_answers_come_first_each_under_its_question(findings: Findings) -> None:
    text = page(findings)
    verdict = [answer for answer in answers(findings) if answer.part == "verdict"]
    at = [text.index(escape(part)) for answer in verdict for part in (answer.question, answer.sentence)]
    assert at == sorted(at)
    assert at[-1] < text.index("<img")


@pytest.mark.slow
def test_what_was_explored_stands_apart_after_what_was_asked(findings: Findings) -> None:
    text = page(findings)
    explored = [answer for answer in answers(findings) if answer.part == "detail"]
    assert explored
    apart = text.index("Further questions, not asked beforehand and not corrected")
    assert all((text.index(escape(a.sentence)) > apart) == (a in explored) for a in answers(findings))
    headings = Elements(text).headings
    start = headings.index(("h3", "Further questions, not asked beforehand and not corrected"))
    assert headings[start + 1] == ("h4", "Does the map cover the whole object?")
    assert headings[start - 1] != ("h2", "The answer")


@pytest.mark.slow
def test_a_question_stands_once_above_the_sentences_of_all_variants() -> None:
    three = toy_findings(("a", "b", "c"))
    grouped = report.by_question(answers(three))
    assert [sentence[0] for sentence in grouped["Is the network better?"]] == ["b", "c"]
    assert sum(map(len, grouped.values())) == len(answers(three))


def test_how_to_make_it_again_stands_with_how_it_was_measured(findings: Findings) -> None:
    command = "python -m experiments.compare --filter 'metrics.`test/accuracy` > 0.9 & <b>'"
    text = page(findings, command)
    assert Elements(text).terms["Command"] == command
    assert "<b>" not in text
    assert text.index("How it was measured") < text.index("Command")


@pytest.mark.parametrize("chosen", ["", "filter=metrics.`test/accuracy` > 0.9 & <b>", "runs=plain=1a2b3c cut=4d5e6f"])
def test_nothing_was_selected_is_said_only_where_nobody_chose_runs(findings: Findings, chosen: str) -> None:
    text = page(findings, chosen=chosen)
    said = Elements(text).terms["Selection"]
    assert text.count(escape(said)) == 2  # also in the line below the answers
    assert "<b>" not in text
    if chosen:
        assert "selected on the test images" not in text
        assert said == (
            f"The runs were chosen by hand ({chosen}): if test results decided the choice, the comparison is biased."
        )
    else:
        assert said == "Nothing was selected on the test images: no epoch, seed or layer."


def test_it_says_on_how_many_images_everything_was_measured(findings: Findings) -> None:
    said = Elements(page(findings)).terms["Measured images"]
    images = len(contents.faithfulness(findings.members[0].run))
    assert [int(n) for n in re.findall(r"\d+", said)] == [20, 30, images, measuring.STEPS]
    plain = replace(
        findings,
        members=tuple(
            replace(member, run=replace(member.run, metrics={"test/accuracy": 0.5})) for member in findings.members
        ),
    )
    assert "margin" not in report.measured_images(plain)


def test_no_measure_of_maps_is_called_better_or_worse(findings: Findings) -> None:
    tables = [difference_table(findings, findings.pairs[0]), look_difference_table(findings, findings.pairs[0])]
    for table in tables:
        rows = [row for row in table.rows if not row[0].startswith(("test", "val"))]
        assert len(rows) > 3
        assert not [row for row in rows if any("better" in cell or "worse" in cell for cell in row)]
    terms = Elements(page(findings)).terms
    for name in ("focus index", "map on object"):
        assert "igher is better" not in terms[name]
        assert "ower is better" not in terms[name]
    assert not [answer for answer in answers(findings) if "focus" in answer.sentence and "better" in answer.sentence]


def test_every_table_of_the_page_has_its_rows_and_headings(findings: Findings) -> None:
    tables = Elements(page(findings)).tables
    rows = summary_rows(findings)
    assert tables["Mean over seeds ± standard deviation"] == [list(rows[0]), *(list(row.values()) for row in rows)]
    shown = tables["cutout against baseline"]
    expected = difference_table(findings, findings.pairs[0])
    assert shown == [list(expected.headings), *map(list, expected.rows)]
    assert len(tables["Every run of this comparison"]) == 1 + len(findings.members)


@pytest.mark.slow
def test_names_are_text_wherever_they_stand() -> None:
    evil = toy_findings((EVIL, "b</table>"), dataset=replace(toy_dataset(), name="<b>toy</b>"))
    text = page(evil)
    assert text.count("<script>") == text.count("</script>") == 1
    assert "alert('x')" not in text
    assert "b</table>" not in text
    assert "<b>toy" not in text
    found = Elements(text)
    assert [tag for tag, _ in found.tags].count("table") == len(re.findall("<table", text))
    assert f"b</table> against {EVIL}" in found.tables
    blink = next(attributes for tag, attributes in found.tags if attributes.get("id") == "blink")
    assert (blink["data-before"], blink["data-after"]) == (EVIL, "b</table>")


def test_it_can_be_read_without_seeing_it(findings: Findings) -> None:
    tags = Elements(page(findings)).tags
    assert ("html", {"lang": "en"}) in tags
    levels = [int(tag[1]) for tag, _ in tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(below - above <= 1 for above, below in pairwise(levels))
    assert all(len(attributes["alt"] or "") > 10 for tag, attributes in tags if tag == "img")
    assert all(attributes.get("scope") in ("row", "col") for tag, attributes in tags if tag == "th")
    boxes = [attributes for tag, attributes in tags if attributes.get("class") == "scroll"]
    assert boxes
    assert all(box["tabindex"] == "0" and box["role"] == "region" and box["aria-label"] for box in boxes)


def luminance(colour: str) -> float:
    """Relative luminance (WCAG 2.2)."""
    digits = colour[1:] if len(colour) == 7 else "".join(digit * 2 for digit in colour[1:])
    parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_text_stands_out_from_what_is_behind_it(scheme: int) -> None:
    style = Path(report.__file__).with_name("page.css").read_text(encoding="utf-8")
    colours = dict(re.findall(r"--(\w+): (#\w+)", re.findall(r":root {(.*?)}", style)[scheme]))
    for front in ("ink", "quiet", "accent"):
        for back in ("ground", "panel"):
            light, dark = sorted((luminance(colours[front]), luminance(colours[back])), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (front, back)


def test_pictures_are_in_the_page_pixel_for_pixel() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (7, 5, 3), np.uint8)
    encoded = data_uri(picture).removeprefix("data:image/png;base64,")
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded)))), picture)


def test_each_picture_is_shown_once_and_the_last_layer_not_again(findings: Findings) -> None:
    text, given = page(findings), pictures(findings)
    for path, picture in given.items():
        expected = 0 if path == "side_by_side/layer3.png" else 1
        assert text.count(data_uri(picture)) == expected, path


@pytest.mark.slow
def test_what_is_not_there_is_left_out() -> None:
    alone = toy_findings(("a", "b", "c"), seeds=1)
    text = report.html("t", alone, summary_rows(alone), {}, ADDRESS, "", command=COMMAND, chosen="")
    assert "<img" not in text
    assert 'id="blink"' not in text
    assert "What changed" not in text
    assert "no statement about the method" in text


def without_masks() -> Dataset:
    toys = toy_dataset()
    return replace(toys, splits={name: replace(split, masks=None) for name, split in toys.splits.items()})


@pytest.mark.slow
def test_without_masks_there_is_no_word_of_objects() -> None:
    bare = toy_findings(dataset=without_masks())
    assert list(look_table(bare, LAST).headings) == [
        "variant, images",
        *(LOOKS[name].heading for name in ("coverage", "spread", "entropy", "border", "dead")),
    ]
    assert all("map" not in row[0] for row in look_table(bare, LAST).rows)
    text = page(bare)
    assert "on object" not in text
    assert "covers more of the image" in text


def test_differences_are_those_of_the_seeds(findings: Findings) -> None:
    table = difference_table(findings, findings.pairs[0])
    found = findings.difference(TEST_ACCURACY, findings.pairs[0])
    assert found is not None
    name = "test accuracy, points"
    assert [row[0] for row in table.rows][:2] == [name, "focus index on the images both classify correctly"]
    assert column(table, "difference")[name] == f"{100 * found.mean:+z.2f}"
    assert found.low is not None
    assert found.high is not None
    assert column(table, "95 % interval")[name] == f"{100 * found.low:+z.2f} to {100 * found.high:+z.2f}"
    adjusted = column(table, "p (Holm)")
    assert [value != DASH for value in adjusted.values()] == [True, True] + [False] * (len(adjusted) - 2)


def test_one_seed_has_differences_and_no_interval() -> None:
    alone = toy_findings(seeds=1)
    table = difference_table(alone, alone.pairs[0])
    assert set(column(table, "95 % interval").values()) == {DASH}
    assert set(column(table, "p").values()) == {DASH}
    assert DASH not in column(table, "difference").values()


def test_networks_and_classes_are_counted_from_the_predictions(findings: Findings) -> None:
    table = network_table(findings, findings.pairs[0])
    after, before = (findings.right[name][1] for name in ("cutout", "baseline"))
    expected = mcnemar(after, before)
    assert table.rows[1][:4] == ["1", "30", str(expected.only_variant), str(expected.only_baseline)]
    classes = class_table(findings.classes, findings.pairs[0])
    labels = findings.dataset.splits["test"].labels
    assert column(classes, "cutout")["green"] == f"{findings.right['cutout'][:, labels == 1].mean():.2%}"


def test_of_very_many_classes_the_report_has_those_that_differ_most(
    findings: Findings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(charts, "MOST_CLASSES", 2)
    table = class_table(findings.classes, findings.pairs[0])
    found = findings.classes.set_index("class")["difference"]
    assert sorted(found[[row[0] for row in table.rows]]) == [found.min(), found.max()]
    assert table.caption.endswith(f"; 2 of {len(found)} classes, those with the largest differences")


def test_where_it_looks_is_the_mean_over_images_then_seeds(findings: Findings) -> None:
    table = look_table(findings, LAST)
    energy = findings.looks["cutout"][LAST]["energy"]
    means = np.nanmean(energy, axis=1)
    assert column(table, "map on object")["cutout, all"] == f"{means.mean():.1%} ± {means.std(ddof=1):.1%}"
    assert column(table, "lift")["uniform map"] == "1.00"
    assert column(table, "object covered")["uniform map"] == "100.0%"
    assert column(table, "spread")["centred blob"] == DASH
    assert [row[0] for row in look_table(findings, "stem").rows][-1] == "cutout, wrong"  # blind maps at the last only


def test_blind_maps_are_scored_at_each_resolution_that_there_is(uneven: Findings) -> None:
    table = look_table(uneven, LAST)
    blind = ["uniform map", "random map", "centred blob"]
    assert [row[0] for row in table.rows[6:]] == [f"{name}, {n} × {n} cells" for n in (4, 8) for name in blind]
    split, measured = uneven.dataset.splits["test"], contents.maps(uneven.members[0].run).sample_indices
    for side in (4, 8):
        expected = measuring.references(split.masks[measured], (side, side))
        assert column(table, "focus index")[f"random map, {side} × {side} cells"] == (
            f"{expected.loc['random', 'focus']:z.3f}"
        )
    assert report.facts(uneven)["Last layer"] == "baseline: layer3, 4 × 4 cells; cutout: layer2, 8 × 8 cells."


@pytest.mark.slow
def test_maps_of_two_resolutions_are_compared_by_the_focus_index_alone_and_it_says_so(
    findings: Findings, uneven: Findings
) -> None:
    rows = look_difference_table(uneven, uneven.pairs[0]).rows
    assert {row[0] for row in rows} == {"focus index"}
    shown = [row[0] for row in difference_table(uneven, uneven.pairs[0]).rows]
    assert not [name for name in shown if "map" in name or "covered" in name]
    assert looks_text(uneven) == ""
    why = "The last layers of cutout (8 × 8 cells) and baseline (4 × 4 cells) have different resolutions."
    assert page(uneven).count(why) == 1
    assert "different resolutions" not in page(findings)


def test_a_table_without_rows_is_left_out() -> None:
    tables = Elements(page(of_two_resolutions(without_masks()))).tables
    assert "cutout against baseline" in tables
    assert "cutout against baseline, last layer" not in tables


def test_look_differences_name_the_images_they_are_over(findings: Findings) -> None:
    rows = look_difference_table(findings, findings.pairs[0]).rows
    both = (findings.looks["cutout"][LAST]["right"] > 0) & (findings.looks["baseline"][LAST]["right"] > 0)
    live = np.isfinite(findings.looks["cutout"][LAST]["energy"])
    assert [row[1] for row in rows if row[0] == "map on object, points"] == [
        f"all ({int(live.sum(1).mean())})",
        f"both right ({int((both & live).sum(1).mean())})",
    ]


def test_text_alternatives_count_the_images(findings: Findings) -> None:
    difference = np.nanmean(
        findings.looks["cutout"][LAST]["energy"] - findings.looks["baseline"][LAST]["energy"], axis=0
    )[np.isfinite(findings.looks["cutout"][LAST]["energy"][0])]
    assert f"On {int((difference > 0).sum())} of {len(difference)} test images" in looks_text(findings)
    counts = [int(n) for n in re.findall(r"\d+", changes_text(findings, "cutout"))]
    after, before = findings.right["cutout"][0], findings.right["baseline"][0]
    assert counts == [30, (after & ~before).sum(), (before & ~after).sum(), (~after & ~before).sum()]


def test_the_maps_laid_over_each_other_are_those_of_the_first_seeds(findings: Findings) -> None:
    shown = blinks(findings)
    assert [label for label, _, _ in shown[:3]] == ["red", "green", "blue"]
    maps = contents.maps(findings.of("cutout")[0].run).maps[-1]
    drawn = overlay(findings.probes.images[2], relative_to_mean(torch.from_numpy(maps[2:3]))[0].numpy())
    assert shown[2][2].source == data_uri(drawn)
    assert shown[2][1].alt.startswith("baseline: ")
    assert "no positive evidence" in shown[1][2].alt  # the toys' dead map
    assert blinks(toy_findings(("a", "b", "c"))) == []


def test_the_settings_that_differ_are_named(findings: Findings) -> None:
    assert report.settings_table(findings).rows == [["cutout", "false", "true"]]


def test_every_run_is_linked_to_its_page(findings: Findings) -> None:
    links = [attributes["href"] for tag, attributes in Elements(page(findings)).tags if tag == "a"]
    runs = [f"http://127.0.0.1:5000/#/experiments/7/runs/{member.run.id}" for member in findings.members]
    assert links == [ADDRESS, *runs]


@pytest.mark.parametrize(
    ("value", "share", "text"),
    [
        (0.0123, True, "+1.23"),
        (-0.0123, False, "-0.012"),
        (0.00002, True, "+0.002"),
        (0.00002, False, "+0.00002"),
        (0.0, True, "+0.00"),
        (-1e-12, True, "+0.00"),
        (math.nan, True, DASH),
        (None, False, DASH),
    ],
)
def test_differences_have_as_many_digits_as_they_need(value: float | None, share: bool, text: str) -> None:
    assert signed(value, share=share) == text


def test_what_is_not_known_is_a_dash() -> None:
    assert interval(None, None, share=True) == interval(math.nan, math.nan, share=True) == DASH
    assert interval(-0.01, 0.02, share=True) == "-1.00 to +2.00"
    assert [p_cell(p) for p in (None, math.nan, 0.0004, 0.0238)] == [DASH, DASH, "< 0.001", "0.024"]


def test_a_note_in_mlflow_shows_names_as_they_are() -> None:
    assert as_markdown(r"a_b *x* <b> [1] `c`\d 90 ± 1 %") == r"a\_b \*x\* &lt;b> \[1\] \`c\`\\d 90 ± 1 %"
