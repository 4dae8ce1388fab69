"""GravNet: a network of hits that finds out which of them belong together.

S. R. Qasim, J. Kieseler, Y. Iiyama, M. Pierini, Learning representations of irregular
particle-detector geometry with distance-weighted graph networks, Eur. Phys. J. C 79 (2019)
608, arXiv:1902.07987.
"""

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

from kythera import errors
from kythera.core.compilation import jit
from kythera.core.stage import AbstractLearnedStage
from kythera.core.types import Array, Bool, Float, Key
from kythera.stages.reconstruction.neighbours import nearest
from kythera.stages.reconstruction.object_condensation import Condensed


class Convention(NamedTuple):
    """What codes that are called GravNet do differently.

    Args:
        scale: a of the potential exp(-(a d^2)^n), d the distance in the learned space.
        power: n.
        itself: whether a hit is among its own neighbours.
        mean_first: the order of the two aggregates.
        tanh: whether the output is squeezed.
    """

    scale: float
    power: int
    itself: bool
    mean_first: bool
    tanh: bool


CONVENTIONS = {
    # Section 3 of the paper.
    "paper": Convention(1.0, 1, False, False, True),
    # Its code, jkiesele/caloGraphNN: a Gaussian of a distance that is squared already.
    "caloGraphNN": Convention(10.0, 2, False, False, True),
    # GravNetConv of PyTorch Geometric 2.8; pepr of pytorch_cmspepr with `itself`.
    "pyg": Convention(10.0, 1, True, True, False),
}


class GravNetLayer(eqx.Module):
    """Hits exchange messages with their neighbours in a space that is learned.

    Of each hit j, s_j = S x_j + a are coordinates and h_j = H x_j + b a message. Those of the
    k nearest hits, weakened by the distance, h_k V(d_jk), are summarised by their mean and
    their largest value, and out_j = W (x_j, summary) + c. Derivatives reach s through V.

    Args:
        inputs: numbers for each hit.
        outputs: the same.
        space: coordinates.
        message: numbers in a message.
        neighbours: k, at most the number of hits (less one where a hit is not its own
            neighbour; caloGraphNN counts it and then leaves it out: its 40 are 39 here).
        convention: "paper", "caloGraphNN" or "pyg": see `CONVENTIONS`.
        key: of the weights.

    Raises:
        InputError: an unknown convention; at the call, too few hits.
    """

    place: eqx.nn.Linear
    message: eqx.nn.Linear
    out: eqx.nn.Linear
    neighbours: int = eqx.field(static=True)
    convention: str = eqx.field(static=True)

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        space: int = 4,
        message: int = 22,
        neighbours: int = 40,
        convention: str = "pyg",
        key: Key,
    ):
        """See the class."""
        if convention not in CONVENTIONS:
            raise errors.InputError(
                f"A convention of GravNet must be known, but is {convention!r}. "
                + errors.nearest(convention, CONVENTIONS)
            )
        keys = jax.random.split(key, 3)
        self.place = eqx.nn.Linear(inputs, space, key=keys[0])
        self.message = eqx.nn.Linear(inputs, message, key=keys[1])
        self.out = eqx.nn.Linear(inputs + 2 * message, outputs, key=keys[2])
        self.neighbours, self.convention = neighbours, convention

    def summary(
        self, x: Float[Array, "hit inputs"], present: Bool[Array, " hit"]
    ) -> Float[Array, "hit both"]:
        """Mean and largest of the messages of the neighbours that exist; 0 of none."""
        rule = CONVENTIONS[self.convention]
        s, h = jax.vmap(self.place)(x), jax.vmap(self.message)(x)
        near, exists = nearest(s, self.neighbours, present=present, itself=rule.itself)
        square = jnp.sum((s[:, None] - s[near]) ** 2, -1)
        potential = jnp.exp(-((rule.scale * square) ** rule.power))
        told, exists = h[near] * potential[..., None], exists[..., None]
        mean = jnp.sum(jnp.where(exists, told, 0.0), 1)
        mean = mean / jnp.maximum(jnp.sum(exists, 1), 1)
        largest = jnp.max(jnp.where(exists, told, -jnp.inf), 1)
        largest = jnp.where(jnp.any(exists, 1), largest, 0.0)
        both = (mean, largest) if rule.mean_first else (largest, mean)
        return jnp.concatenate(both, -1)

    def __call__(
        self, x: Float[Array, "hit inputs"], present: Bool[Array, " hit"]
    ) -> Float[Array, "hit outputs"]:
        """The hits of one event; those that are not present tell nothing to others."""
        both = jnp.concatenate([x, self.summary(x, present)], -1)
        out = jax.vmap(self.out)(both)
        return jnp.tanh(out) if CONVENTIONS[self.convention].tanh else out


