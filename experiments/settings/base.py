"""Strict settings: values come from the recipe, the default or the command line; all problems are reported at once."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, PrivateAttr, ValidationError
from pydantic_core import ErrorDetails

from ..errors import CannotStart, did_you_mean
from .option_texts import allowed_text
from .parts import ENTRY_POINTS, load_part
from .recipes import RECIPES, RecipeError, find, with_steps_for

AUTO = "auto"
NONE = "none"
S = TypeVar("S", bound="Settings")  # beartype, which checks types under pytest, does not take typing.Self here


class SettingsError(CannotStart):
    """All problems found in the settings, one line each."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__(*problems)

    def __reduce__(self) -> "tuple[type[SettingsError], tuple[list[str]]]":
        return type(self), (list(self.problems),)  # how it travels between processes


@dataclass(frozen=True)
class _ByRecipe:
    """Marks an option whose value comes from the recipe unless it is given by hand."""


BY_RECIPE = _ByRecipe()


def read_by(parse: Callable[[str], object]) -> AfterValidator:
    """A validator that returns a text unchanged if `parse` accepts it."""

    def checked(text: str) -> str:
        parse(text)
        return text

    return AfterValidator(checked)


class Settings(BaseModel):
    """The options of one entry point. They are read-only, and an unknown option is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    command: ClassVar[str]
    former: ClassVar[Mapping[str, str]] = {}
    """Former spellings of options, which still work."""

    _given: dict[str, str] = PrivateAttr(default_factory=dict)

    @property
    def given(self) -> Mapping[str, str]:
        """The options given by hand, spelled as on the command line, except those given with their default value."""
        return self._given

    def __eq__(self, other: object) -> bool:
        """Compares the options, not how they were given."""
        return type(self) is type(other) and self.__dict__ == other.__dict__

    @classmethod
    def of(cls: type[S], **given: object) -> S:
        """Settings made from `given`. The recipe or the default decides options that are not given or `auto`.

        Raises:
            SettingsError: lists all problems, one line each.
        """
        twice = [old for old, name in cls.former.items() if given.keys() >= {old, name}]
        given = {cls.former.get(name, name): value for name, value in given.items()}
        known = {name: value for name, value in given.items() if name in cls.model_fields}
        problems = [cls._unknown(name) for name in given if name not in known]
        problems += [
            f"{old}: is the former spelling of {cls.former[old]}, which is given too; leave it out" for old in twice
        ]
        for name in [name for name, value in known.items() if not _is_text(value)]:
            problems.append(f"{name}={known.pop(name)}: contains a NUL character, or bytes that are not UTF-8 text")
        values = cls._recipe_values(known) | {k: v for k, v in known.items() if not cls._left_to_recipe(k, v)}
        try:
            settings = cls(**values)
        except ValidationError as error:
            sentences = [_sentence(cls, detail) for detail in error.errors()]
            raise SettingsError([*problems, *dict.fromkeys(sentences)]) from None
        if problems:
            raise SettingsError(problems)
        became = settings.as_params()
        settings._given = {
            name: text
            for name, value in known.items()
            if (text := spelled(value)) != AUTO and became[name] != cls.default_text(name)
        }
        return settings

    @classmethod
    def default_text(cls, name: str) -> str:
        """The default value, spelled as on the command line and in `MLproject`."""
        field = cls.model_fields[name]
        return AUTO if BY_RECIPE in field.metadata else spelled(field.default)

    def as_params(self) -> dict[str, str]:
        """Every option with its value, spelled as on the command line."""
        return {name: spelled(getattr(self, name)) for name in type(self).model_fields}

    def without_effect(self) -> dict[str, str]:
        """One line for each option given by hand that has no effect because of the other options."""
        return {}

    @classmethod
    def shown(cls, name: str, value: object) -> str:
        """The value of an option as it appears in messages."""
        return str(value)

    @classmethod
    def _unknown(cls, name: str) -> str:
        """The error line for an option that this entry point does not have."""
        others = [load_part(ENTRY_POINTS, entry) for entry in ENTRY_POINTS]
        owners = [f"'{other.command}'" for other in others if name in other.model_fields]
        hint = f"; it is an option of {' and '.join(owners)}" if owners else did_you_mean(name, list(cls.model_fields))
        return f"unknown option {name!r}{hint}"

    @classmethod
    def _left_to_recipe(cls, name: str, value: object) -> bool:
        return value == AUTO and BY_RECIPE in cls.model_fields[name].metadata

    @classmethod
    def _recipe_values(cls, given: Mapping[str, object]) -> dict[str, object]:
        try:
            values = find(str(given.get("recipe", cls.model_fields["recipe"].default))).values
        except RecipeError:
            # The field `recipe` reports this. The other options are still checked, with the values of `fast`.
            values = RECIPES["fast"].values
        return (
            dict(values) if given.get("lr_steps", AUTO) != AUTO else dict(with_steps_for(given.get("epochs"), values))
        )


def _is_text(value: object) -> bool:
    """Whether files, databases and the system take the value, if it is a text."""
    try:
        return not isinstance(value, str) or b"\0" not in value.encode()
    except UnicodeEncodeError:
        return False


def spelled(value: object) -> str:
    """The value of an option as it is typed on the command line."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _sentence(cls: type[Settings], detail: ErrorDetails) -> str:
    """One line: the option, the value given, what is allowed, and a similar allowed word if there is one."""
    name = str(detail["loc"][0]) if detail["loc"] else "settings"
    value = cls.shown(name, detail["input"])
    if detail["type"] == "string_too_short":
        return f"{name}: is empty; give a value, or leave {name} out"
    if detail["type"] == "value_error":
        error = str(detail["ctx"]["error"])
        return f"{name}={value}: {error}" if detail["loc"] else error
    field = cls.model_fields[name]
    choices = [kind for kind in get_args(field.annotation) if isinstance(kind, str)]
    hint = did_you_mean(value, choices) if isinstance(detail["input"], str) else ""
    allowed = allowed_text(field) or detail["msg"]
    return f"{name}={value}: must be {allowed}{hint}"
