"""Tracks of charged particles in a solenoid: helices through cylinders.

The field is uniform, along z. A particle flies anticlockwise about the axis for q B < 0:
dp/ds = 0.299792458 q (u x B) GeV/m, with p in GeV and B in T.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from kythera import errors
from kythera.core.compilation import jit
from kythera.core.small_matrices import solve
from kythera.core.types import Array, Float, Scalar, Vector
from kythera.physics.scattering import layer_variances
from kythera.stages.reconstruction.linear_track import Fit, Hits, least_squares, smooth
from kythera.units import c, pion_mass

STEPS = 8  # of Gauss and Newton; tracks that reach all layers need three or four
FARTHEST = 0.98  # sine of half the turn at which a helix counts as not reaching a layer


class Tracker(eqx.Module):
    """Cylinders about the z axis, from inside to outside, in a solenoid.

    Args:
        radius: m, shape (layer,).
        azimuthal: standard error along the circle, m, (layer,).
        axial: standard error along z, m, (layer,).
        thickness: x/X0 of each, crossed at right angles, (layer,).
        field: T.

    Raises:
        InputError: radii that do not rise from above 0, errors that are not > 0, a negative
            thickness, or different numbers of layers (of JAX's arrays, where they are used).
    """

    radius: Float[Array, " layer"]
    azimuthal: Float[Array, " layer"]
    axial: Float[Array, " layer"]
    thickness: Float[Array, " layer"]
    field: Scalar | float

    def __check_init__(self):
        """Refuse layers that are in no order, or measure without errors."""
        rows = self.radius, self.azimuthal, self.axial, self.thickness
        if any(isinstance(v, jax.Array) for v in rows):
            return  # maybe while JAX traces
        radius, azimuthal, axial, thickness = map(np.asarray, rows)
        _check_layers(*rows)
        if not (np.all(np.diff(radius, prepend=0) > 0) and np.all(thickness >= 0)):
            raise errors.InputError(
                "Radii of layers must rise, from above 0 m, and thicknesses must be >= 0, but "
                f"they are {radius.tolist()} and {thickness.tolist()}. Sort the layers from "
                "inside to outside."
            )
        if not (np.all(azimuthal > 0) and np.all(axial > 0)):
            raise errors.InputError(
                "Standard errors of layers must be > 0 m, but are "
                f"{azimuthal.tolist()} and {axial.tolist()}. Give hits that are missing a "
                "weight of 0."
            )


class HelixHits(eqx.Module):
    """What the cylinders measured.

    Args:
        tracker: where, and how well.
        azimuth: rad, shape (event, layer).
        z: m, the same shape.
        weight: of each hit, the same shape: 1, or 0 where it is missing, whatever its azimuth
            and z are then.
    """

    tracker: Tracker
    azimuth: Float[Array, "event layer"]
    z: Float[Array, "event layer"]
    weight: Float[Array, "event layer"]


class Helix(eqx.Module):
    """A helix, by its point nearest to the z axis.

    Args:
        d0: distance of that point from the axis, m; above 0 where the axis is to the right
            of the particle. The point is d0 (-sin phi, cos phi).
        phi: azimuth of the direction there, rad.
        curvature: charge over transverse momentum, e/GeV.
        z0: m.
        dip: tangent of the angle between the momentum and the transverse plane.
    """

    d0: Any
    phi: Any
    curvature: Any
    z0: Any
    dip: Any

    @property
    def momentum(self) -> Any:
        """GeV."""
        least = 1e-9  # a straight track has a million TeV
        return jnp.sqrt(1 + self.dip**2) / jnp.maximum(jnp.abs(self.curvature), least)


class Tracks(eqx.Module):
    """Fitted helices.

    Args:
        helix: as the particle starts, before it scatters, each shape (event,).
        covariance: of d0, phi, curvature, z0, dip, (event, 5, 5).
        chi2: of the track, (event,).
        freedom: measured coordinates less five, (event,).
        found: whether the hits determine a helix and the iterations came to rest, (event,);
            if not, all numbers are 0.
    """

    helix: Helix
    covariance: Float[Array, "event 5 5"]
    chi2: Float[Array, " event"]
    freedom: Float[Array, " event"]
    found: Any


def crossing(helix: Helix, radius: Array, field: Array | float) -> tuple[Array, ...]:
    """Where a helix leaves a cylinder about the z axis, exactly.

    With w = -0.299792458 B q/pT the change of direction for each metre in the transverse
    plane, the chord from the point nearest to the axis is l = sqrt((r^2 - d0^2) / (1 + w
    d0)), and the way s = (2 / w) arcsin(w l / 2), which is l where there is no field.

    Args:
        helix: one.
        radius: of the cylinder, m, above |d0|.
        field: T.

    Returns:
        azimuth, z, azimuth of the direction, and whether the helix comes so far.
    """
    turn = -c * field * helix.curvature
    open_ = 1 + turn * helix.d0
    reached = (radius > jnp.abs(helix.d0)) & (open_ > 0)
    square = jnp.where(reached, (radius**2 - helix.d0**2) / open_, radius**2)
    chord = jnp.sqrt(square)
    sine = turn * chord / 2
    reached = reached & (jnp.abs(sine) < FARTHEST)
    sine = jnp.clip(sine, -FARTHEST, FARTHEST)
    way = chord * _arcsin_ratio(sine)
    half = helix.phi + turn * way / 2
    x = chord * jnp.cos(half) - helix.d0 * jnp.sin(helix.phi)
    y = chord * jnp.sin(half) + helix.d0 * jnp.cos(helix.phi)
    z = helix.z0 + helix.dip * way
    return jnp.arctan2(y, x), z, helix.phi + turn * way, reached


def _arcsin_ratio(x: Array) -> Array:
    """arcsin(x) / x, smooth at 0."""
    small = jnp.abs(x) < 0.03
    square = jnp.where(small, x, 0.0) ** 2
    series = 1 + square / 6 + 3 * square**2 / 40 + 5 * square**3 / 112
    safe = jnp.where(small, 0.5, x)
    return jnp.where(small, series, jnp.arcsin(safe) / safe)


def helix_hits(
    parameters: Vector,
    tracker: Tracker,
    azimuth: Float[Array, " layer"],
    z: Float[Array, " layer"],
    weight: Float[Array, " layer"],
    mass: float = pion_mass,
) -> Hits:
    """Hits about a helix, linear in the changes of its five parameters.

    A layer turns the track by two independent angles of Highland's variance for the whole
    path. Turned by t in the transverse plane and u out of it, with |p| kept, the direction
    changes by t / cos(dip angle), the dip by u / cos^2 and the curvature by curvature dip
    u; the helix through the same point is that of the inverse of the derivatives.

    Args:
        parameters: d0, phi, curvature, z0, dip of the reference.
        tracker: the layers.
        azimuth: measured, rad.
        z: measured, m.
        weight: of each hit; a layer that the reference does not reach counts as missed.
        mass: of the particle, GeV.

    Raises:
        InputError: different numbers of layers and hits.
    """
    _check_layers(tracker.radius, azimuth, z, weight)
    helix = Helix(*parameters)
    azimuth, z = (jnp.where(weight != 0, v, 0.0) for v in (azimuth, z))

    def local(parameters: Vector, radius: Array) -> tuple[Array, tuple]:
        own = Helix(*parameters)
        found = crossing(own, radius, tracker.field)
        azimuth, z, direction, _ = found
        return jnp.stack(
            [radius * azimuth, z, direction, own.dip, own.curvature]
        ), found

    slopes, found = jax.vmap(jax.jacfwd(local, has_aux=True), (None, 0))(
        parameters, tracker.radius
    )
    expected, expected_z, direction, reached = found
    secant = jnp.sqrt(1 + helix.dip**2)
    turned = jnp.zeros((5, 2)).at[2, 0].set(secant).at[3, 1].set(secant**2)
    turned = turned.at[4, 1].set(helix.curvature * helix.dip)
    # of a layer that is not reached nothing counts, and it may be singular
    slopes = jnp.where(reached[:, None, None], slopes, jnp.eye(5))
    levers = jax.vmap(solve, (0, None))(slopes, turned)
    cosine = jnp.cos(direction - expected) / secant
    crossed = jnp.where(reached, tracker.thickness / jnp.where(reached, cosine, 1.0), 0)
    variances = layer_variances(crossed, helix.momentum, mass=mass)
    off = azimuth - expected
    off = tracker.radius * jnp.arctan2(jnp.sin(off), jnp.cos(off))
    sigma = jnp.stack([tracker.azimuthal, tracker.axial], -1)
    return Hits(
        residual=jnp.stack([off, z - expected_z], -1),
        rows=slopes[:, :2],
        precision=jnp.where(reached, weight, 0.0)[:, None] / sigma**2,
        noise=variances[:, None, None] * levers @ jnp.swapaxes(levers, -1, -2),
    )


def start(
    tracker: Tracker,
    azimuth: Float[Array, " layer"],
    z: Float[Array, " layer"],
    weight: Float[Array, " layer"],
) -> Vector:
    """A helix near the hits: azimuth = phi + w r / 2 + d0 / r, z = z0 + dip r.

    The first order in curvature and d0, fitted without scattering. All are 0 where the hits
    determine no helix: fewer than three with a weight above 0, or no field.

    Args:
        tracker: the layers.
        azimuth: measured, rad.
        z: measured, m.
        weight: of each hit, 0 where it is missing.

    Returns:
        d0, phi, curvature, z0, dip.

    Raises:
        InputError: different numbers of layers and hits.
    """
    _check_layers(tracker.radius, azimuth, z, weight)
    azimuth, z = (jnp.where(weight != 0, v, 0.0) for v in (azimuth, z))
    some = azimuth[jnp.argmax(weight)]
    azimuth = some + jnp.arctan2(jnp.sin(azimuth - some), jnp.cos(azimuth - some))
    r = tracker.radius
    ones, none = jnp.ones_like(r), jnp.zeros_like(r)
    bent = -c * tracker.field * r / 2
    rows = jnp.stack([jnp.stack([1 / r, ones, bent, none, none], -1)])
    rows = jnp.concatenate([rows, jnp.stack([none, none, none, ones, r], -1)[None]])
    sigma = jnp.stack([tracker.azimuthal / r, tracker.axial], -1)
    hits = Hits(
        residual=jnp.stack([azimuth, z], -1),
        rows=jnp.swapaxes(rows, 0, 1),
        precision=weight[:, None] / sigma**2,
        noise=jnp.zeros((len(r), 5, 5)),
    )
    return least_squares(hits).parameters[0]


def _check_layers(radius: Any, *rows: Any) -> None:
    """Refuse shapes that would be stretched to each other."""
    shapes = [np.shape(v) for v in (radius, *rows)]
    if len(shapes[0]) != 1 or set(shapes) != {shapes[0]}:
        raise errors.InputError(
            "Each layer must have a radius, and one hit of each track, with a weight, but the "
            f"shapes are {', '.join(map(str, shapes))}. Give as many of all, missing hits "
            "with a weight of 0."
        )


def fit_helix(
    tracker: Tracker,
    azimuth: Float[Array, " layer"],
    z: Float[Array, " layer"],
    weight: Float[Array, " layer"],
    mass: float = pion_mass,
) -> tuple[Vector, Fit]:
    """One track: Gauss-Newton steps, each a linear fit with scattering by `smooth`.

    At rest the step s(p, hits, tracker) is zero, which defines p as their function; its
    derivatives are the exact ones, dp = -(ds/dp)^-1 ds, whatever the number of steps.

    Args:
        tracker: the layers.
        azimuth: measured, rad.
        z: measured, m.
        weight: of each hit.
        mass: of the particle, GeV.

    Returns:
        d0, phi, curvature, z0, dip, and the last linear fit about them.

    Raises:
        InputError: different numbers of layers and hits.
    """

    def fit(parameters: Vector) -> Fit:
        return smooth(helix_hits(parameters, tracker, azimuth, z, weight, mass))

    def step(parameters: Vector) -> Vector:
        return fit(parameters).parameters[0]

    near = start(tracker, azimuth, z, weight)
    rest = jax.lax.stop_gradient(
        jax.lax.fori_loop(
            0,
            STEPS,
            lambda _, p: p + jax.lax.stop_gradient(step(p)),
            jax.lax.stop_gradient(near),
        )
    )
    slope = jax.lax.stop_gradient(jax.jacfwd(step)(rest))
    singular = ~jnp.all(jnp.isfinite(slope)) | ~fit(rest).found
    slope = jnp.where(singular, -jnp.eye(5), slope)
    parameters = rest - solve(slope, step(rest))
    return parameters, fit(parameters)


@jit
def fit_helices(hits: HelixHits, mass: float = pion_mass) -> Tracks:
    """Helices of all events, with their covariances, by `fit_helix`.

    Differentiable in radii, resolutions, thicknesses, the field and the weights of hits;
    derivatives by what a missing hit holds, its weight included, are 0.
    Energy loss is not in the model. In single precision curvatures keep four or five
    digits: fit in double precision where more is needed.

    Args:
        hits: one track in each event.
        mass: of the particles, GeV; by default that of a pion.

    Raises:
        InputError: different numbers of layers and hits.
    """

    def event(azimuth: Array, z: Array, weight: Array) -> Tracks:
        parameters, fit = fit_helix(hits.tracker, azimuth, z, weight, mass)
        sigma = jnp.sqrt(jnp.maximum(jnp.diagonal(fit.covariance[0]), 0.0))
        still = jnp.all(jnp.abs(fit.parameters[0]) <= 0.01 * sigma)
        found = fit.found & still
        whole = Helix(*parameters), fit.covariance[0], fit.chi2, fit.freedom
        helix, covariance, chi2, freedom = jax.tree.map(
            lambda v: jnp.where(found, v, 0.0), whole
        )
        return Tracks(helix, covariance, chi2, freedom, found)

    return jax.vmap(event)(hits.azimuth, hits.z, hits.weight)
