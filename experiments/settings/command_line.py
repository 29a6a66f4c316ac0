"""The command line of every entry point, made from its settings."""

import argparse
import inspect
import shutil
import sys
import textwrap
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches
from typing import NoReturn

from ..errors import visible
from ..system.secrets import hidden
from .base import BY_RECIPE, S, Settings, SettingsError, spelled
from .option_texts import allowed_text
from .recipes import RECIPES
from .train import TrainSettings


def read(cls: type[S], argv: Sequence[str] | None = None) -> S:
    """The settings given on the command line. If there are problems, prints one line for each and exits with code 2."""
    words = sys.argv[1:] if argv is None else list(argv)
    if {"-h", "--help"} & set(words):
        _parser(cls).print_help()
        raise SystemExit(0)
    options, problems = options_in(words, {*cls.model_fields, *cls.former})
    try:
        settings = cls.of(**options)
        problems += settings.without_effect().values()
    except SettingsError as error:
        problems += error.problems
    if problems:
        fail(cls.command, problems)
    for old in cls.former.keys() & options.keys():
        print(f"{cls.command}: --{old} is now called --{cls.former[old]}; the old name still works", file=sys.stderr)
    return settings


def options_in(words: Sequence[str], known: Collection[str]) -> tuple[dict[str, str], list[str]]:
    """All `--name value` and `--name=value` of the command line, and an error line for each word of no option."""
    options: dict[str, str] = {}
    problems = []
    rest = deque(words)
    while rest:
        word = rest.popleft()
        name, equals, value = word.removeprefix("--").partition("=")
        if word.startswith("--") and name in options:
            problems.append(f"--{name}: is given twice; give it once")
        if not word.startswith("--") or not name:
            # The next word is probably the value of the option with the wrong dash.
            follows = word[:1] in _DASHES and not equals and rest and rest[0][:1] not in _DASHES
            problems.append(_stray(f"{word} {rest.popleft()}" if follows else word, known))
        elif equals:
            options[name] = value
        elif not rest or (rest[0].startswith("--") and rest[0][2:].partition("=")[0] in known):
            empty = f"--{name}: has no value; give one, as in --{name} VALUE"
            problems.append(empty if name in known else _stray(word, known))
        else:
            options[name] = rest.popleft()
    return options, problems


def words_of(options: Mapping[str, object]) -> list[str]:
    """The options as they are typed: what `options_in` reads back."""
    return [word for name, value in options.items() for word in (f"--{name}", str(value))]


def _stray(word: str, known: Collection[str]) -> str:
    """The error line for a word that belongs to no option, with the spelling that was probably meant."""
    name, separator, value = word.removeprefix("-P ").lstrip(_DASHES).replace(" ", "=", 1).partition("=")
    near = name if name in known else next(iter(get_close_matches(name, known, n=1)), "")
    meant = f"--{near} {value}".rstrip() if near else ""
    if separator or word[:1] in _DASHES:
        cure = f"did you mean {meant}?" if meant else "write options as --name value"
    else:
        cure = "write options as --name value, and put a value with spaces in quotes"
    return f"{word!r}: this word belongs to no option; {cure}"


_DASHES = "-\u2010\u2011\u2012\u2013\u2014\u2015\u2212"  # word processors replace two hyphens by another dash


def typed(cls: type[Settings], words: Sequence[str]) -> dict[str, str]:
    """The options in `words`, values not yet checked. Prints words that belong to no option and exits with code 2."""
    options, problems = options_in(words, cls.model_fields.keys())
    if problems:
        fail(cls.command, problems)
    return options


def fail(command: str, problems: Sequence[str]) -> NoReturn:
    """Prints the problems, one line each, and exits with code 2."""
    for problem in problems:
        print(f"{command}: {hidden(visible(problem))}", file=sys.stderr)
    print(f"{command}: nothing was started; '{command} --help' lists every option", file=sys.stderr)
    raise SystemExit(2)


# The first option of each group in the help text.
_GROUPS = {
    "dataset": "data",
    "model": "network",
    "epochs": "optimisation",
    "augmentation": "augmentation of the training images",
    "cam_method": "pictures",
    "device": "machine",
}


def _parser(cls: type[Settings]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=cls.command,
        usage="%(prog)s [--option value ...]",
        description=inspect.cleandoc(cls.__doc__ or ""),
        allow_abbrev=False,
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=22, width=_width()),
        epilog="If the default of an option names recipes, auto means: the recipe decides.\n\nrecipes:\n"
        + _recipes_help(),
    )
    for title, names in groups(cls).items():
        group = parser.add_argument_group(title)
        for name in names:
            group.add_argument(f"--{name}", metavar="", help=_help(cls, name).replace("%", "%%"))
    return parser


def groups(cls: type[Settings]) -> dict[str, list[str]]:
    """The options by heading of the help text. Options that a training does not have come first."""
    own = [name for name in cls.model_fields if name not in TrainSettings.model_fields]
    found: dict[str, list[str]] = {(title := "what to run"): []}
    for name in [*own, *TrainSettings.model_fields]:
        title = _GROUPS.get(name, title)
        found.setdefault(title, []).append(name)
    return found


def _width() -> int:
    """The width of the help text in columns: that of the terminal, 40 to 110."""
    return min(max(shutil.get_terminal_size().columns - 2, 40), 110)


def _recipes_help() -> str:
    lines = [
        textwrap.fill(
            f"{name:<18} {recipe.summary}; source: {recipe.source}; reported: {recipe.reported}; "
            f"here: {recipe.measured}",
            _width(),
            initial_indent="  ",
            subsequent_indent=" " * 21,
        )
        for name, recipe in RECIPES.items()
    ]
    return "\n".join(lines)


def _help(cls: type[Settings], name: str) -> str:
    return f"{meaning(cls, name)} (default: {_default_help(cls, name)})"


def meaning(cls: type[Settings], name: str) -> str:
    """The description of an option and its allowed values."""
    field = cls.model_fields[name]
    return "; ".join(filter(None, [field.description, allowed_text(field)]))


def _default_help(cls: type[Settings], name: str) -> str:
    if BY_RECIPE not in cls.model_fields[name].metadata:
        return cls.default_text(name)
    recipes: dict[str, list[str]] = {}
    for recipe in RECIPES:
        recipes.setdefault(spelled(RECIPES[recipe].values[name]), []).append(recipe)
    if len(recipes) == 1:
        return f"{next(iter(recipes))} in every recipe"
    others = max(recipes.values(), key=len)
    words = {value: "other recipes" if names is others else ", ".join(names) for value, names in recipes.items()}
    return "; ".join(f"{names}: {value}" for value, names in sorted(words.items(), key=lambda item: "oth" in item[1]))
