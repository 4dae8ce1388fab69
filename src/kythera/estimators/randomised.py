"""Gradients from a randomised design: nothing of the simulator is differentiated."""

import dataclasses
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from kythera import errors
from kythera.core.evaluation import AbstractEstimator, Evaluation, Map, Measured
from kythera.core.problem import Problem
from kythera.core.space import Choice, Integer
from kythera.core.stage import AbstractHostStage, Identity
from kythera.core.types import Array, Float, Key
from kythera.estimators.direct import evaluate_all


class RandomisedDesign(AbstractEstimator[None]):
    """The score function of the design's own density: evolution strategies.

    Designs v are drawn around u; the value is J(u) = E[T(v)], and its gradient

        grad J = E[ (T(v) - b) d log q(v | u) / du ]

    needs values only, of any simulator, of any number of parameters, and where the loss
    jumps. Real and whole numbers: v = u + spread * normal, mirrored at the faces of the
    cube. A choice: option i with probability (1 - explore) w_i + explore / k, where w are
    the weights; what is simulated is one option, never a mixture. Half of the designs are
    the mirror images of the others, and see the same events; b is the mean of all other
    pairs, so that the estimate is unbiased for the smoothed loss J. Its noise grows with
    the number of parameters.

    Args:
        spread: one standard deviation, a fraction of each parameter's range; of a whole
            number one step, where that is more.
        samples: designs that are drawn, an even number.
        explore: part of the draws of a choice that do not look at the weights.
    """

    spread: float = 0.03
    samples: int = eqx.field(static=True, default=32)
    explore: float = 0.1
    gives_gradient: ClassVar[bool] = True
    references: ClassVar[tuple[str, ...]] = (
        "R. J. Williams, Simple statistical gradient-following algorithms for "
        "connectionist reinforcement learning, Machine Learning 8 (1992) 229",
        "T. Salimans, J. Ho, X. Chen, S. Sidor, I. Sutskever, Evolution strategies as a "
        "scalable alternative to reinforcement learning, arXiv:1703.03864",
    )

    def __check_init__(self):
        """Refuse a spread that leaves no room, and fewer than two pairs."""
        if not 0 < self.spread <= 0.5:
            raise errors.InputError(
                f"`spread` must be in (0, 0.5] of the range, but is {self.spread}. "
                "Try 0.03."
            )
        if int(self.samples) != self.samples or self.samples < 4 or self.samples % 2:
            raise errors.InputError(
                "`samples` must be an even number >= 4, two pairs of mirror images, but "
                f"is {self.samples}. Try 32."
            )
        if not 0 <= self.explore <= 1:
            raise errors.InputError(
                f"`explore` must be in [0, 1], but is {self.explore}. Try 0.1."
            )

    def check(self, problem: Problem) -> None:
        """Every problem can be evaluated."""
        problem.check()

    def seen(self, problem: Problem) -> Problem:
        """Without jumps: the mean over designs is smooth, also where a stage is outside."""

        def is_host(node: Any) -> bool:
            return isinstance(node, AbstractHostStage)

        pipeline = jax.tree.map(
            lambda v: Identity() if is_host(v) else v, problem.pipeline, is_leaf=is_host
        )
        return problem.replace(pipeline=pipeline)

    def price(self, problem: Problem) -> int:
        """One evaluation for each design."""
        return problem.price * self.samples

    def __call__(
        self,
        problem: Problem,
        us: Float[Array, "q n"],
        state: None,
        *,
        key: Key,
        map: Map = map,
    ) -> tuple[list[Evaluation], Any]:
        """See the base class."""
        drawn = [
            self._draw(problem, np.asarray(u, float), k)
            for u, k in zip(us, key, strict=True)
        ]
        points = np.concatenate([points for points, _, _ in drawn])
        keys = jnp.concatenate([keys for _, _, keys in drawn])
        found = evaluate_all(problem, "value", jnp.asarray(points), keys, map)
        return [
            _joined(
                found[i * self.samples : (i + 1) * self.samples],
                score,
                self.price(problem),
            )
            for i, (_, score, _) in enumerate(drawn)
        ], state

    def _draw(
        self, problem: Problem, u: np.ndarray, key: Key
    ) -> tuple[np.ndarray, np.ndarray, Key]:
        """Points of the cube and their scores, (samples, n); the first half, then images."""
        own, events = jax.random.split(key)
        draw = np.random.default_rng(np.asarray(jax.random.key_data(own)).tolist())
        half = self.samples // 2
        noise = draw.standard_normal((half, u.size))
        noise = np.concatenate([noise, -noise])
        spread = np.full(u.size, self.spread)
        for path, domain in problem.space.free.items():
            if isinstance(domain, Integer):
                step = 1 / (domain.upper - domain.lower)
                spread[problem.space.groups[path]] = max(self.spread, step)
        points, score = mirrored(u + spread * noise), noise / spread
        for path, domain in problem.space.free.items():
            if isinstance(domain, Choice):
                where, k = problem.space.groups[path], len(domain.options)
                weights = u[where].reshape(-1, k)
                one, slope = self._choose(weights, draw)
                points[:, where] = one.reshape(self.samples, -1)
                score[:, where] = slope.reshape(self.samples, -1)
        keys = jax.random.split(events, half)
        return points, score, jnp.concatenate([keys, keys])

    def _choose(
        self, u: np.ndarray, draw: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """One-hot draws of some choices and d log q / du, both (samples, choice, k)."""
        k = u.shape[1]
        total = u.sum(1, keepdims=True)
        w = np.where(total > 0, u / np.where(total > 0, total, 1), 1 / k)
        total = np.where(total > 0, total, 1.0)
        q = (1 - self.explore) * w + self.explore / k
        option = (
            draw.random((self.samples, len(u), 1)) > np.cumsum(q, 1)[None, :, :-1]
        ).sum(-1)
        one = np.eye(k)[option]
        # d w_i / d u_j = (delta_ij - w_i) / sum u, for the option i that was drawn.
        at = (np.arange(len(u)), option)
        slope = (one - w[at][..., None]) / total
        return one, (1 - self.explore) * slope / q[at][..., None]


def mirrored(u: np.ndarray) -> np.ndarray:
    """Points of the cube: what is outside is mirrored at its faces."""
    folded = np.mod(u, 2.0)
    return np.where(folded > 1, 2 - folded, folded)


def _joined(found: list[Evaluation], score: np.ndarray, events: int) -> Evaluation:
    """One evaluation from those of all draws; a pair of which one failed is left out."""
    half = len(found) // 2
    good = [i for i in range(half) if not (found[i].cause or found[i + half].cause)]
    if len(good) < 2:
        cause = next(f.cause for f in found if f.cause)
        return Evaluation.failed(cause, events)
    pairs = [(found[i], found[i + half]) for i in good]
    scores = np.stack([score[good], score[[i + half for i in good]]], 1)

    def measured(values: np.ndarray, sloped: bool) -> Measured:
        means = values.mean(1)
        n = len(means)
        others = (means.sum() - means) / (n - 1)
        slope = np.einsum("pi,pin->n", values - others[:, None], scores) / (2 * n)
        stderr = float(means.std(ddof=1) / np.sqrt(n))
        return Measured(float(means.mean()), stderr, slope if sloped else None)

    def each(of: Any) -> np.ndarray:
        return np.array([[of(f) for f in pair] for pair in pairs], float)

    first = pairs[0][0]
    terms = {name: each(lambda f, n=name: f.terms[n].value) for name in first.terms}
    means = np.array([values.mean(1) for values in terms.values()])
    return dataclasses.replace(
        first,
        total=measured(each(lambda f: f.total.value), True),
        terms={name: measured(values, False) for name, values in terms.items()},
        slack={
            name: measured(each(lambda f, n=name: f.slack[n].value), True)
            for name in first.slack
        },
        covariance=np.atleast_2d(np.cov(means)) / len(good),
        events=events,
    )
