"""Proximal policy optimisation of networks that build a design part by part.

J. Schulman et al., arXiv:1707.06347, Eq. 7 and 9. A design is one episode: at step t the
network sees the coordinates of the parts before t and the number t, and draws those of part
t; the only reward comes at the end, so that the advantage of each step is the reward
minus what the critic expected (gamma = lambda = 1).
"""

import functools
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from kythera.core.compilation import jit
from kythera.core.types import Array, Float, Key

CLIP = 0.2  # of the ratio of probabilities
NEVER = -1e9  # logarithm of a probability that is none
LEAST = 0.005  # standard deviation, a fraction of the range


class Builder(NamedTuple):
    """What is built, in which order.

    Args:
        part: number of the part of each coordinate, shape (n,).
        absent: the coordinate of each part whose option leaves it out, or -1, (parts,).
        grid: spacing of whole numbers, 0 elsewhere, shape (n,).
        choice: number of the choice of which it is an option, or -1, shape (n,).
        start: values of numbers of an absent part, and the first means, shape (n,).
    """

    part: np.ndarray
    absent: np.ndarray
    grid: np.ndarray
    choice: np.ndarray
    start: np.ndarray


class Net(eqx.Module):
    """Two hidden layers; the last layer begins at zero.

    Args:
        layers: three of them.
    """

    layers: list[eqx.nn.Linear]

    def __init__(self, inputs: int, width: int, outputs: int, key: Key):
        """See the class."""
        keys = jax.random.split(key, 3)
        sizes = ((inputs, width), (width, width), (width, outputs))
        layers = [eqx.nn.Linear(a, b, key=k) for (a, b), k in zip(sizes, keys)]
        last = jax.tree.map(jnp.zeros_like, layers[-1])
        self.layers = [*layers[:-1], last]

    def __call__(self, x: Float[Array, " i"]) -> Float[Array, " o"]:
        """Outputs of one input."""
        first, second, last = self.layers
        return last(jnp.tanh(second(jnp.tanh(first(x)))))


class Nets(eqx.Module):
    """Actor and critic.

    Args:
        actor: what to place: a shift of each mean, a logit for each option.
        critic: the reward that is to be expected.
        log_std: logarithm of the standard deviation of each number, shape (n,).
    """

    actor: Net
    critic: Net
    log_std: Float[Array, " n"]


class Learned(NamedTuple):
    """What changes: the networks and the state of Adam."""

    nets: Nets
    adam: Any


def begin(builder: Builder, width: int, sigma: float, step: float, key: Key) -> Learned:
    """Networks that know nothing: normal distributions about the start."""
    n, parts = len(builder.part), len(builder.absent)
    actor, critic = jax.random.split(key)
    nets = Nets(
        Net(n + parts, width, n, actor),
        Net(n + parts, width, 1, critic),
        jnp.full(n, np.log(sigma), jnp.float32),
    )
    like: Any = nets  # a tree like any other, for Optax
    return jax.device_get(Learned(nets, _adam(step).init(like)))


def _adam(step: float) -> optax.GradientTransformation:
    return optax.chain(optax.clip_by_global_norm(0.5), optax.adam(step, eps=1e-5))


def _seen(builder: Builder, u: Array, t: Array) -> Array:
    """What the networks see at step t: what stands already, and t."""
    before = jnp.where(builder.part < t, u, 0.0)
    return jnp.concatenate([before, jax.nn.one_hot(t, len(builder.absent))])


def _most(builder: Builder, values: Array) -> Array:
    """The largest value among the options of each coordinate's choice, shape (n,)."""
    option, group = builder.choice >= 0, jnp.maximum(builder.choice, 0)
    shown = jnp.where(option, values, NEVER)
    return jax.ops.segment_max(shown, group, values.shape[0])[group]


def _log_odds(builder: Builder, logits: Array) -> Array:
    """Logarithm of the probability of each option; 0 where there is no choice."""
    option, group = builder.choice >= 0, jnp.maximum(builder.choice, 0)
    shifted = jnp.where(
        option, logits - jax.lax.stop_gradient(_most(builder, logits)), 0
    )
    parts = jnp.where(option, jnp.exp(shifted), 0)
    total = jax.ops.segment_sum(parts, group, logits.shape[0])[group]
    return shifted - jnp.log(jnp.where(option, total, 1))


