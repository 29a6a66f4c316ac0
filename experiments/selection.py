"""Which finished runs are compared: chosen by id or by filter, grouped into variants, refused where they do not fit.

Every refusal is one line of a SettingsError that names the option, the runs and a way out.
"""

import re
import shlex
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from textwrap import shorten
from typing import Any

from experiments import tracking, variant
from experiments.config import (
    NONE,
    OWN,
    SHARED,
    CompareSettings,
    SettingsError,
    Training,
    TrainSettings,
    parse_runs,
)
from experiments.data import Dataset
from experiments.findings import Member
from experiments.progress import Reporter
from experiments.recipes import PLAIN, RECIPES
from experiments.store import TrackingError
from experiments.tracking import FinishedRun
from experiments.variant import Prepared

LONGEST_NAME = 40
LISTED = 3  # runs named in one message

# Options that two runs of one variant may differ in.
_NO_VARIANT = {
    *SHARED,
    *("recipe", "gallery_size", "cam_layers", "track_test"),
    *("device", "channels_last", "compile", "threads", "checkpoint", "resume"),
}


@dataclass(frozen=True)
class Trained:
    """A finished training and what its `config.json` says of it."""

    run: FinishedRun
    config: Mapping[str, Any]
    settings: TrainSettings

    @property
    def label(self) -> str:
        """How messages call it."""
        return f"{self.run.id[:8]} ({self.run.name})"

    @cached_property
    def options(self) -> dict[str, str]:
        """What makes it this variant: every option with an effect on the network, but for the data and the seed."""
        left_out = self.settings.idle().keys() | _NO_VARIANT
        return {name: value for name, value in self.settings.as_params().items() if name not in left_out}

    @property
    def identity(self) -> Hashable:
        """The same for all runs of one variant."""
        return tuple(self.options.items())

    @property
    def unusual(self) -> tuple[bool, int]:
        """Sorts the run without Cutout, nearest to its recipe, to the front."""
        usual = TrainSettings.of(recipe=self.settings.recipe).as_params()  # a recipe file may have gone: see _trained
        changed = sum(value != usual[name] for name, value in self.options.items())
        return self.settings.cutout, changed

    @property
    def data(self) -> str:
        """The data it was trained on, in words."""
        used = self.config["dataset"]
        named = ["image_size", "train_images"] + ["background_bias"] * (used["name"] == "scenes")
        options = ", ".join(f"{name}={getattr(self.settings, name)}" for name in named)
        return f"{used['name']} {used['digest'][:8]} ({options})"

    def command(self, seed: int) -> str:
        """What trains the same with another seed."""
        options = self.config["given"] | {"seed": seed}
        options = {name: value for name, value in options.items() if name not in ("checkpoint", "resume")}
        return shlex.join(["python", "-m", "experiments.train", *_words(options)])


def _words(options: Mapping[str, object]) -> Iterator[str]:
    for name, value in options.items():
        yield from (f"--{name}", str(value))


def members(settings: CompareSettings) -> tuple[Member, ...]:
    """The finished runs that `runs`, `filter` or `study` chooses, variant by variant, seed by seed; the baseline first.

    Raises:
        SettingsError: they are not there, did not complete, or cannot be compared.
    """
    if settings.filter != NONE:
        try:
            found = tracking.finished_trainings(settings.filter)
        except TrackingError as error:
            raise SettingsError([f"filter: {error}"]) from error
        return members_of_runs(_newest(found), "filter")
    if settings.study != NONE:
        return members_of_names(_of_study(settings.study))
    chosen = parse_runs(settings.runs)
    by_id = _by_id({prefix for prefixes in chosen.values() for prefix in prefixes})
    named = {name: [by_id[prefix] for prefix in prefixes] for name, prefixes in chosen.items()}
    if None in named:
        return members_of_runs(named[None], "runs")
    return members_of_names({str(name): runs for name, runs in named.items()}, allow_same=settings.allow_same)


