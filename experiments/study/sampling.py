"""Samplers, which propose the settings of a training, and pruners, which stop a training early."""

import contextlib
import copy
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.trial import FrozenTrial, TrialState

from .notes import ticket_of
from .space import P_STEP, PROBABILITY, Space


class PerTicket(optuna.samplers.BaseSampler):
    """A sampler that is made anew for each ticket, from the seed of the study and the number of the ticket.

    A sampler that is made once would repeat its first proposals after every restart. `together` is for samplers that
    do not support conditional parameters: they propose these parameters together, and learn from the trials that have
    all of them.
    """

    def __init__(
        self,
        make: Callable[[int], optuna.samplers.BaseSampler],
        seed: int,
        together: Mapping[str, BaseDistribution] | None = None,
    ) -> None:
        self._make, self._seed, self._together = make, seed, together
        self._inner = self._made(seed)

    def _made(self, seed: int) -> optuna.samplers.BaseSampler:
        with experimental():
            return self._make(seed)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Makes the sampler for the ticket of this trial."""
        self._inner = self._made((self._seed * 100_003 + (ticket_of(trial) or 0)) % 2**32)
        self._inner.before_trial(study, trial)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The parameters to propose together; without any, as the sampler of the ticket."""
        if self._together is not None:
            return dict(self._together)
        return self._inner.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """As the sampler of the ticket."""
        if self._together is None:
            return self._inner.sample_relative(study, trial, search_space)
        trial = copy.copy(trial)
        # CMA-ES draws by the number; the trials of Optuna also count dead attempts.
        if (ticket := ticket_of(trial)) is not None:
            trial.number = ticket
        return self._inner.sample_relative(_TrialsWith(study, search_space), trial, search_space)  # type: ignore[arg-type]

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """As the sampler of the ticket."""
        return self._inner.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """As the sampler of the ticket."""
        self._inner.after_trial(study, trial, state, values)


class _TrialsWith:
    """A study that shows only those finished trials that have all of these parameters."""

    def __init__(self, study: optuna.Study, names: Iterable[str]) -> None:
        self._of, self._names = study, set(names)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._of, name)

    def _get_trials(self, *args: Any, **options: Any) -> list[FrozenTrial]:
        found = self._of._get_trials(*args, **options)
        return [trial for trial in found if not trial.state.is_finished() or self._names <= trial.params.keys()]


def with_holes(space: Space) -> dict[str, BaseDistribution]:
    """The parameters of settings with holes, without those that have only one value."""
    found: dict[str, BaseDistribution] = {}
    for name, values in space.axes().items():
        if isinstance(values[0], str):
            found[name] = CategoricalDistribution(values)
        elif name == PROBABILITY:
            found[name] = FloatDistribution(values[0], values[-1], step=P_STEP)
        else:
            found[name] = IntDistribution(max(values[0], 1), values[-1])
    return {name: distribution for name, distribution in found.items() if not distribution.single()}


def sampler(name: str, space: Space, seed: int) -> optuna.samplers.BaseSampler:
    """The sampler with this name, made anew for every ticket."""
    makers: dict[str, Callable[[int], optuna.samplers.BaseSampler]] = {
        "tpe": lambda own: optuna.samplers.TPESampler(seed=own),
        "gp": lambda own: optuna.samplers.GPSampler(seed=own),
        # All tickets need the same seed, or their points would not belong to one sequence.
        "qmc": lambda own: optuna.samplers.QMCSampler(seed=seed, scramble=True, warn_independent_sampling=False),
        "cmaes": lambda own: optuna.samplers.CmaEsSampler(seed=own, warn_independent_sampling=False),
    }
    together = with_holes(space) if name in ("gp", "qmc", "cmaes") else None
    if together and name == "cmaes":  # numbers only, and at least two of them
        numbers = {axis: one for axis, one in together.items() if not isinstance(one, CategoricalDistribution)}
        together = numbers if len(numbers) > 1 else {}
    # Also for grid and brute_force, whose points the agenda decides. Optuna's own samplers with these names leave out
    # what is enqueued, and count the settings of holes that do not exist as different points.
    return PerTicket(makers.get(name, lambda own: optuna.samplers.RandomSampler(seed=own)), seed, together)


def pruner(name: str, epochs: int) -> optuna.pruners.BasePruner:
    """The pruner with this name. All wait for two thirds of the epochs, because strong holes learn slowly at first."""
    warm_up = max(1, round(2 / 3 * epochs))
    with experimental():
        if name == "median":
            return optuna.pruners.MedianPruner(n_warmup_steps=warm_up)
        if name == "hyperband":
            return optuna.pruners.HyperbandPruner(min_resource=warm_up, max_resource=max(epochs, warm_up + 1))
        if name == "successive_halving":
            return optuna.pruners.SuccessiveHalvingPruner(min_resource=warm_up)
        if name == "patient":
            return optuna.pruners.PatientPruner(optuna.pruners.MedianPruner(n_warmup_steps=warm_up), patience=2)
        return optuna.pruners.NopPruner()


@contextlib.contextmanager
def experimental() -> Iterator[None]:
    """A context without Optuna's warnings about features that may change: its version is pinned."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        yield
