"""Chains of Monte Carlo configurations, and the fluctuations along them."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from kythera import errors
from kythera.physics.statistics.autocorrelation import Chain, Window, gamma_method
from kythera.physics.statistics.entries import numbers as checked

FEWEST = 5  # measurements of a chain
SETTINGS = {"S": 2.0, "tau_exp": 0.0, "n_sigma": 1.0}


@dataclasses.dataclass(frozen=True, eq=False)
class Ensemble:
    """Fluctuations on the chains of one ensemble.

    Args:
        replicas: names of its chains.
        numbers: of each chain, the increasing numbers of its configurations.
        fluctuations: about the mean of each chain, all chains one after the other, shape
            (observable, configuration).
    """

    replicas: tuple[str, ...]
    numbers: tuple[np.ndarray, ...]
    fluctuations: np.ndarray

    def chains(self) -> list[Chain]:
        """Each on its regular grid in Monte Carlo time."""
        spacing = self.spacing
        found, begin = [], 0
        for numbers in self.numbers:
            own = self.fluctuations[:, begin : begin + len(numbers)]
            begin += len(numbers)
            at = (numbers - numbers[0]) // spacing
            if at[-1] == len(numbers) - 1:
                found.append(Chain(own))
                continue
            present = np.zeros(at[-1] + 1, bool)
            present[at] = True
            grid = np.zeros((len(own), len(present)))
            grid[:, at] = own
            found.append(Chain(grid, present))
        return found

    @property
    def spacing(self) -> int:
        """Greatest common divisor of the steps from configuration to configuration."""
        return int(np.gcd.reduce(np.concatenate([np.diff(n) for n in self.numbers])))

    def described(self) -> str:
        """Names and configurations of its chains."""
        return ", ".join(
            f"{name!r}: {len(n)} from {n[0]} to {n[-1]}"
            for name, n in zip(self.replicas, self.numbers)
        )

    def is_on(self, other: "Ensemble") -> bool:
        """Whether both have the same configurations."""
        return self.replicas == other.replicas and all(
            a is b or np.array_equal(a, b) for a, b in zip(self.numbers, other.numbers)
        )

    def window(self, name: str, settings: Mapping[str, float]) -> Window:
        """Errors of all observables by the Gamma method.

        Raises:
            InputError: a tail is asked for, and no chain is long enough.
        """
        chains = self.chains()
        longest = max(chain.fluctuations.shape[1] for chain in chains)
        if settings["tau_exp"] > 0 and longest < 8:
            raise errors.InputError(
                "The tail of `tau_exp` needs a chain of at least 8 samples, but the longest "
                f"of ensemble {name!r} has {longest}. Use tau_exp=0 or more samples."
            )
        return gamma_method(chains, **settings)


@dataclasses.dataclass(frozen=True, eq=False)
class Constant:
    """What comes from outside, with a covariance.

    Args:
        covariance: of its k parameters, shape (k, k).
        slopes: derivatives with respect to these, shape (observable, k).
    """

    covariance: np.ndarray
    slopes: np.ndarray


Rows = Callable[[np.ndarray], np.ndarray]  # (observable, k) -> (derived, k), linear


def merged_ensembles(
    parts: list[tuple[Mapping[str, Ensemble], Rows]],
) -> dict[str, Ensemble]:
    """Fluctuations of a quantity that depends on several.

    Raises:
        InputError: ensembles of one name have different configurations.
    """
    found: dict[str, Ensemble] = {}
    for ensembles, rows in parts:
        for name, one in ensembles.items():
            own = rows(one.fluctuations)
            if name in found:
                _check_same(name, found[name], one)
                own = found[name].fluctuations + own
            found[name] = dataclasses.replace(one, fluctuations=own)
    return found


def merged_constants(
    parts: list[tuple[Mapping[str, Constant], Rows]],
) -> dict[str, Constant]:
    """What a quantity that depends on several has of the constants.

    Raises:
        InputError: constants of one name have different covariances.
    """
    found: dict[str, Constant] = {}
    for constants, rows in parts:
        for name, one in constants.items():
            own = rows(one.slopes)
            if name in found:
                if not np.array_equal(found[name].covariance, one.covariance):
                    raise errors.InputError(
                        f"Constants of one name are the same ones, but those named {name!r} "
                        "have different covariances. Give them different names."
                    )
                own = found[name].slopes + own
            found[name] = Constant(one.covariance, own)
    return found


def _check_same(name: str, one: Ensemble, other: Ensemble) -> None:
    if not one.is_on(other):
        raise errors.InputError(
            "Observables of one ensemble must be measured on the same configurations, but "
            f"those of {name!r} are ({one.described()}) and ({other.described()}). Give "
            "both the samples of the configurations that they share, or, if these are "
            "independent, ensembles of different names."
        )


def checked_settings(
    ensembles: Mapping[str, Ensemble], chosen: Mapping[str, Any]
) -> dict[str, dict[str, float]]:
    """The Gamma method's settings for each ensemble.

    Args:
        ensembles: by name.
        chosen: setting -> number, or numbers by name of the ensemble.

    Raises:
        InputError: no number, a negative one, or a name that is no ensemble's.
    """
    found: dict[str, dict[str, float]] = {name: {} for name in ensembles}
    for setting, value in chosen.items():
        each: dict[str, Any] = (
            dict(value)
            if isinstance(value, Mapping)
            else {name: value for name in ensembles}
        )
        for name, number in each.items():
            if name not in ensembles:
                raise errors.InputError(
                    f"`{setting}` is given for an ensemble {name!r} that is not here. "
                    f"{errors.nearest(name, ensembles)}"
                )
            size = checked(number, f"`{setting}`")
            if size.ndim or not 0 <= size < np.inf:
                raise errors.InputError(
                    f"`{setting}` must be a number >= 0, but is {number}. Usual are "
                    f"{', '.join(f'{k}={v:g}' for k, v in SETTINGS.items())}."
                )
        for name, own in found.items():
            own[setting] = float(each.get(name, SETTINGS[setting]))
    return found


def check_samples(
    chain: str, mean: np.ndarray, fluctuations: np.ndarray, allow_constant: bool
) -> None:
    """Refuse samples from which no error can be estimated.

    Args:
        chain: for the message.
        mean: shape (observable,).
        fluctuations: shape (observable, configuration).
        allow_constant: accept observables that do not vary.

    Raises:
        InputError: samples that are not finite, or that do not vary.
    """
    bad = np.flatnonzero(~np.isfinite(mean))
    if bad.size:
        raise errors.InputError(
            f"Samples must be finite, but of {bad.size} of {len(mean)} observables on "
            f"{chain} the mean is not (the first is number {bad[0]}). Find what fails in "
            "these configurations, or leave the observables out."
        )
    if allow_constant:
        return
    middle, last = fluctuations.shape[1] // 2, -1
    ends = fluctuations[:, [0, middle, last]]
    few = np.flatnonzero(np.ptp(ends, 1) == 0)  # those that may be constant
    still = few[np.ptp(fluctuations[few], 1) == 0] if few.size else few
    if still.size:
        raise errors.InputError(
            "An error can be estimated only of what varies, but on "
            f"{chain} all samples of {still.size} of {len(mean)} observables are equal "
            f"(the first is number {still[0]}: {mean[still[0]]:g}). Use a plain number for "
            "what is exact, or `allow_constant=True` for an error of zero."
        )


def checked_numbers(chain: str, numbers: Any, count: int) -> np.ndarray:
    """Configuration numbers of a chain; 1, 2, ... where None.

    Raises:
        InputError: not one increasing whole number for each sample.
    """
    if numbers is None:
        return np.arange(1, count + 1)
    found = checked(numbers, f"The numbers of configurations of {chain}")
    whole = np.array_equal(found, np.floor(found)) and found.shape == (count,)
    if not whole or np.any(np.diff(found) <= 0):
        raise errors.InputError(
            f"Numbers of configurations must be whole and increase, one for each of the "
            f"{count} samples of {chain}, but are {found!r}. Sort samples and numbers "
            "together, and leave out what is there twice."
        )
    return found.astype(int)