def _of_study(study: str) -> dict[str, list[FinishedRun]]:
    """The last confirmation's runs by their candidate, the baseline first."""
    tag = tracking.confirms(study)
    try:
        found = tracking.finished_trainings(f"tags.`{tag}` != ''")
    except TrackingError as error:
        raise SettingsError(
            [f"study={study}: no confirmed runs here; run `tune` to its end, with confirm=true ({error})"]
        ) from error
    named: dict[int, dict[str, list[FinishedRun]]] = {}
    for run in _newest(found):
        stage, _, candidate = run.tags[tag].partition(" ")
        named.setdefault(int(stage), {}).setdefault(candidate, []).append(run)
    last = named[max(named)]
    return {name: last[name] for name in sorted(last, key=lambda name: name != OWN)}


def _newest(runs: Sequence[FinishedRun]) -> list[FinishedRun]:
    """Of runs with one fingerprint, which are the same training, only the last."""
    return list({run.tags.get(tracking.FINGERPRINT, run.id): run for run in runs}.values())


def _by_id(prefixes: Iterable[str]) -> dict[str, FinishedRun]:
    found, problems = {}, []
    for prefix in sorted(prefixes):
        try:
            found[prefix] = tracking.finished_training(prefix)
        except TrackingError as error:
            problems.append(f"runs: {error}")
    if problems:
        raise SettingsError(problems)
    return found


def members_of_runs(runs: Sequence[FinishedRun], option: str = "runs") -> tuple[Member, ...]:
    """The runs as variants: those whose settings agree in everything but the seed are one, named by what is its own.

    First comes the variant without Cutout that is nearest to its recipe's defaults, then the others likewise; equals in
    the order of `runs`. Refusals are put down to `option`.

    Raises:
        SettingsError: the runs cannot be compared.
    """
    groups: dict[Hashable, list[Trained]] = {}
    for trained in sorted(_comparable(option, runs), key=lambda trained: trained.unusual):
        groups.setdefault(trained.identity, []).append(trained)
    names = variant_names([group[0] for group in groups.values()])
    return _paired(option, dict(zip(names, groups.values(), strict=True)))


def members_of_names(named: Mapping[str, Sequence[FinishedRun]], *, allow_same: bool = False) -> tuple[Member, ...]:
    """The runs as variants under names given by hand, in that order.

    Raises:
        SettingsError: the runs cannot be compared, those of one name are not of one variant, or two names stand for
            the same one and `allow_same` is false.
    """
    trained = iter(_comparable("runs", [run for runs in named.values() for run in runs]))
    variants = {name: [next(trained) for _ in runs] for name, runs in named.items()}
    problems = [problem for name, group in variants.items() for problem in _mixed_settings(name, group)]
    seen: dict[Hashable, str] = {}
    for name, group in variants.items():
        twin = seen.setdefault(group[0].identity, name)
        if twin != name and not allow_same:
            problems.append(
                f"runs: {twin!r} and {name!r} have the same settings but for the seed; join their run ids under one "
                "name, or add allow_same=true"
            )
    if problems:
        raise SettingsError(problems)
    return _paired("runs", variants)


def refuse_same(trainings: Sequence[Training], prepared: Sequence[Prepared], *, allow_same: bool) -> None:
    """Nothing where every training is another one, or where one may stand under two names.

    Raises:
        SettingsError: two trainings have one fingerprint.
    """
    seen: dict[str, str] = {}
    for training, ready in zip(trainings, prepared, strict=True):
        twin = seen.setdefault(ready.fingerprint, training.name)
        if twin != training.name and not allow_same:
            same = f"variants: {twin!r} and {training.name!r} are the same training"
            raise SettingsError([f"{same}; change or drop one, or add allow_same=true"])


def load_dataset(members: Sequence[Member], settings: CompareSettings, reporter: Reporter) -> Dataset:
    """The data set that the runs were trained on; from the folder in which they found it, unless `data_dir` is given.

    Raises:
        SettingsError: what is there is not what they were trained on.
        data.DataError: it cannot be loaded.
    """
    trained = _trained("runs", members[0].run)
    dataset = variant.load_dataset(data_settings(trained, settings.data_dir), reporter)
    if dataset.digest != trained.config["dataset"]["digest"]:
        raise SettingsError(
            [
                f"data set {dataset.name} ({dataset.source}) has digest {dataset.digest}, but the runs were trained on "
                f"{trained.config['dataset']['digest']}: bring that data back, or say where it is with data_dir="
            ]
        )
    return dataset


