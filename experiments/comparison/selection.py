"""Chooses finished runs by id, filter or study, groups them into variants, and refuses those that do not fit.

Also those whose files are damaged or gone: they are named, trained again alone, or left out.

Each refusal is one line of a SettingsError: it names the option, the runs and a way out.
"""

import re
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from itertools import combinations

from ..data.dataset import Dataset
from ..runs.contents import damage
from ..runs.prepare import Prepared, load_dataset
from ..settings.base import NONE, SettingsError
from ..settings.compare import CompareSettings, parse_runs
from ..settings.train import TrainSettings
from ..settings.trainings import Training
from ..settings.variants import OWN
from ..system.progress import Reporter
from ..tracking.client import FINGERPRINT
from ..tracking.lifetime import confirms
from ..tracking.locations import TrackingError
from ..tracking.reading import FinishedRun, completed_run, finished_training, finished_trainings
from .findings import Member
from .trained import Trained, comparable, joined, listed_runs, mixed_settings, refused_as, trained_of

LONGEST_NAME = 40


def members(settings: CompareSettings) -> tuple[Member, ...]:
    """The finished runs that `runs`, `filter` or `study` names, by variant and seed; the baseline comes first.

    Raises:
        SettingsError: they do not exist, did not complete, or cannot be compared.
    """
    if settings.filter != NONE:
        with refused_as("filter"):
            found = finished_trainings(settings.filter)
        return members_of_runs(_newest(_kept(found, settings)), "filter")
    if settings.study != NONE:
        return members_of_names({name: _kept(runs, settings) for name, runs in _of_study(settings.study).items()})
    chosen = parse_runs(settings.runs)
    by_id = _by_id({prefix for prefixes in chosen.values() for prefix in prefixes})
    named = {name: _kept([by_id[prefix] for prefix in prefixes], settings) for name, prefixes in chosen.items()}
    if None in named:
        return members_of_runs(named[None], "runs")
    return members_of_names({str(name): runs for name, runs in named.items()}, allow_same=settings.allow_same)


def _kept(runs: Sequence[FinishedRun], settings: CompareSettings) -> list[FinishedRun]:
    return [run for run in runs if not left_out(run, settings)]


def _of_study(study: str) -> dict[str, list[FinishedRun]]:
    """The runs of the last confirmation, by candidate; the baseline comes first."""
    tag = confirms(study)
    try:
        found = finished_trainings(f"tags.`{tag}` != ''")
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
    """Without repeated trainings: of runs with the same fingerprint only the last one."""
    return list({run.tags.get(FINGERPRINT, run.id): run for run in runs}.values())


def _by_id(prefixes: Iterable[str]) -> dict[str, FinishedRun]:
    found, problems = {}, []
    for prefix in sorted(prefixes):
        try:
            found[prefix] = finished_training(prefix)
        except TrackingError as error:
            problems.append(f"runs: {error}")
    if problems:
        raise SettingsError(problems)
    return found


def members_of_runs(runs: Sequence[FinishedRun], option: str = "runs") -> tuple[Member, ...]:
    """Groups the runs: those with the same settings except for the seed are one variant, named by what differs.

    First come the variants without Cutout, then the others, in each group those nearest to the defaults of their recipe
    first, and equals in the order of `runs`. Error messages name `option`.

    Raises:
        SettingsError: the runs cannot be compared.
    """
    groups: dict[Hashable, list[Trained]] = {}
    for trained in sorted(comparable(option, runs), key=lambda trained: trained.unusual):
        groups.setdefault(trained.identity, []).append(trained)
    names = variant_names([group[0] for group in groups.values()])
    return _paired(option, dict(zip(names, groups.values(), strict=True)))