class GravNetBlock(eqx.Module):
    """The mean of the event to each hit, dense layers with tanh, GravNet, normalisation.

    The paper's block, with each hit normalised by itself (layer norm) where the paper takes
    the mean and variance of a batch of hits: no running averages, and an event's result does
    not depend on what is computed beside it.

    Args:
        inputs: numbers for each hit.
        outputs: the same.
        width: of the dense layers.
        depth: their number.
        key: of the weights.
        layer: of `GravNetLayer`: space, message, neighbours, convention.
    """

    dense: tuple[eqx.nn.Linear, ...]
    layer: GravNetLayer
    norm: eqx.nn.LayerNorm

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        width: int,
        depth: int,
        key: Key,
        **layer: Any,
    ):
        """See the class."""
        keys = jax.random.split(key, depth + 1)
        sizes = [2 * inputs, *[width] * depth]
        self.dense = tuple(
            eqx.nn.Linear(a, b, key=k)
            for a, b, k in zip(sizes, sizes[1:], keys, strict=False)
        )
        self.layer = GravNetLayer(sizes[-1], outputs, key=keys[-1], **layer)
        self.norm = eqx.nn.LayerNorm(outputs)

    def __call__(
        self, x: Float[Array, "hit inputs"], present: Bool[Array, " hit"]
    ) -> Float[Array, "hit outputs"]:
        """The hits of one event."""
        own = jnp.where(present[:, None], x, 0.0)
        mean = jnp.sum(own, 0) / jnp.maximum(jnp.sum(present), 1)
        x = jnp.concatenate([own, jnp.broadcast_to(mean, x.shape)], -1)
        for dense in self.dense:
            x = jnp.tanh(jax.vmap(dense)(x))
        return jax.vmap(self.norm)(self.layer(x, present))


class GravNet(AbstractLearnedStage):
    """Finds objects among hits: for each hit beta, a place, and what it says of its object.

    Blocks of GravNet, all of whose outputs go into the last network; trained by
    `CondensationLoss`. The order of the hits does not count, and one of weight 0 is not
    there at all, whatever it holds. The paper's model has 4 blocks, 3 layers of 64, outputs
    of 48, 40 neighbours, and a head of 128.

    Args:
        hits: (design, signal) -> numbers of order one, shape (event, hit, inputs), and
            weights, shape (event, hit): a hit is there where its weight is above 0.
        inputs: numbers for each hit.
        places: coordinates in which the hits of an object gather.
        payload: numbers that each hit says of its object, such as its energy.
        blocks: their number.
        outputs: of each block.
        width: of the dense layers in a block.
        depth: their number.
        head: width of the last hidden layer.
        key: of the weights, `jax.random.key(1)`; by default that of zero.
        layer: of `GravNetLayer`: space, message, neighbours, convention.

    Raises:
        InputError: an unknown convention; at the call, fewer hits (with those of weight 0)
            than neighbours.
    """

    references: ClassVar[tuple[str, ...]] = (
        "S. R. Qasim, J. Kieseler, Y. Iiyama, M. Pierini, Learning representations of "
        "irregular particle-detector geometry with distance-weighted graph networks, Eur. "
        "Phys. J. C 79 (2019) 608, arXiv:1902.07987",
    )
    hits: Callable[
        [Any, Any], tuple[Float[Array, "event hit inputs"], Float[Array, "event hit"]]
    ] = eqx.field(static=True)
    blocks: tuple[GravNetBlock, ...]
    head: eqx.nn.MLP
    places: int = eqx.field(static=True)
    sizes: tuple[tuple[str, Any], ...] = eqx.field(static=True)

    def __init__(
        self,
        hits: Callable[[Any, Any], Any],
        inputs: int,
        *,
        places: int = 2,
        payload: int = 0,
        blocks: int = 4,
        outputs: int = 48,
        width: int = 64,
        depth: int = 3,
        head: int = 128,
        key: Key | None = None,
        **layer: Any,
    ):
        """See the class."""
        key = jax.random.key(0) if key is None else key
        self.hits, self.places = hits, places
        same = {"width": width, "depth": depth, **layer}
        sizes = {"inputs": inputs, "payload": payload, "blocks": blocks}
        sizes |= {"outputs": outputs, "head": head, **same}
        self.sizes = tuple(sizes.items())  # what `fresh` needs
        keys = jax.random.split(key, blocks + 1)
        first = [inputs, *[outputs] * (blocks - 1)]
        self.blocks = tuple(
            GravNetBlock(n, outputs, key=k, **same)
            for n, k in zip(first, keys, strict=False)
        )
        last = 1 + places + payload
        self.head = eqx.nn.MLP(blocks * outputs, last, head, 1, key=keys[-1])

    def fresh(self, key: Key) -> "GravNet":
        """New weights."""
        return GravNet(self.hits, places=self.places, key=key, **dict(self.sizes))

    def __call__(self, design: Any, x: Any, *, key: Key) -> Condensed:
        """What each hit says; 0 for those that are not there."""
        features, weights = self.hits(design, x)
        return _condensed(self, jnp.asarray(features, float), jnp.asarray(weights) > 0)

    def event(self, x: Array, present: Array) -> Array:
        """The head's outputs for the hits of one event."""
        seen = []
        for block in self.blocks:
            x = block(x, present)
            seen.append(x)
        return jax.vmap(self.head)(jnp.concatenate(seen, -1))


@jit
def _condensed(network: GravNet, features: Array, present: Array) -> Condensed:
    features = jnp.where(present[..., None], features, 0.0)
    out = jax.vmap(network.event)(features, present)
    out = jnp.where(present[..., None], out, 0.0)
    place, payload = jnp.split(out[..., 1:], [network.places], -1)
    beta = jnp.where(present, jax.nn.sigmoid(out[..., 0]), 0.0)
    return Condensed(beta, place, payload, present)