def data_settings(trained: Trained, data_dir: str = "data") -> TrainSettings:
    """Settings that load what the run was trained on; from `data_dir`, if that is not the default."""
    changes = {}
    if trained.settings.dataset == "auto":
        changes["dataset"] = trained.config["dataset"]["name"]
    if data_dir != TrainSettings.model_fields["data_dir"].default:
        changes["data_dir"] = data_dir
    return trained.settings.model_copy(update=changes)


# ------------------------------------------------------------------------------------------------------------- names


def variant_names(variants: Sequence[Trained]) -> list[str]:
    """A name for each variant from the settings in which they differ: `baseline`, `cutout-size_8`, `lr_0.1`.

    The first has all of them, or is called `baseline` where it is the one without Cutout; the others have those in
    which they differ from the first.
    """
    options = [trained.options for trained in variants]
    differing = [
        name
        for name in dict.fromkeys(["cutout", *TrainSettings.model_fields])
        if len({own[name] for own in options if name in own}) > 1
    ]
    first, *others = options
    plain = "cutout" in differing and first["cutout"] == "false"
    words = [["baseline"] if plain else _words_for(first, differing)]
    for own in others:
        changed = [name for name in differing if own.get(name) != first.get(name)]
        words.append(_words_for(own, changed))
    return [_short("-".join(parts), trained.run.id) for parts, trained in zip(words, variants, strict=True)]


def _words_for(options: Mapping[str, str], names: Sequence[str]) -> list[str]:
    """`cutout`, `size_8`, `no-nesterov`; nothing for options without effect."""
    words: list[str] = []
    for name in names:
        if name in options:
            short = name.removeprefix("cutout_") if "cutout" in words else name
            text = re.sub(r"[^A-Za-z0-9_.-]+", "-", options[name])
            words.append({"true": short, "false": f"no-{short}"}.get(text, f"{short}_{text}"))
    return words


def _short(name: str, run_id: str) -> str:
    return name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}-{run_id[:8]}"


# ----------------------------------------------------------------------------------------------------------- refusals


def _comparable(option: str, runs: Sequence[FinishedRun]) -> list[Trained]:
    """The runs, which were trained on the same data and explained the same images in the same way."""
    trained = [_trained(option, run) for run in runs]
    words: dict[str, str] = {}  # one for each digest: the same data may be asked for in several ways
    data = [(one, words.setdefault(one.config["dataset"]["digest"], one.data)) for one in trained]
    _refuse_mixed(option, "were trained on different data", data, "compare runs on the same data")
    methods = [(one, one.run.params["resolved.cam_method"]) for one in trained]
    _refuse_mixed(option, "were explained by different methods", methods, "compare runs of one cam_method")
    for model in dict.fromkeys(one.settings.model for one in trained):
        layers = [(one, one.run.params["resolved.layers"]) for one in trained if one.settings.model == model]
        _refuse_mixed(option, f"explain different layers of {model}", layers, "compare runs with the same cam_layers")
    arrays = [_explained(option, one) for one in trained]
    for name, what in (("indices", "different probe images"), ("sample_indices", "different samples of test images")):
        images = [(one, chosen[name]) for one, chosen in zip(trained, arrays, strict=True)]
        _refuse_mixed(option, f"explain {what}", images, "train them again with one version of the suite")
    return trained


def _trained(option: str, run: FinishedRun) -> Trained:
    """The run with its settings as they were resolved; options that came later are off.

    Every option is known, so the recipe decides nothing any more: one of a file stands as `fast`.
    """
    try:
        config = run.read_json("config.json")
        known = {name: value for name, value in config["settings"].items() if name in TrainSettings.model_fields}
        recipe = known.get("recipe") if known.get("recipe") in RECIPES else "fast"
        resolved = {"recipe": recipe, "precision": config["machine"]["precision"]}
        settings = TrainSettings.of(**{**PLAIN, **known, **resolved})
    except (TrackingError, SettingsError, KeyError) as error:
        raise _outdated(option, run, f"config.json: {' '.join(str(error).split())}") from error
    return Trained(run, config, settings)


def _explained(option: str, trained: Trained) -> dict[str, str]:
    """Which test images the run's maps are of, in words."""
    try:
        arrays = trained.run.read_arrays("maps.npz")
        found = {name: arrays[name].tolist() for name in ("indices", "sample_indices")}
    except (TrackingError, KeyError) as error:
        raise _outdated(option, trained.run, f"maps.npz: {error}") from error
    return {name: f"{len(indices)} images {_joined(indices)}" for name, indices in found.items()}


