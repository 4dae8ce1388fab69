"""A nearest-neighbour regressor in which every training event learns how much it counts.

T. Dorigo, S. Guglielmini, J. Kieseler, L. Layer, G. C. Strong, Deep regression of muon energy
with a k-nearest neighbor algorithm, arXiv:2203.02841: weights and biases for each training
event, found by gradient descent.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from kythera import errors
from kythera.core.checks import check_count
from kythera.core.compilation import jit
from kythera.core.stage import AbstractLearnedStage
from kythera.core.types import Array, Float, Int, Key, Vector
from kythera.physics.statistics.checks import known
from kythera.stages.reconstruction.neighbours import nearest


def weighted_mean(
    near: Int[Array, "event k"],
    targets: Float[Array, "training out"],
    log_weights: Float[Array, " training"],
    biases: Float[Array, "training out"],
) -> Float[Array, "event out"]:
    """y = sum_i w_i (y_i + b_i) / sum_i w_i over the neighbours i, w = exp(log weight).

    With weights of 1 and biases of 0 it is the plain mean of the neighbours.

    Args:
        near: numbers of the neighbours of each event.
        targets: y_i of the training events.
        log_weights: ln w_i.
        biases: b_i, in the unit of the targets.

    Raises:
        InputError: shapes that do not fit, or a neighbour that is no training event.
    """
    near, targets = jnp.asarray(near), jnp.asarray(targets)
    shapes = near.shape, targets.shape, np.shape(log_weights), np.shape(biases)
    if (
        [len(s) for s in shapes] != [2, 2, 1, 2]
        or shapes[1] != shapes[3]
        or shapes[1][:1] != shapes[2]
    ):
        raise errors.InputError(
            "Neighbours must have the shape (event, k), targets and biases (training, out), "
            f"logarithms of weights (training,), but the shapes are {shapes[0]}, {shapes[1]}, "
            f"{shapes[3]}, {shapes[2]}. Reshape them."
        )
    if known(near) and near.size:
        low, up = int(jnp.min(near)), int(jnp.max(near))
        if low < 0 or up >= len(targets):
            raise errors.InputError(
                f"Neighbours must be training events, 0 to {len(targets) - 1}, but go from "
                f"{low} to {up}. Give numbers of rows of the targets."
            )
    weights = jax.nn.softmax(log_weights[near], -1)
    return jnp.einsum("ek,eko->eo", weights, (targets + biases)[near])


class WeightedNeighbours(AbstractLearnedStage):
    """The overparametrised k-nearest-neighbour regressor: a weight and a bias for each event.

    It keeps its training events. What is learned are a weight and biases for each of them, by
    `trained`, or under `Retrain`; the events themselves are never changed, so that they should
    be of the designs at which it is used. Features count as they are: give numbers of equal
    spread. The result jumps where the neighbours change, and its derivative by the features
    is zero: it serves estimators that need no derivative of the reconstruction. Where a
    feature is not finite, or so far off that squares overflow, the result is NaN.

    Args:
        features: (design, signal) -> numbers, shape (event, inputs).
        events: features of the training events, (training, inputs).
        targets: what is to be known of them, (training, outputs) or (training,).
        neighbours: k, below the number of training events.

    Raises:
        InputError: features and targets of different numbers of events, values that are not
            finite, neighbours that are no whole number, or too few events for them; at the
            call, another number of features than the training events have.
    """

    references: ClassVar[tuple[str, ...]] = (
        "T. Dorigo, S. Guglielmini, J. Kieseler, L. Layer, G. C. Strong, Deep regression of "
        "muon energy with a k-nearest neighbor algorithm, arXiv:2203.02841",
    )
    features: Callable[[Any, Any], Float[Array, "event inputs"]] = eqx.field(
        static=True
    )
    events: Float[Array, "training inputs"]
    targets: Float[Array, "training out"]
    log_weights: Float[Array, " training"]
    biases: Float[Array, "training out"]
    neighbours: int = eqx.field(static=True)

    def __init__(
        self,
        features: Callable[[Any, Any], Any],
        events: Any,
        targets: Any,
        *,
        neighbours: int = 20,
    ):
        """See the class."""
        events, targets = jnp.asarray(events, float), jnp.asarray(targets, float)
        targets = targets.reshape(len(targets), -1)
        if events.ndim != 2 or len(events) != len(targets):
            raise errors.InputError(
                "Training events are features of shape (training, inputs) with a target "
                f"each, but the shapes are {events.shape} and {targets.shape}. Give as many "
                "of both."
            )
        if not (jnp.all(jnp.isfinite(events)) and jnp.all(jnp.isfinite(targets))):
            raise errors.InputError(
                "Features and targets of training events must be finite, but "
                f"{int(jnp.sum(~jnp.isfinite(events)))} features and "
                f"{int(jnp.sum(~jnp.isfinite(targets)))} targets are not. Leave these "
                "events out."
            )
        check_count("neighbours", neighbours, "Try 20")
        if neighbours >= len(events):
            raise errors.InputError(
                "Neighbours must be fewer than the training events, but "
                f"there are {neighbours} of {len(events)}. Lower `neighbours`, or give "
                "more events."
            )
        self.features, self.events, self.targets = features, events, targets
        self.log_weights = jnp.zeros(len(events))
        self.biases = jnp.zeros_like(targets)
        self.neighbours = neighbours

    def fresh(self, key: Key) -> "WeightedNeighbours":
        """The plain mean of the neighbours, whatever the key."""
        return eqx.tree_at(
            lambda s: (s.log_weights, s.biases),
            self,
            (jnp.zeros_like(self.log_weights), jnp.zeros_like(self.biases)),
        )

    def __call__(self, design: Any, x: Any, *, key: Key) -> Float[Array, "event out"]:
        """Shape (event, outputs)."""
        features = jnp.asarray(self.features(design, x), float)
        inputs = self.events.shape[1]
        if features.ndim != 2 or features.shape[1] != inputs:
            raise errors.InputError(
                f"Features must have the shape (event, {inputs}), as the training events "
                f"have, but it is {features.shape}. Give the same features in `features`."
            )
        return _predicted(self, features)

    def trained(
        self,
        key: Key,
        *,
        steps: int = 1000,
        batch: int = 256,
        rate: float = 0.01,
        pull: float = 0.3,
    ) -> tuple["WeightedNeighbours", Vector]:
        """Weights and biases by Adam down the squared error, and the loss at each step.

        Each training event is predicted from its neighbours without itself. Neighbours do
        not change in training and are found once.

        Args:
            key: of the batches.
            steps: of descent.
            batch: events in each.
            rate: of Adam.
            pull: strength of the quadratic pull towards the plain mean, in units of the
                variance of the targets for biases of their standard deviation and
                logarithms of weights of 1. Without it noisy targets are learned by heart; more
                of it where they are noisier.

        Raises:
            InputError: steps or a batch that are no whole number above 0, a rate that is
                not > 0, or a pull below 0.
        """
        check_count("steps", steps, "Try 1000")
        check_count("batch", batch, "Try 256")
        if not (0 < rate < np.inf and 0 <= pull < np.inf):
            raise errors.InputError(
                f"`rate` must be > 0 and `pull` >= 0, but they are {rate} and {pull}. Try "
                "0.01 and 0.3."
            )
        return _train(self, key, (steps, batch, rate, pull))


@jit
def _predicted(stage: WeightedNeighbours, x: Array) -> Array:
    near, exists = nearest(stage.events, stage.neighbours, queries=x)
    targets = jax.lax.stop_gradient(stage.targets)
    found = weighted_mean(near, targets, stage.log_weights, stage.biases)
    return jnp.where(jnp.all(exists, -1, keepdims=True), found, jnp.nan)


@jit
def _train(
    stage: WeightedNeighbours, key: Key, settings: tuple[int, int, float, float]
) -> tuple[WeightedNeighbours, Vector]:
    steps, batch, rate, pull = settings
    near, _ = nearest(stage.events, stage.neighbours, itself=False)
    targets, spread = stage.targets, jnp.std(stage.targets, 0)
    spread = jnp.where(spread > 0, spread, 1.0)
    rule = optax.adam(rate)

    def loss(free: tuple[Array, Array], rows: Array) -> Array:
        logs, biases = free
        found = weighted_mean(near[rows], targets, logs, biases * spread)
        wrong = jnp.mean(((found - targets[rows]) / spread) ** 2)
        return wrong + pull * (jnp.mean(logs**2) + jnp.mean(biases**2))

    def step(carry: tuple, key: Key) -> tuple[tuple, Array]:
        free, state = carry
        rows = jax.random.randint(key, (batch,), 0, len(targets))
        value, slope = jax.value_and_grad(loss)(free, rows)
        update, state = rule.update(slope, state)
        return (optax.apply_updates(free, update), state), value

    free = stage.log_weights, stage.biases / spread
    keys = jax.random.split(key, steps)
    (free, _), course = jax.lax.scan(step, (free, rule.init(free)), keys)
    new = free[0], free[1] * spread
    return eqx.tree_at(lambda s: (s.log_weights, s.biases), stage, new), course
