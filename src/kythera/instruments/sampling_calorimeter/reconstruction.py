"""Energies from deposits: a linear calibration, fitted on the events themselves."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp

from kythera.core.objective import AbstractObjective, Score
from kythera.core.pipeline import Trace
from kythera.core.stage import AbstractStage
from kythera.core.types import Array, Float, Key
from kythera.instruments.sampling_calorimeter.design import Stack
from kythera.instruments.sampling_calorimeter.simulator import (
    KINDS,
    Particles,
    RecordedShowers,
    typical_response,
)
from kythera.units import MeV


class ActiveDeposits(AbstractStage[Stack, Array, Array]):
    """Deposits in the active layers on the scale of the incident energy.

    Each is divided by the part of its energy that a typical electron leaves in all active
    layers, so that their sum is near the energy. The calibration that follows does not
    depend on this scale, but it keeps single precision.
    """

    def __call__(
        self, design: Stack, x: Float[Array, "event layer"], *, key: Key
    ) -> Float[Array, "event pair"]:
        """Scaled deposits, GeV, shape (event, pair)."""
        return scaled(design, x)


def scaled(
    design: Stack, deposits: Float[Array, "event layer"]
) -> Float[Array, "event pair"]:
    """What `ActiveDeposits` keeps."""
    return deposits[:, 1::2] / (jnp.sum(typical_response(design)[1::2]) + 0.02)


class CalibratedError(AbstractObjective):
    """Mean squared error of the energy after the best linear calibration.

    E_pred = c_0 + sum_l c_l e_l with the c that minimise mean(w (E_pred - E)^2) over the
    events of each kind of particle (as if it were identified). The moments of (1, e, E) add
    up over events, and the least squares is a function of their means: this is a score of
    additive tallies, exact for any chunks, with the derivative of the optimum. It is
    optimistic by (pairs + 1) / events of each kind, as a part of its value, because it is
    measured on the events that it was fitted to.

    Args:
        kinds: particles that count, names out of `KINDS`: a term for each.
        relative: w = 1 / E^2, and the term is the root, the relative resolution;
            else w = 1 / (E + 1 GeV), the loss of AIDO (arXiv:2502.02152), whose terms are
            shares of the mean over all events, so that their sum is that mean.
    """

    references = ("K. Schmidt et al., arXiv:2502.02152",)
    kinds: tuple[str, ...] = eqx.field(static=True, default=("gamma", "pi+"))
    relative: bool = eqx.field(static=True, default=False)

    def tally(self, design: Stack, trace: Trace) -> dict[str, Any]:
        """Moments of each kind: weights, features, and what they miss of the energy."""
        truth = particles_of(trace)
        return {kind: self._moments(truth, trace.result, kind) for kind in self.kinds}

    def _moments(
        self, truth: Particles, deposits: Array, kind: str
    ) -> dict[str, Array]:
        here, weight = _weights(truth, kind, self.relative)
        known = jnp.concatenate([jnp.ones_like(deposits[:, :1]), deposits], -1)
        missing = truth.energy - jnp.sum(deposits, -1)
        return {
            "count": here,
            "square": weight * missing**2,
            "cross": (weight * missing)[:, None] * known,
            "matrix": weight[:, None, None] * known[:, :, None] * known[:, None, :],
        }

    def score(self, design: Stack, tally: dict[str, Any]) -> Score:
        """The error that is left, a term for each kind."""
        terms = {}
        for kind, mean in tally.items():
            left = left_over(mean["square"], mean["cross"], mean["matrix"])
            terms[kind] = _term(left, mean["count"], self.relative)
        return Score(terms)


class PredictedError(AbstractObjective):
    """Mean squared error of energies that the pipeline itself tells.

    For a reconstruction that gives E_pred, shape (event,), `EnergyNetwork`; the terms are
    those of `CalibratedError`.

    Args:
        kinds: particles that count, names out of `KINDS`: a term for each.
        relative: as in `CalibratedError`.
    """

    references = ("K. Schmidt et al., arXiv:2502.02152",)
    kinds: tuple[str, ...] = eqx.field(static=True, default=("gamma", "pi+"))
    relative: bool = eqx.field(static=True, default=False)

    def tally(self, design: Stack, trace: Trace) -> dict[str, Any]:
        """How many of each kind, and their weighted squares."""
        truth, rows = particles_of(trace), {}
        for kind in self.kinds:
            here, weight = _weights(truth, kind, self.relative)
            square = weight * (trace.result - truth.energy) ** 2
            rows[kind] = {"count": here, "square": square}
        return rows

    def score(self, design: Stack, tally: dict[str, Any]) -> Score:
        """A term for each kind."""
        return Score(
            {
                kind: _term(mean["square"], mean["count"], self.relative)
                for kind, mean in tally.items()
            }
        )


def particles_of(trace: Trace) -> Particles:
    """Who made the showers, recorded ones or not."""
    truth = trace.truth
    return truth.particles if isinstance(truth, RecordedShowers) else truth


def _weights(truth: Particles, kind: str, relative: bool) -> tuple[Array, Array]:
    """1 for each particle of that kind, and its weight in the mean; 0 for the others."""
    energy = truth.energy
    here = jnp.asarray(truth.kind == KINDS.index(kind), energy.dtype)
    return here, here / (energy**2 if relative else energy + 1)


def _term(square: Array, count: Array, relative: bool) -> Array:
    """The mean of the weighted squares, or its root for the particles of one kind."""
    return jnp.sqrt(square / count + 1e-12) if relative else square


def left_over(
    square: Array, cross: Array, matrix: Array, noise: float = 1 * MeV
) -> Array:
    """min over c of <w (y - c x)^2> = <w y^2> - <w x y> <w x x>^-1 <w x y>, never negative.

    Args:
        square: <w y^2>, a number.
        cross: <w x y>, shape (k,).
        matrix: <w x x>, shape (k, k); the first feature is 1.
        noise: standard deviation of noise that the other features are thought to have, so
            that a layer that no energy reaches does no harm.
    """
    floor = noise**2 * matrix[0, 0] * (jnp.arange(cross.size) > 0)
    matrix = matrix + jnp.diag(floor)
    scale = jnp.sqrt(jnp.diag(matrix))
    unit = matrix / scale[:, None] / scale + 1e-6 * jnp.eye(scale.size)
    cross = cross / scale
    return jnp.maximum(square - cross @ jnp.linalg.solve(unit, cross), 0.0)
