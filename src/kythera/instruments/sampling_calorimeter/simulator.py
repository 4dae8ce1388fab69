"""Photons, electrons and pions, and what they leave in each layer of a stack."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

from kythera import errors
from kythera.core import random
from kythera.core.stage import AbstractPathwiseSimulator, AbstractSource
from kythera.core.types import Array, Float, Key
from kythera.instruments.sampling_calorimeter.design import Layers, Stack
from kythera.physics import showers
from kythera.units import GeV

KINDS = ("gamma", "e-", "pi+")
GAMMA, ELECTRON, PION = range(3)
ELECTROMAGNETIC_REACH = 0.5  # X0, over which a shower's electrons forget their layer
HADRONIC_REACH = 0.3  # lambda_I, the same for a shower's hadrons
DRAWS = 6  # normal numbers for each shower, besides one for each layer


class Particles(eqx.Module):
    """Particles that hit the front face at a right angle.

    Args:
        energy: kinetic, GeV, shape (event,).
        kind: index into `KINDS`, shape (event,).
    """

    energy: Float[Array, " event"]
    kind: Float[Array, " event"]


class ParticleBeam(AbstractSource[Particles]):
    """Particles with energies uniform between two bounds, the kinds in turn.

    Args:
        kinds: names out of `KINDS`; row i has kind i modulo their number, so that each has
            its equal share.
        low: GeV.
        high: GeV.
    """

    kinds: tuple[str, ...] = eqx.field(static=True, default=("gamma", "pi+"))
    low: float = 1 * GeV
    high: float = 20 * GeV
    primaries: int = eqx.field(static=True, default=1)

    def __check_init__(self):
        """Refuse unknown kinds and energies out of range."""
        for kind in self.kinds:
            if kind not in KINDS:
                raise errors.InputError(
                    f"There is no particle {kind!r}. {errors.nearest(kind, KINDS)}"
                )
        if not (self.kinds and 0.5 * GeV <= self.low < self.high <= 150 * GeV):
            raise errors.InputError(
                "The showers hold from 0.5 to 150 GeV, with at least one kind, but "
                f"`kinds` is {self.kinds}, `low` {self.low} and `high` {self.high}."
            )

    def __call__(self, events: int, *, key: Key) -> Particles:
        """Draw `events` particles."""
        u = random.uniform(key, (events,))
        known = jnp.array([KINDS.index(kind) for kind in self.kinds], float)
        kind = known[jnp.arange(events) % len(self.kinds)]
        return Particles(self.low + (self.high - self.low) * u, kind)


class Sharing(NamedTuple):
    """What a design decides before any particle comes.

    Args:
        t: depth of the layers' edges, X0, shape (layer + 1,).
        inner: the same in interaction lengths.
        share: of `showers.electromagnetic_share`, shape (layer,).
        hadron_share: of `showers.hadronic_share`.
        grain: energy per independent crossing of a layer, GeV, in electromagnetic showers.
        hadron_grain: the same in hadronic ones.
    """

    t: Array
    inner: Array
    share: Array
    hadron_share: Array
    grain: Array
    hadron_grain: Array


def edges(thickness: Float[Array, " layer"]) -> Float[Array, " edge"]:
    """Where layers begin and end, the front face at 0."""
    return jnp.concatenate([jnp.zeros(1), jnp.cumsum(thickness)])


def typical(depth: Array) -> Array:
    """Part of the energy of a shower of a few GeV before a depth in X0.

    Its profile t^3 e^(-t/2), deepest at 6 X0, is that of an electron of 7 GeV in lead; the
    integral is closed.
    """
    x = jnp.maximum(depth, 0.0) / 2
    return 1 - jnp.exp(-x) * (1 + x + x**2 / 2 + x**3 / 6)


def shower_medium(layers: Layers) -> showers.Medium:
    """The medium that a typical shower would see on its way, as one mixture.

    Each layer counts with its part of that shower's energy; a fine periodic stack gives the
    effective medium of GFlash.
    """
    t = layers.thickness / layers.medium.radiation_length
    seen = jnp.diff(typical(edges(t))) + 1e-6
    return showers.mixed(layers.medium, seen * layers.medium.radiation_length)


def typical_response(stack: Stack) -> Float[Array, " layer"]:
    """Part of the energy that a typical electron leaves in each layer, shape (layer,)."""
    layers = stack.layers()
    t = layers.thickness / layers.medium.radiation_length
    near = showers.neighbourhood(t, ELECTROMAGNETIC_REACH)
    share = showers.electromagnetic_share(layers.medium, near)
    return spread(typical(edges(t)[1:, None]), share)[:, 0]


def spread(
    before: Float[Array, "layer event"], share: Float[Array, " layer"]
) -> Float[Array, "layer event"]:
    """Energy in each layer of showers, their sums kept.

    Args:
        before: part of the energy before the end of each layer.
        share: of `showers.electromagnetic_share` or `showers.hadronic_share`.
    """
    parts = jnp.diff(before, axis=0, prepend=jnp.zeros_like(before[:1]))
    shared = jnp.maximum(parts, 0.0) * share[:, None]  # rounding goes below 0
    return shared * ((before[-1] + 1e-9) / (jnp.sum(shared, 0) + 1e-9))


class ShowerModel(AbstractPathwiseSimulator[Stack, Particles, Array]):
    """Energy deposited in each layer, GeV, shape (event, layer), by parametrised showers.

    Absorbers and active layers in turn, as in `Stack.thickness`. Differentiable in
    thicknesses and weights of materials. What is neglected: `reference.md`.

    Args:
        sampling: what counts as one independent crossing of a layer, in units of what a
            particle loses in it at a right angle: sigma^2 = sampling * loss * energy, in an
            electromagnetic shower (0.032 sqrt(loss / E), loss in MeV, is 1.02; Fabjan).
        hadronic_sampling: the same for hadrons (0.09 sqrt(loss / E); Fabjan).
        visible: part of the energy of a hadronic shower, less its neutral pions, that is
            deposited at all; nuclear binding, neutrons and neutrinos take the rest.
        visible_spread: width of ln s at low energy in its fluctuation visible^s, log-normal
            with mean 1; falls with 1 / sqrt(1 + E).
        neutral_spread: of `showers.electromagnetic_fraction`.
    """

    references = (
        "G. Grindhammer, S. Peters, hep-ex/0001020",
        "R. K. Bock, T. Hansl-Kozanecka, T. P. Shah, Nucl. Instrum. Meth. 186 (1981) 533",
        "D. E. Groom, Nucl. Instrum. Meth. A 572 (2007) 633",
        "C. W. Fabjan, Calorimetry in high-energy physics, CERN-EP/85-54",
    )
    sampling: float = 0.85
    hadronic_sampling: float = 8.1
    visible: float = 0.7
    visible_spread: float = 2.4
    neutral_spread: float = 0.6

    def __call__(
        self, design: Stack, x: Particles, *, key: Key
    ) -> Float[Array, "event layer"]:
        """Deposits of every particle, GeV."""
        layers = design.layers()
        sharing = self._sharing(layers)
        events, count = x.energy.shape[0], layers.thickness.shape[0]
        normal = random.normal(key, (DRAWS + count, events))
        first = (normal[0] ** 2 + normal[1] ** 2) / 2  # an exponential number
        mip, left, begin, inner = _before(layers, x, first)
        soft, energy = self._electromagnetic(layers, x, left, normal[2:5])
        hard = showers.pion_profiles(left)[1]
        before = soft.contained(sharing.t[1:, None] - begin)
        deposit = energy * spread(before, sharing.share)
        before = hard.contained(sharing.inner[1:, None] - inner)
        width = self.visible_spread / jnp.sqrt(1 + left)
        factor = self.visible ** jnp.exp(width * normal[5] - width**2 / 2)
        rest = (left - energy) * factor * (x.kind == PION)
        hadronic = mip + rest * spread(before, sharing.hadron_share)
        energy = deposit + hadronic
        grain = sharing.grain[:, None] * deposit
        grain = grain + sharing.hadron_grain[:, None] * hadronic
        return _grainy(energy, grain / (energy + 1e-9), normal[DRAWS:]).T

    def _sharing(self, layers: Layers) -> Sharing:
        medium, active = layers.medium, jnp.asarray(layers.is_active, float)
        t = layers.thickness / medium.radiation_length
        inner = layers.thickness / medium.interaction_length
        near = showers.neighbourhood(t, ELECTROMAGNETIC_REACH)
        far = showers.neighbourhood(inner, HADRONIC_REACH)
        share = showers.electromagnetic_share(medium, near)
        hadron_share = showers.hadronic_share(medium, far)
        # What a particle loses when it crosses a layer: no more than it has.
        around = near @ medium.critical_energy
        loss = medium.ionisation * layers.thickness
        loss = loss / (1 + 2 * loss / around)
        # The wider the tracks are scattered, the fewer they are for the same energy.
        slant = jnp.cos(showers.SCALE_ENERGY / (jnp.pi * around)) ** 2
        grain = self.sampling * loss / slant * _unseen(near, active, share)
        coarse = self.hadronic_sampling * loss * _unseen(far, active, hadron_share)
        return Sharing(edges(t), edges(inner), share, hadron_share, grain, coarse)

    def _electromagnetic(
        self, layers: Layers, x: Particles, left: Array, normal: Array
    ) -> tuple[showers.Profile, Array]:
        """Profile and energy of the electromagnetic part of each shower, shape (event,).

        A photon is two electrons of half of its energy from where it converts.
        """
        pair = jnp.where(x.kind == GAMMA, 2.0, 1.0)
        medium = shower_medium(layers)
        light = showers.electron_profile(x.energy / pair, medium, normal[:2], pair)
        pion = showers.pion_profiles(left)[0]
        neutral = showers.electromagnetic_fraction(left, normal[2], self.neutral_spread)
        is_pion = x.kind == PION
        chosen = [jnp.where(is_pion, p, q) for p, q in zip(pion, light)]
        return showers.Profile(*chosen), jnp.where(is_pion, neutral * left, x.energy)


def _before(
    layers: Layers, x: Particles, first: Array
) -> tuple[Array, Array, Array, Array]:
    """What happens before the shower: ionisation, and where it begins.

    A photon converts after 9/7 X0 on average, a pion interacts after one interaction
    length and ionises on its way; where that costs all its energy it stops.

    Args:
        layers: the stack.
        x: the particles.
        first: an exponential number of mean 1 for each.

    Returns:
        ionisation in each layer, GeV, (layer, event); energy left, GeV; where the shower
        begins, X0 and lambda_I from the front, all of shape (event,). Beyond the stack a
        pion has no shower: it begins behind the last edge.
    """
    medium = layers.medium
    inner = layers.thickness / medium.interaction_length
    way = jnp.clip(first - edges(inner)[:-1, None], 0.0, inner[:, None])  # in lambda_I
    loss = (medium.interaction_length * medium.ionisation)[:, None] * way
    lost = jnp.minimum(jnp.tril(jnp.ones((len(inner),) * 2)) @ loss, x.energy)
    lost = lost * (x.kind == PION)
    pion = (medium.interaction_length / medium.radiation_length) @ way
    begin = jnp.where(x.kind == GAMMA, 9 / 7 * first, 0.0)
    begin = jnp.where(x.kind == PION, pion, begin)
    mip = jnp.diff(lost, axis=0, prepend=jnp.zeros_like(lost[:1]))
    return mip, x.energy - lost[-1], begin, first


def _unseen(near: Array, active: Array, share: Array) -> Array:
    """1 - s^2 with the part s of the energy around a layer that active layers get.

    Nothing fluctuates where everything is seen.
    """
    return 1 - (near @ (active * share) / (near @ share)) ** 2


def _grainy(energy: Array, grain: Array, normal: Array) -> Array:
    """A positive random number of that mean, in which each grain counts by itself.

    e (1 + z sqrt(r) / 2)^2 / (1 + r / 4) with r = 4 sqrt(1 + q / 2) - 4, q = g / e: the mean
    is e exactly, the variance g e / (1 + q / 2).

    Args:
        energy: e, GeV.
        grain: g, GeV: e / g is the number of crossings that make up e.
        normal: a standard normal number z for each.
    """
    q = grain / (energy + 1e-9)
    r = 2 * q / (jnp.sqrt(1 + q / 2) + 1)
    root = jnp.sqrt(r + 1e-8)
    return energy * (1 + root * normal / 2) ** 2 / (1 + root**2 / 4)


class RecordedShowers(eqx.Module):
    """Showers in a finely sliced block, from any simulator.

    Args:
        particles: who made them.
        slices: energy in each slice along the beam, GeV, shape (event, slice).
    """

    particles: Particles
    slices: Float[Array, "event slice"]


class Recorded(AbstractSource[RecordedShowers]):
    """Draws recorded showers, with replacement: no new primaries are simulated.

    Args:
        energy: of the primaries, GeV, shape (shower,).
        kind: index into `KINDS`, shape (shower,).
        slices: energy in each slice along the beam, GeV, shape (shower, slice).

    Raises:
        InputError: shapes that do not belong together.
    """

    energy: Float[Array, " shower"]
    kind: Float[Array, " shower"]
    slices: Float[Array, "shower slice"]
    primaries: int = eqx.field(static=True, default=1)

    def __check_init__(self):
        """Refuse shapes that do not belong together."""
        shapes = [jnp.shape(v) for v in (self.energy, self.kind, self.slices)]
        if len(shapes[2]) != 2 or shapes[0] != shapes[1] or shapes[0] != shapes[2][:1]:
            raise errors.InputError(
                "Recorded showers need energies and kinds of shape (shower,) and slices of "
                f"shape (shower, slice), but have {shapes}. Give one row for each shower."
            )

    def __call__(self, events: int, *, key: Key) -> RecordedShowers:
        """Draw `events` rows."""
        row = jax.random.randint(key, (events,), 0, self.energy.shape[0])
        truth = Particles(self.energy[row], self.kind[row])
        return RecordedShowers(truth, self.slices[row])


class Resummed(AbstractPathwiseSimulator[Stack, RecordedShowers, Array]):
    """Deposits of a longitudinal layout, summed anew from one finely sliced block.

    The layers of the design are cut out of the block, which they are all made of: its
    material choices do not count, "absorbers" are what is not read out. Energy is uniform
    within a slice, so that the result is differentiable in all thicknesses; what lies
    behind the block is empty.

    Args:
        step: thickness of a slice, m.
    """

    step: float

    def __call__(
        self, design: Stack, x: RecordedShowers, *, key: Key
    ) -> Float[Array, "event layer"]:
        """Deposits of every shower, GeV, shape (event, layer)."""
        where = edges(design.thickness)[:, None] / self.step
        covered = jnp.clip(where - jnp.arange(x.slices.shape[1]), 0.0, 1.0)
        return x.slices @ jnp.diff(covered, axis=0).T
