"""The comparison as one self-contained HTML page, with pictures, style and a small script."""

import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

from cam_core import SCALE_MAX

from ...explaining import measuring
from ...explaining.probes import SPLIT
from ...pictures.style import Pixels, method_name
from ...runs import contents
from ...tracking.ui import ui_address
from ..answers import Answer, answers
from ..findings import Findings, Member
from ..measures import TEST_ACCURACY
from .figures import blinks, figure_groups
from .tables import DASH, TextTable, grid_text, measured, tables, value_text

_TURNS = {"R", "AL", "AN", "RLE", "RLO", "RLI", "LRE", "LRO", "LRI", "FSI", "PDF", "PDI"}
_ISOLATE, _END = "\u2068", "\u2069"


def html(
    name: str,
    findings: Findings,
    rows: Sequence[Mapping[str, str]],
    pictures: Mapping[str, Pixels],
    address: str,
    hint: str,
    *,
    command: str,
    chosen: str,
) -> str:
    """The whole page, headed `name`; works from disk, without JavaScript, and prints.

    `rows` are those of the summary: heading -> text. Those of the following `pictures` that exist are shown:
    `side_by_side.png`, `side_by_side/<layer>.png`, `changed/<variant>.png`, `over_seeds.png`, `mean_maps.png` and in
    `charts/`: `forest.png`, `seeds.png`, `curves.png`, `reliability.png`, `classes*.png`, `agreement.png`. `address`
    is that of the saved view in MLflow, `hint` tells what to start before it opens; `command` repeats the comparison.
    `chosen` is the option that chose finished runs by hand, empty if the settings alone decide which runs these are.
    """
    folder = Path(__file__).parent
    names = isolating([*findings.variants, *findings.dataset.classes])
    page = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, finalize=names).from_string(
        (folder / "page.html.j2").read_text(encoding="utf-8")
    )
    found = answers(findings)
    return page.render(
        title=name,
        # Text of this project, not of a user.
        style=Markup((folder / "page.css").read_text(encoding="utf-8")),
        script=Markup((folder / "page.js").read_text(encoding="utf-8")),
        variants=findings.variants,
        answers=by_question(answer for answer in found if answer.part == "verdict"),
        limits=by_question(answer for answer in found if answer.part == "limit"),
        explored=by_question(answer for answer in found if answer.part == "detail"),
        scope=f"{scope(findings)} {selection(chosen)}",
        address=address,
        hint=hint,
        command=escape(command),  # to copy, so without a sign that nobody sees
        runs=[run_row(member) for member in findings.members],
        facts=facts(findings) | {"Selection": selection(chosen)},
        settings=settings_table(findings),
        **figure_groups(findings, pictures),
        blinks=blinks(findings),
        first_seeds=" and ".join(dict.fromkeys(str(findings.of(name)[0].seed) for name in findings.variants)),
        **tables(findings, rows),
    )


def isolating(names: Iterable[str]) -> Callable[[object], object]:
    """Puts signs around names with text from right to left, so that the order of the text around them stays."""
    turning = [name for name in names if any(unicodedata.bidirectional(sign) in _TURNS for sign in name)]

    def isolated(value: object) -> object:
        if isinstance(value, str) and not isinstance(value, Markup):
            for name in turning:
                value = value.replace(name, f"{_ISOLATE}{name}{_END}")
        return value

    return isolated


def by_question(answers: Iterable[Answer]) -> dict[str, list[str]]:
    """The sentences of all pairs by question."""
    found: dict[str, list[str]] = {}
    for answer in answers:
        found.setdefault(answer.question, []).append(answer.sentence)
    return found


def scope(findings: Findings) -> str:
    """One line: variants, data set, seeds."""
    first, *others = findings.variants
    seeds = {len(findings.of(name)) for name in findings.variants}
    dataset = findings.dataset
    return (
        f"{', '.join(others)} against {first}. Data set {dataset.name}, {len(dataset.splits[SPLIT]):,} test images, "
        f"{' or '.join(map(str, sorted(seeds)))} seed{'' if seeds == {1} else 's'} per variant."
    )


