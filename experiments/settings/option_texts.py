"""The allowed values of an option in words, made from its type."""

from collections.abc import Iterable, Iterator
from typing import Any, get_args

import annotated_types
from pydantic.fields import FieldInfo

from .parts import OneOf


def allowed_text(field: FieldInfo) -> str:
    """The allowed values of a field in words: choices or a range; empty if any text is allowed."""
    for marker in field.metadata:
        if isinstance(marker, OneOf):
            return "one of " + ", ".join(marker.names + marker.doors)
    kinds = list(_flat(field.annotation))
    words = [kind for kind in kinds if isinstance(kind, str)]
    if len(words) == len(kinds):
        return "one of " + ", ".join(words)
    if bool in kinds:
        return "true or false"
    number = "a whole number" if int in kinds else "a number" if float in kinds else ""
    text = ", ".join(filter(None, (number, *_bounds([*field.metadata, *kinds]))))
    return ", or ".join((text, *words)) if text else ""


def _flat(annotation: object) -> Iterator[object]:
    """The types, literal values and constraints that an annotation is made of."""
    parts = get_args(annotation)
    if not parts:
        yield from annotation.metadata if isinstance(annotation, FieldInfo) else (annotation,)
    for part in parts:
        yield from _flat(part)


def _bounds(constraints: Iterable[object]) -> Iterator[str]:
    for kind, phrase in _PHRASES.items():
        for constraint in constraints:
            if isinstance(constraint, kind):
                yield phrase.format(_number(getattr(constraint, kind.__name__.lower())))


_PHRASES = {
    annotated_types.Ge: "{} or more",
    annotated_types.Gt: "above {}",
    annotated_types.Le: "up to {}",
    annotated_types.Lt: "below {}",
}


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