def _outdated(option: str, run: FinishedRun, why: str) -> SettingsError:
    return SettingsError(
        [f"{option}: run {run.id[:8]} ({run.name}) was not logged as this version does it ({why}): train it again"]
    )


def _refuse_mixed(option: str, trouble: str, values: Sequence[tuple[Trained, str]], cure: str) -> None:
    """Nothing where all runs have one value."""
    runs: dict[str, list[str]] = {}
    for trained, value in values:
        runs.setdefault(value, []).append(trained.label)
    if len(runs) > 1:
        found = [f"{shorten(value, 90, placeholder=' ...')}: {_listed(labels)}" for value, labels in runs.items()]
        raise SettingsError([f"{option}: these runs {trouble}: {'; '.join(found)}; {cure}"])


def _listed(labels: Sequence[str]) -> str:
    more = f" and {len(labels) - LISTED} more" if len(labels) > LISTED else ""
    return ", ".join(labels[:LISTED]) + more


def _mixed_settings(name: str, group: Sequence[Trained]) -> Iterator[str]:
    first = group[0]
    for other in group[1:]:
        differing = [
            f"{option}={value} and {other.options[option]}"
            for option, value in first.options.items()
            if other.options.get(option, value) != value
        ]
        if differing:
            yield f"runs: {name!r} mixes {first.label} and {other.label}, which differ in {', '.join(differing)}"


def _paired(option: str, variants: Mapping[str, Sequence[Trained]]) -> tuple[Member, ...]:
    """The members, with the same seeds in each variant, or as many others: those are independent and pair in order."""
    if len(variants) < 2:
        count = sum(len(group) for group in variants.values())
        why = "" if count == 1 else ", which differ in nothing but the seed"
        raise SettingsError(
            [f"{option}: one variant, of {count} run{'' if count == 1 else 's'}{why}: add runs of another one"]
        )
    if len(variants) > 10:
        raise SettingsError([f"{option}: {len(variants)} variants, such as {_listed(list(variants))}: ten at most"])
    problems = [f"{option}: {problem}" for name, group in variants.items() for problem in _repeated(name, group)]
    if problems:
        raise SettingsError(problems)
    by_seed = {name: {one.settings.seed: one for one in group} for name, group in variants.items()}
    seeds = [set(group) for group in by_seed.values()]
    if len(set(map(len, seeds))) > 1:
        raise SettingsError([f"{option}: {_unequal(by_seed)}"])
    if len(set(map(frozenset, seeds))) > 1 and any(a & b for a, b in combinations(seeds, 2)):
        raise SettingsError([f"{option}: {_unequal(by_seed)}"])  # neither the same seeds nor independent ones
    return tuple(
        Member(name, seed, group[seed].run, reused=True) for name, group in by_seed.items() for seed in sorted(group)
    )


def _repeated(name: str, group: Sequence[Trained]) -> Iterator[str]:
    seen: dict[int, Trained] = {}
    for trained in group:
        twin = seen.setdefault(trained.settings.seed, trained)
        if twin is not trained:
            yield f"{name} has seed {trained.settings.seed} twice, {twin.label} and {trained.label}; leave one out"


def _unequal(variants: Mapping[str, Mapping[int, Trained]]) -> str:
    """What to train, or what to leave out, so that every variant has the same seeds."""
    every = set().union(*variants.values())
    common = every.intersection(*variants.values())
    has = "; ".join(f"{name}: {_joined(sorted(group))}" for name, group in variants.items())
    missing = []
    for name, group in variants.items():
        if seeds := sorted(every - group.keys()):
            command = next(iter(group.values())).command(seeds[0])
            missing.append(f"{name} with seed {_joined(seeds)} (`{command}`)")
    ways = f"add the runs, or train {', '.join(missing)}"
    if common:
        spare = [group[seed].label for group in variants.values() for seed in sorted(group.keys() - common)]
        ways += f"; or leave out {', '.join(spare)}"
    return f"the variants have different seeds ({has}); {ways}"


def _joined(numbers: Sequence[int]) -> str:
    return " ".join(map(str, numbers))