def _placed(builder: Builder, raw: Array) -> tuple[Array, Array]:
    """Point of the cube of what was drawn, and which of the draws count, (n,) each."""
    number = builder.choice < 0
    clipped = jnp.clip(raw, 0, 1)
    cell = jnp.where(builder.grid > 0, builder.grid, 1.0)
    snapped = jnp.clip(jnp.round(clipped / cell) * cell, 0, 1)
    u = jnp.where(number & (builder.grid > 0), snapped, clipped)
    there = raw[jnp.maximum(builder.absent, 0)] * (builder.absent >= 0) < 0.5
    counts = there[builder.part] | ~number
    return jnp.where(counts, u, builder.start), counts


@jit
def build(
    builder: Builder, nets: Nets, key: Key, scale: float, count: int
) -> tuple[Array, Array]:
    """Designs of the present policy.

    Args:
        builder: what is built.
        nets: the networks.
        key: of the draws.
        scale: 1 draws, 0 takes means and the likeliest options.
        count: of designs.

    Returns:
        points of the cube and what was drawn, shape (count, n) each.
    """
    n, parts = len(builder.part), len(builder.absent)

    def one(k: Key) -> tuple[Array, Array]:
        normal, gumbel = jax.random.split(k)
        noise = scale * jnp.exp(nets.log_std) * jax.random.normal(normal, (n,))
        luck = scale * jax.random.gumbel(gumbel, (n,))

        def step(raw: Array, t: Array) -> tuple[Array, None]:
            out = nets.actor(_seen(builder, _placed(builder, raw)[0], t))
            odds = out + luck
            chosen = 1.0 * (odds == _most(builder, odds))
            drawn = jnp.where(builder.choice < 0, builder.start + out + noise, chosen)
            return jnp.where(builder.part == t, drawn, raw), None

        raw, _ = jax.lax.scan(step, jnp.zeros(n), jnp.arange(parts))
        return _placed(builder, raw)[0], raw

    return jax.vmap(one)(jax.random.split(key, count))


def _judged(builder: Builder, nets: Nets, raw: Array) -> tuple[Array, Array, Array]:
    """Log-probability, expected reward and entropy of choices of each step, (parts,)."""
    u, counts = _placed(builder, raw)
    std = jnp.exp(nets.log_std)

    def step(t: Array) -> tuple[Array, Array, Array]:
        seen = _seen(builder, u, t)
        out = nets.actor(seen)
        own = builder.part == t
        number = own & counts & (builder.choice < 0)
        option = own & (builder.choice >= 0)
        z = (raw - builder.start - out) / std
        normal = -0.5 * z**2 - nets.log_std
        odds = _log_odds(builder, out)
        log_p = jnp.sum(jnp.where(number, normal, 0)) + jnp.sum(
            jnp.where(option, raw * odds, 0)
        )
        entropy = -jnp.sum(jnp.where(option, jnp.exp(odds) * odds, 0))
        return log_p, nets.critic(seen)[0], entropy

    return jax.vmap(step)(jnp.arange(len(builder.absent)))


@jit
def learn(
    builder: Builder,
    learned: Learned,
    raw: Float[Array, "q n"],
    rewards: Float[Array, " q"],
    step: float,
    entropy: float,
    epochs: int,
) -> Learned:
    """Steps with one batch.

    Args:
        builder: what was built.
        learned: before.
        raw: what was drawn.
        rewards: of each design.
        step: of Adam.
        entropy: reward for undecided choices.
        epochs: number of steps.
    """
    judge = jax.vmap(functools.partial(_judged, builder), (None, 0))
    before, expected, _ = judge(learned.nets, raw)
    advantage = rewards[:, None] - expected
    advantage = (advantage - jnp.mean(advantage)) / (jnp.std(advantage) + 1e-8)

    def loss(nets: Nets) -> Array:
        log_p, value, spread = judge(nets, raw)
        ratio = jnp.exp(log_p - before)
        held = jnp.clip(ratio, 1 - CLIP, 1 + CLIP)
        gain = jnp.minimum(ratio * advantage, held * advantage)
        error = (value - rewards[:, None]) ** 2
        return jnp.mean(0.5 * error - gain - entropy * spread)

    def update(carry: Learned, _: None) -> tuple[Learned, None]:
        slope: Any = jax.grad(loss)(carry.nets)
        change, adam = _adam(step).update(slope, carry.adam)
        nets: Nets = eqx.apply_updates(carry.nets, change)
        least = jnp.maximum(nets.log_std, np.log(LEAST))
        nets = eqx.tree_at(lambda v: v.log_std, nets, least)
        return Learned(nets, adam), None

    return jax.lax.scan(update, learned, None, epochs)[0]
