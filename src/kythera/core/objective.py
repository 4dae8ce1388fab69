"""What is to be minimised: functions of additive event tallies, costs and constraints.

Most goals of an experiment are no means of a loss: a chi2 of a histogram, a Fisher matrix,
false negatives at fixed false positives, a significance. All of these are

    T = score( mean over events of tally ).

Additivity buys chunked and distributed evaluation, the standard error from the influence of
each event, `<d score / d tally, tally_i - mean>`, and the per-event loss of the
score-function estimator with its baseline built in.
"""

import abc
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from kythera import errors
from kythera.core.pipeline import Trace
from kythera.core.types import Array, Design, Float, PyTree, Scalar

Tally = Any


class Score(eqx.Module):
    """Named terms of the loss, all minimised, and named constraints on results.

    Args:
        loss: the terms; the problem sums them with its weights.
        slack: each must be >= 0 where the constraint holds.
    """

    loss: dict[str, Scalar]
    slack: dict[str, Scalar] = eqx.field(default_factory=dict)


class Tangents(eqx.Module):
    """A mean tally together with its derivatives with respect to nuisance parameters.

    Args:
        value: the mean row.
        tangents: the same tree with a further leading axis `nuisance`, in the order of
            `AbstractObjective.nuisances`.
    """

    value: PyTree
    tangents: PyTree


class AbstractObjective(eqx.Module):
    """T = score(design, mean over events of tally(design, trace))."""

    references: ClassVar[tuple[str, ...]] = ()

    @abc.abstractmethod
    def tally(self, design: Design, trace: Trace) -> Tally:
        """One row for each event (leading axis `event`); rows add up."""

    @abc.abstractmethod
    def score(self, design: Design, tally: Tally) -> Score:
        """The score of the mean row (no `event` axis).

        Where `nuisances` names any, `tally` is a `Tangents` of the mean row.
        """

    def constraints(self, design: Design) -> dict[str, Scalar]:
        """Slacks >= 0 that need no event: cost, length, power, schedule."""
        return {}

    def nuisances(self) -> dict[str, float]:
        """Path of a scalar leaf of the design, never free -> its prior's width.

        A width of `math.inf` leaves the parameter unconstrained. (JAX sorts a dict that is
        a field of the objective: sort it before, or the order is not the same inside.)
        """
        return {}

    def templates(self) -> dict[str, float]:
        """Path of a nuisance parameter -> step h > 0 of its templates, in its unit.

        The derivative of the tally is then (tally(+h) - tally(-h)) / 2h, from two more
        simulations of the same events: for hard histograms, and for simulators that
        cannot be differentiated. Nuisance parameters that are not named are
        differentiated.
        """
        return {}

    def __add__(self, other: "AbstractObjective") -> "Sum":
        """Both objectives on the same events; their terms stand side by side."""
        return Sum((*_parts(self), *_parts(other)))


class PerEventLoss(AbstractObjective):
    """The common case: named losses for each event, of which the means count."""

    @abc.abstractmethod
    def loss(self, design: Design, trace: Trace) -> dict[str, Float[Array, " event"]]:
        """Named losses for each event, shape (event,)."""

    def tally(self, design: Design, trace: Trace) -> Tally:
        """The losses themselves."""
        return self.loss(design, trace)

    def score(self, design: Design, tally: Tally) -> Score:
        """Their means."""
        return Score(dict(tally))


class Sum(AbstractObjective):
    """Several objectives on the same events.

    Raises:
        UnsupportedError: two of them use the same name for a term or a constraint.
    """

    parts: tuple[AbstractObjective, ...]

    def tally(self, design: Design, trace: Trace) -> Tally:
        """A tuple of the parts' tallies."""
        return tuple(part.tally(design, trace) for part in self.parts)

    def score(self, design: Design, tally: Tally) -> Score:
        """All terms and slacks of the parts."""
        scores = []
        for i, part in enumerate(self.parts):
            if isinstance(tally, Tangents):
                own = Tangents(tally.value[i], tally.tangents[i])
                own = own if part.nuisances() else own.value
            else:
                own = tally[i]
            scores.append(part.score(design, own))
        return Score(
            _merge([s.loss for s in scores]), _merge([s.slack for s in scores])
        )

    def constraints(self, design: Design) -> dict[str, Scalar]:
        """All constraints of the parts."""
        return _merge([part.constraints(design) for part in self.parts])

    def nuisances(self) -> dict[str, float]:
        """The nuisance parameters of the one part that has any."""
        found = [part.nuisances() for part in self.parts if part.nuisances()]
        if any(other != found[0] for other in found[1:]):
            raise errors.UnsupportedError(
                "Objectives of a sum must name the same nuisance parameters, but got "
                f"{found}. Name all of them, with equal widths, in each."
            )
        return found[0] if found else {}

    def templates(self) -> dict[str, float]:
        """The steps of the one part that has any."""
        found = [part.templates() for part in self.parts if part.nuisances()]
        if any(other != found[0] for other in found[1:]):
            raise errors.UnsupportedError(
                "Objectives of a sum must take the same nuisance parameters from "
                f"templates, but got the steps {found}. Give equal ones in each."
            )
        return found[0] if found else {}