def members_of_names(named: Mapping[str, Sequence[FinishedRun]], *, allow_same: bool = False) -> tuple[Member, ...]:
    """The runs as variants with the given names, in that order.

    Raises:
        SettingsError: the runs cannot be compared, runs of one name have different settings, or two names have the
            same settings and `allow_same` is false.
    """
    if empty := [name for name, runs in named.items() if not runs]:
        raise SettingsError([f"without: leaves no run of {empty[0]!r}; leave out fewer runs, or drop the name"])
    trained = iter(comparable("runs", [run for runs in named.values() for run in runs]))
    variants = {name: [next(trained) for _ in runs] for name, runs in named.items()}
    problems = [problem for name, group in variants.items() for problem in mixed_settings(name, group)]
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
    """Checks that no training has two names, unless that is allowed.

    Raises:
        SettingsError: two trainings have one fingerprint.
    """
    seen: dict[str, str] = {}
    for training, ready in zip(trainings, prepared, strict=True):
        twin = seen.setdefault(ready.fingerprint, training.name)
        if twin != training.name and not allow_same:
            same = f"variants: {twin!r} and {training.name!r} are the same training"
            raise SettingsError([f"{same}; change or drop one, or add allow_same=true"])


def shared_dataset(members: Sequence[Member], settings: CompareSettings, reporter: Reporter) -> Dataset:
    """Loads the data set that the runs were trained on: from their folder, unless `data_dir` is given.

    Raises:
        SettingsError: the data there are not those that the runs were trained on.
        data.DataError: it cannot be loaded.
    """
    trained = trained_of("runs", members[0].run)
    changes = {"dataset": trained.config.dataset.name} if trained.settings.dataset == "auto" else {}
    if settings.data_dir != TrainSettings.model_fields["data_dir"].default:
        changes["data_dir"] = settings.data_dir
    dataset = load_dataset(trained.settings.model_copy(update=changes), reporter)
    digest = trained.config.dataset.digest
    if dataset.digest != digest:
        raise SettingsError(
            [
                f"data set {dataset.name} ({dataset.source}) has digest {dataset.digest}, but the runs were trained on "
                f"{digest}: restore that data, or give its folder with data_dir="
            ]
        )
    return dataset


