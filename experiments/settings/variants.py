"""Variants: each is a name with the options that make it different from the others."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..errors import did_you_mean
from .base import SettingsError

VARIANTS: dict[str, dict[str, object]] = {"baseline": {"cutout": False}, "cutout": {"cutout": True}}
OWN = "own setting"
"""Name of the baseline of a study, which is the training that you would do without the study."""


@dataclass(frozen=True)
class Variant:
    """A name and the options that make it different from the others."""

    name: str
    options: Mapping[str, object]


NAME_PATTERN = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,99}")  # MLflow accepts it as part of a metric's name


def parse_variants(text: str) -> list[Variant]:
    """The variants named in `text`. The others are compared with the first one.

    `"baseline,cutout"` or `"baseline; cutout; mixed: cutout=true cutout_holes=2"`.

    Raises:
        SettingsError: unknown or repeated names, malformed options, fewer than two or more than ten variants.
    """
    variants = named_options(text, "variants")
    if not 2 <= len(variants) <= 10:
        names = ", ".join(variant.name for variant in variants) or "none"
        hint = _hint(text) if len(variants) == 1 else ""
        raise SettingsError([f"variants: a comparison needs two to ten variants, not {len(variants)} ({names}){hint}"])
    return variants


def named_options(text: str, option: str) -> list[Variant]:
    """The variants in `text`, which is the value of `option`. A name without options takes those of `VARIANTS`.

    Raises:
        SettingsError: unknown or repeated names, malformed options.
    """
    separator = ";" if ";" in text or ":" in text else ","
    variants, problems = [], []
    for part in filter(None, (part.strip() for part in text.split(separator))):
        name, colon, options = (piece.strip() for piece in part.partition(":"))
        if not NAME_PATTERN.fullmatch(name):
            allowed = "use up to 100 letters, digits, _ . -, then a colon and the options"
            problems.append(f"{option}: {name!r} is not a name; {allowed}{_hint(name)}")
        elif colon:
            own, mistakes = _options_in(options)
            problems += [f"{option}: {name}: {mistake}" for mistake in mistakes]
            variants.append(Variant(name, own))
        elif name in VARIANTS:
            variants.append(Variant(name, VARIANTS[name]))
        else:
            hint = did_you_mean(name, list(VARIANTS))
            problems.append(f"{option}: unknown variant {name!r}; known variants: {', '.join(VARIANTS)}{hint}")
    problems += [f"{option}: {problem}" for problem in alike([variant.name for variant in variants])]
    if problems:
        raise SettingsError(problems)
    return variants


def _options_in(text: str) -> tuple[dict[str, str], list[str]]:
    """The options in `"lr=0.1 epochs=3"`, and what is wrong with the text."""
    words = text.split()
    mistakes = [f"{word!r} is not option=value{_hint(text)}" for word in words if "=" not in word]
    pairs = [word.split("=", 1) for word in words if "=" in word]
    names = [name for name, _ in pairs]
    mistakes += [f"{name} is given twice; give it once" for name in sorted({n for n in names if names.count(n) > 1})]
    return dict(pairs), mistakes


def _hint(text: str) -> str:
    """What to do if `text` contains a comma where variants with options are separated."""
    return "; separate variants that have options with ';'" if "," in text else ""


def alike(names: Sequence[str]) -> list[str]:
    """One problem for each two names that are the same, or the same in small letters: as files they may be one."""
    problems = []
    for place, name in enumerate(names):
        if (twin := next((other for other in names[:place] if other.lower() == name.lower()), "")) == name:
            problems.append(f"{name!r} is named twice")
        elif twin:
            problems.append(f"{twin!r} and {name!r} differ only in case, and some file systems take them for one name")
    return list(dict.fromkeys(problems))
