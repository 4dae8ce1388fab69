"""A stack of absorbers and active layers: what can be chosen, what it costs."""

import dataclasses

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from kythera import errors
from kythera.core.types import Array, Float, Scalar
from kythera.physics import showers
from kythera.units import cm

# AIDO's prices, in its currency for each cm of thickness (of a face that is not named), and
# those of further materials, set here on the same scale (`reference.md`).
PRICES = {
    "lead": 25.0,
    "iron": 4.166,
    "copper": 15.0,
    "tungsten": 600.0,
    "lead_tungstate": 2500.0,
    "polystyrene": 0.01,
    "bgo": 3000.0,
    "lead_glass": 300.0,
    "caesium_iodide": 1000.0,
}


class Layers(eqx.Module):
    """The stack as a shower meets it: absorber, active, absorber, ... along the beam.

    Args:
        thickness: of each layer, m, shape (layer,).
        medium: what each is made of, arrays of shape (layer,).
    """

    thickness: Float[Array, " layer"]
    medium: showers.Medium

    @property
    def is_active(self) -> np.ndarray:
        """Which layers are read out: every second one."""
        return np.arange(self.thickness.shape[0]) % 2 == 1


class Stack(eqx.Module):
    """Pairs of an absorber and an active layer, the first one in front.

    A layer of thickness 0 is absent, and so are both layers of a pair beyond `pairs`.
    Materials are weights that sum to one in the last axis, one-hot where a choice is made;
    in between, a layer is a fine mixture with these parts of its volume.

    Args:
        absorber: thickness of each absorber, m, shape (pair,).
        active: thickness of each active layer, m, shape (pair,).
        absorber_material: weights, shape (pair, absorbers).
        active_material: weights, shape (pair, actives).
        pairs: how many are built, counted from the front; a number in between makes the
            last one thinner by that part.
        absorbers: names of the materials that an absorber may have.
        actives: of those that an active layer may have.
    """

    absorber: Float[Array, " pair"]
    active: Float[Array, " pair"]
    absorber_material: Float[Array, "pair absorbers"]
    active_material: Float[Array, "pair actives"]
    pairs: Float[Array, ""]
    absorbers: tuple[str, ...] = eqx.field(static=True)
    actives: tuple[str, ...] = eqx.field(static=True)

    @property
    def presence(self) -> Float[Array, " pair"]:
        """1 for each pair that is built, 0 for the others."""
        return jnp.clip(self.pairs - jnp.arange(self.absorber.shape[0]), 0, 1)

    @property
    def thickness(self) -> Float[Array, " layer"]:
        """Of each layer as built, m, absorbers and active layers in turn."""
        both = jnp.stack([self.absorber, self.active], -1)
        return jnp.ravel(both * self.presence[:, None])

    @property
    def weights(self) -> Float[Array, "layer material"]:
        """Of the materials of each layer: first all absorbers, then all active ones."""
        left = jnp.concatenate(
            [self.absorber_material, jnp.zeros_like(self.active_material)], -1
        )
        right = jnp.concatenate(
            [jnp.zeros_like(self.absorber_material), self.active_material], -1
        )
        return jnp.stack([left, right], 1).reshape(-1, left.shape[-1])

    @property
    def materials(self) -> tuple[str, ...]:
        """Names that belong to the last axis of `weights`."""
        return (*self.absorbers, *self.actives)

    def layers(self) -> Layers:
        """The stack as a shower meets it."""
        medium = showers.mixed(showers.media(self.materials), self.weights)
        return Layers(self.thickness, medium)

    def chosen(self) -> tuple[str, ...]:
        """The material of each layer that has the largest weight (not compiled)."""
        best = np.argmax(np.asarray(self.weights), -1)
        return tuple(self.materials[i] for i in best)


def length(stack: Stack) -> Scalar:
    """Length of the stack as built, m."""
    return jnp.sum(stack.thickness)


def cost(stack: Stack) -> Scalar:
    """Price of the stack as built, `PRICES` times thickness.

    The price of a volume times the area of the face, which is the same for all layers; the
    model integrates over the face, so that only the product counts.
    """
    prices = jnp.array([PRICES[name] for name in stack.materials])
    return jnp.sum(stack.thickness / cm * (stack.weights @ prices))


class WithinLimits(eqx.Module):
    """Keeps length and cost exactly: all layers shrink by one factor where they must.

    Both are proportional to the thicknesses, so that the factor
    min(1, max_length / length, max_cost / cost) is exact.

    Args:
        max_length: m.
        max_cost: in the currency of `PRICES`.
    """

    max_length: float
    max_cost: float

    def __call__(self, stack: Stack) -> Stack:
        """The nearest stack along its own proportions."""
        over = jnp.maximum(length(stack) / self.max_length, cost(stack) / self.max_cost)
        factor = 1 / jnp.maximum(over, 1.0)
        return dataclasses.replace(
            stack, absorber=stack.absorber * factor, active=stack.active * factor
        )


def check_materials(names: tuple[str, ...], what: str) -> None:
    """Refuse fewer than two materials, or one without a price.

    Raises:
        InputError: names the material and those that are known.
    """
    for name in names:
        if name not in PRICES:
            raise errors.InputError(
                f"The {what} material {name!r} has no price. "
                f"{errors.nearest(name, PRICES)}"
            )
    if len(names) < 2 or len(set(names)) < len(names):
        raise errors.InputError(
            f"The choice of {what} materials needs at least two different ones, but is "
            f"{names}. Add one, and freeze the choice if it is made."
        )