def variant_names(variants: Sequence[Trained]) -> list[str]:
    """A name for each variant from the settings in which they differ: `baseline`, `cutout-size_8`, `lr_0.1`.

    The name of the first lists all of them, or is `baseline` if it alone has no Cutout; the other names list those in
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
        words.append(_words_for(own, [name for name in differing if own.get(name) != first.get(name)]))
    long = [("-".join(parts), trained.run.id) for parts, trained in zip(words, variants, strict=True)]
    return [name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}-{run_id[:8]}" for name, run_id in long]


def _words_for(options: Mapping[str, str], names: Sequence[str]) -> list[str]:
    """`cutout`, `size_8`, `no-nesterov`; nothing for options without effect."""
    words: list[str] = []
    for name in names:
        if name in options:
            short = name.removeprefix("cutout_") if "cutout" in words else name
            text = re.sub(r"[^A-Za-z0-9_.-]+", "-", options[name])
            words.append({"true": short, "false": f"no-{short}"}.get(text, f"{short}_{text}"))
    return words


def _paired(option: str, variants: Mapping[str, Sequence[Trained]]) -> tuple[Member, ...]:
    """The members. All variants have the same seeds, or as many different ones, which are paired in their order."""
    if len(variants) < 2:
        count = sum(len(group) for group in variants.values())
        why = "" if count == 1 else ", which differ in nothing but the seed"
        raise SettingsError(
            [f"{option}: one variant, of {count} run{'' if count == 1 else 's'}{why}: add runs of another one"]
        )
    if len(variants) > 10:
        raise SettingsError([f"{option}: {len(variants)} variants, such as {listed_runs(list(variants))}: ten at most"])
    problems = [f"{option}: {problem}" for name, group in variants.items() for problem in _repeated(name, group)]
    if problems:
        raise SettingsError(problems)
    by_seed = {name: {one.settings.seed: one for one in group} for name, group in variants.items()}
    seeds = [set(group) for group in by_seed.values()]
    differ, overlap = len(set(map(frozenset, seeds))) > 1, any(a & b for a, b in combinations(seeds, 2))
    if len(set(map(len, seeds))) > 1 or (differ and overlap):  # neither the same seeds nor independent ones
        raise SettingsError([f"{option}: {_unequal(by_seed)}"])
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
    """Says what to train or to leave out, so that every variant has the same seeds."""
    every = set().union(*variants.values())
    common = every.intersection(*variants.values())
    has = "; ".join(f"{name}: {joined(sorted(group))}" for name, group in variants.items())
    missing = []
    for name, group in variants.items():
        if seeds := sorted(every - group.keys()):
            command = next(iter(group.values())).command(seeds[0])
            missing.append(f"{name} with seed {joined(seeds)} (`{command}`)")
    ways = f"add the runs, or train {', '.join(missing)}"
    if common:
        spare = [group[seed].label for group in variants.values() for seed in sorted(group.keys() - common)]
        ways += f"; or leave out {', '.join(spare)}"
    return f"the variants have different seeds ({has}); {ways}"


def finished_before(prepared: Sequence[Prepared], settings: CompareSettings) -> dict[str, FinishedRun]:
    """The finished runs of these trainings by fingerprint, without the damaged ones if `retrain=damaged` is given.

    Raises:
        SettingsError: a run is damaged, and the settings do not say what to do with it.
    """
    found = {ready.fingerprint: completed_run(ready.fingerprint) for ready in prepared}
    there = {key: run for key, run in found.items() if run and not left_out(run, settings)}
    broken = _broken(there, prepared[0].dataset)
    if broken and settings.retrain != "damaged":
        cure = "retrain=damaged trains it again alone, and without={} leaves its seed out"
        raise SettingsError([f"{problem}; {cure.format(there[key].id[:8])}" for key, problem in broken.items()])
    return {key: run for key, run in there.items() if key not in broken}


def _broken(runs: Mapping[str, FinishedRun], dataset: Dataset) -> dict[str, str]:
    """What is wrong with the damaged ones of the runs, by the same keys."""
    problems = {key: damage(run, dataset.classes) for key, run in runs.items()}
    return {key: problem for key, problem in problems.items() if problem}


def without_seeds(
    trainings: Sequence[Training], prepared: Sequence[Prepared], settings: CompareSettings
) -> list[tuple[Training, Prepared]]:
    """The trainings whose seed is not that of a run which `without` leaves out, in any variant.

    Raises:
        SettingsError: none is left.
    """
    both = list(zip(trainings, prepared, strict=True))
    if not settings.left_out:
        return both
    runs = [completed_run(ready.fingerprint) for ready in prepared]
    gone = {one.settings.seed for one, run in zip(trainings, runs, strict=True) if run and left_out(run, settings)}
    if not gone:
        wrong = "is no finished run of this comparison; leave the option out"
        raise SettingsError([f"without={settings.without}: {wrong}"])
    kept = [(training, ready) for training, ready in both if training.settings.seed not in gone]
    if not kept:
        raise SettingsError([f"without={settings.without}: leaves no seed; give more seeds"])
    return kept


def left_out(run: FinishedRun, settings: CompareSettings) -> bool:
    """Whether `without` names the run."""
    return bool(settings.left_out) and run.id.startswith(settings.left_out)


def refuse_damaged(members: Sequence[Member], dataset: Dataset, option: str) -> None:
    """Checks that the files of finished runs can be read.

    Raises:
        SettingsError: some cannot; a line for each run.
    """
    broken = _broken({member.run.id: member.run for member in members}, dataset)
    if broken:
        raise SettingsError(
            [f"{option}: {problem}; without={run_id[:8]} leaves it out" for run_id, problem in broken.items()]
        )