class Cost(AbstractObjective):
    """Terms of the loss that a design alone decides: money, weight, power.

    Args:
        function: design -> named amounts.
    """

    function: Callable[[Design], Mapping[str, Scalar]]

    def tally(self, design: Design, trace: Trace) -> Tally:
        """Nothing is counted."""
        return ()

    def score(self, design: Design, tally: Tally) -> Score:
        """The amounts."""
        return Score(dict(self.function(design)))


class Budget(AbstractObjective):
    """A soft budget: a term that saturates below the limit and grows linearly past it.

    With d = steepness (cost - limit) / limit the term is 2 sigmoid(d) below the limit and
    1 + d / 2 above, continuous with its slope (the shape of Fig. 25 of arXiv:2203.13818):
    far below the limit money has no pull, at the limit the pull is steepness / 2.

    Args:
        function: design -> cost, a scalar in the unit of `limit`.
        limit: the budget, > 0.
        steepness: dimensionless; 10 makes 10% above the limit cost half a unit of loss.
        name: of the term.

    Raises:
        InputError: a limit that is not positive.
    """

    function: Callable[[Design], Scalar]
    limit: float
    steepness: float = 10.0
    name: str = eqx.field(static=True, default="budget")

    def __check_init__(self):
        """Refuse a limit of which nothing can be a part."""
        _check_limit(f"`Budget` '{self.name}'", self.limit)

    def tally(self, design: Design, trace: Trace) -> Tally:
        """Nothing is counted."""
        return ()

    def score(self, design: Design, tally: Tally) -> Score:
        """The curve at the design's cost."""
        d = self.steepness * (self.function(design) - self.limit) / self.limit
        return Score({self.name: jnp.where(d < 0, 2 * jax.nn.sigmoid(d), 1 + d / 2)})


class AtMost(AbstractObjective):
    """The constraint function(design) <= limit, as the slack 1 - function / limit.

    Args:
        name: of the constraint.
        function: design -> amount, a scalar.
        limit: the most that is allowed, > 0, in the same unit.

    Raises:
        InputError: a limit that is not positive.
    """

    name: str = eqx.field(static=True)
    function: Callable[[Design], Scalar]
    limit: float

    def __check_init__(self):
        """Refuse a limit of which nothing can be a part."""
        _check_limit(f"`AtMost` '{self.name}'", self.limit)

    def tally(self, design: Design, trace: Trace) -> Tally:
        """Nothing is counted."""
        return ()

    def score(self, design: Design, tally: Tally) -> Score:
        """No terms."""
        return Score({})

    def constraints(self, design: Design) -> dict[str, Scalar]:
        """The slack."""
        return {self.name: 1 - self.function(design) / self.limit}


def _check_limit(what: str, limit: float) -> None:
    if not limit > 0:
        raise errors.InputError(
            f"The limit of {what} must be > 0, since its slack is a part of it, but is "
            f"{limit}. Add a constant to function and limit."
        )


def _parts(objective: AbstractObjective) -> tuple[AbstractObjective, ...]:
    return objective.parts if isinstance(objective, Sum) else (objective,)


def _merge(dicts: list[dict[str, Scalar]]) -> dict[str, Scalar]:
    merged: dict[str, Scalar] = {}
    for entries in dicts:
        twice = merged.keys() & entries.keys()
        if twice:
            raise errors.UnsupportedError(
                f"Terms of a sum of objectives need different names, but {sorted(twice)}"
                " came twice. Rename one of them."
            )
        merged.update(entries)
    return merged