def selection(chosen: str) -> str:
    """Whether test results may have decided which networks are compared."""
    if not chosen:
        return "Nothing was selected on the test images: no epoch, seed or layer."
    if chosen.startswith("study="):
        return "The study chose the winner on validation images; these runs have fresh seeds, used for no selection."
    return f"The runs were chosen by hand ({chosen}): if test results decided the choice, the comparison is biased."


def settings_table(findings: Findings) -> TextTable:
    """The resolved settings in which the variants differ."""
    settings = {name: contents.config(run).resolved for name, run in findings.first_seed.items()}
    rows = [
        [key, *(own.get(key, DASH) for own in settings.values())]
        for key in sorted({key for own in settings.values() for key in own} - {"seed"})
        if len({own.get(key) for own in settings.values()}) > 1
    ]
    return TextTable("Settings in which the variants differ", ("setting", *settings), rows)


def facts(findings: Findings) -> dict[str, str]:
    """What a reader needs to trust or repeat the numbers."""
    dataset, probes = findings.dataset, findings.probes
    sizes = ", ".join(f"{len(split):,} {name}" for name, split in dataset.splits.items())
    masks = "the data set has object masks" if probes.masks is not None else "the data set has no object masks"
    methods = dict.fromkeys(contents.config(member.run).method for member in findings.members)
    return {
        "Data set": f"{dataset.name} (digest {dataset.digest}; {dataset.source}): {sizes} images; {masks}.",
        "Trained": _shared(findings, ("recipe", "model", "epochs")),
        "Seeds": "; ".join(
            f"{name}: {', '.join(str(member.seed) for member in findings.of(name))}" for name in findings.variants
        ),
        "Measured images": measured_images(findings),
        "Images in the sheets": f"{len(probes.indices)} test images, chosen by class and position before any training.",
        "Class explained": "The true class, for right and for wrong predictions.",
        "Maps": f"{', '.join(map(method_name, methods))}; enlarged to the image (bilinear).",
        "Last layer": _last_layers(findings),
        "Colour scale": f"The map divided by its mean, from 0 to {SCALE_MAX:g}; 1 = no preference. One scale for all.",
    }


def measured_images(findings: Findings) -> str:
    """How many test images are measured, and how many of them with further forward passes."""
    every = f"Maps: {measured(findings):,} of the {len(findings.dataset.splits[SPLIT]):,} test images, evenly spread."
    asked = [member.run for member in findings.members if "faith/deletion_margin" in member.run.metrics]
    if not asked:
        return every
    few = len(contents.faithfulness(asked[0]))
    return (
        f"{every} Deletion margin and flip consistency: {few:,} of those, also evenly spread, because both "
        f"need further forward passes of the network; pixels are deleted in {measuring.STEPS} steps."
    )


def _last_layers(findings: Findings) -> str:
    """The deepest layer of each variant and its resolution, written once if all are the same."""
    layers = [
        f"{layer}, {grid_text(findings.grids[name])}"
        for name, layer in zip(findings.variants, findings.last_layers, strict=True)
    ]
    if len(set(layers)) == 1:
        return f"{layers[0]}."
    return f"{'; '.join(f'{name}: {layer}' for name, layer in zip(findings.variants, layers, strict=True))}."


def _shared(findings: Findings, settings: Iterable[str]) -> str:
    """The settings with the values of all runs."""
    parts = []
    for setting in settings:
        values = dict.fromkeys(contents.config(member.run).resolved[setting] for member in findings.members)
        parts.append(f"{setting} {' or '.join(values)}")
    return ", ".join(parts)


def run_row(member: Member) -> dict[str, str]:
    """A row of the list of runs."""
    run = member.run
    return {
        "variant": member.variant,
        "seed": str(member.seed),
        "accuracy": value_text(TEST_ACCURACY, TEST_ACCURACY.of(run)),
        "trained": "earlier, reused" if member.reused else "for this comparison",
        "id": run.id,
        "address": ui_address(f"#/experiments/{run.experiment_id}/runs/{run.id}"),
    }
