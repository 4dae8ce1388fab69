"""Checks of estimators and optimisers."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kythera.core.evaluation import (
    AbstractEstimator,
    AbstractOptimiser,
    Evaluation,
)
from kythera.core.problem import Problem
from kythera.core.space import is_cube
from kythera.core.types import Key
from kythera.estimators.direct import evaluate_all
from kythera.testing import textbook
from kythera.testing.law import require, shown

TEXTBOOK: dict[str, Callable[[], Problem]] = {
    "sphere": textbook.sphere,
    "rosenbrock": textbook.rosenbrock,
    "noisy sphere": textbook.noisy_sphere,
}


def check_estimator(
    estimator: AbstractEstimator,
    problem: Problem,
    gradient: np.ndarray | None,
    *,
    key: Key,
    value: float | None = None,
    u: np.ndarray | None = None,
    repeats: int = 256,
    tolerance: float = 0.0,
) -> None:
    """The law of estimators: unbiased where the exact gradient is known.

    Over many keys the mean of each component is within four standard errors of the exact
    gradient (and `tolerance` of its largest component, for a biased engine that states
    one); so is the mean value; and the quoted standard error is the observed spread.

    Args:
        estimator: what is checked.
        problem: whose gradient is known.
        gradient: exact, with respect to the point of the cube, shape (n,); None for an
            estimator that gives none.
        key: of all of it.
        value: the exact loss, where known.
        u: point of the cube; by default the start.
        repeats: number of keys.
        tolerance: the bias that is stated, relative to the largest component.

    Raises:
        AssertionError: with the law and the values.
    """
    name = f"`{type(estimator).__name__}`"
    point = np.asarray(problem.space.start if u is None else u)
    estimator.check(problem)
    state = estimator.init(problem, key=jax.random.fold_in(key, 0))
    keys = jax.random.split(jax.random.fold_in(key, 1), repeats)
    us = jnp.tile(jnp.asarray(point, float), (repeats, 1))
    found, _ = estimator(problem, us, state, key=keys, map=map)
    require(
        len(found) == repeats,
        f"{name} must give one evaluation for each design",
        f"it gives {len(found)} for {repeats}",
    )
    failed = [f.cause for f in found if f.cause]
    require(not failed, f"{name} must not fail here", f"the cause is: {failed[:1]}")
    spent = {f.events for f in found}
    require(
        spent == {estimator.price(problem)},
        f"{name} must count the events that it simulated, `price`",
        f"it counts {spent} and its price is {estimator.price(problem)}",
    )
    values = np.array([f.total.value for f in found])
    spread = values.std(ddof=1)
    quoted = float(np.sqrt(np.mean([f.total.stderr**2 for f in found])))
    require(
        abs(quoted / spread - 1) <= 4 / np.sqrt(2 * (repeats - 1)) + 0.05,
        f"The standard error that {name} quotes must be the observed spread",
        f"it quotes {quoted:.4g} and the spread is {spread:.4g}",
    )
    if value is not None:
        z = (values.mean() - value) / (spread / np.sqrt(repeats))
        require(
            abs(z) < 4,
            f"The mean loss of {name} must be exact within four standard errors",
            f"it is {values.mean():.5g}, the exact one {value:.5g}, z = {z:.1f}",
        )
    require(
        estimator.gives_gradient == (gradient is not None)
        and all((f.total.gradient is None) == (gradient is None) for f in found),
        f"{name} must give gradients if and only if it says so",
        f"`gives_gradient` is {estimator.gives_gradient}",
    )
    if gradient is not None:
        slopes = np.array([f.total.gradient for f in found], float)
        _check_bias(name, slopes, np.asarray(gradient, float), tolerance)


def _check_bias(
    name: str, found: np.ndarray, exact: np.ndarray, tolerance: float
) -> None:
    mean = found.mean(0)
    stderr = found.std(0, ddof=1) / np.sqrt(len(found))
    allowed = 4 * stderr + (tolerance + 1e-5) * np.max(np.abs(exact))
    worst = int(np.argmax(np.abs(mean - exact) / allowed))
    require(
        np.all(np.abs(mean - exact) <= allowed),
        f"The mean gradient of {name} must be exact within four standard errors"
        + (f" and {100 * tolerance:.3g}%" if tolerance else ""),
        f"component {worst} is {mean[worst]:.5g} +- {stderr[worst]:.2g}, the exact one "
        f"{exact[worst]:.5g}",
    )


def check_optimiser(
    optimiser: AbstractOptimiser,
    *,
    key: Key,
    reaches: Mapping[str, tuple[int, float]],
    problem: Problem | None = None,
    trials: int = 40,
) -> None:
    """The law of optimisers.

    Questions are inside the cube and depend only on the state and the key; `ask` and
    `tell` leave the state that they are given as it is; a failed evaluation is no end, nor
    is a batch of which a budget left only the first answers; a
    state that was saved leaf by leaf and loaded into the structure of a fresh one asks the
    same next points; and the known optimum of each textbook problem is reached within
    the stated number of trials.

    Args:
        optimiser: what is checked.
        key: of all of it.
        reaches: "sphere", "rosenbrock", "noisy sphere" -> (trials, part of the start's
            exact loss that the recommended design may have left).
        problem: for the laws on the state; by default the noisy sphere.
        trials: number of trials for them.

    Raises:
        AssertionError: with the law and the values.
    """
    problem = problem or textbook.noisy_sphere()
    optimiser.check(problem)
    _check_state(optimiser, problem, key, trials)
    for label, (budget, left) in reaches.items():
        case = TEXTBOOK[label]()
        start = textbook.exact_loss(case, np.asarray(case.space.start))
        best, spent = _search(optimiser, case, key, budget)
        loss = textbook.exact_loss(case, best)
        require(
            loss <= left * start,
            f"`{type(optimiser).__name__}` must reach {left:.3g} of the start's loss on "
            f"the {label} within {budget} trials",
            f"it reached {loss / start:.3g} after {spent}",
        )


def evaluate(
    optimiser: AbstractOptimiser,
    problem: Problem,
    us: np.ndarray,
    number: int,
    key: Key,
) -> list[Evaluation]:
    """Answers to an optimiser's questions, the first of which is trial `number`."""
    policy = {
        "fixed": np.zeros(len(us), np.uint32),
        "batch": np.full(len(us), number, np.uint32),
        "fresh": np.arange(number, number + len(us), dtype=np.uint32),
    }
    samples = policy[optimiser.sample]
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(samples)
    mode = "pathwise" if optimiser.needs_gradient else "value"
    return evaluate_all(problem, mode, jnp.asarray(us), keys, map)


def _search(
    optimiser: AbstractOptimiser, problem: Problem, key: Key, trials: int
) -> tuple[np.ndarray, int]:
    """The recommended point after at most so many trials, and their number."""
    state = optimiser.init(problem, np.asarray(problem.space.start), key=key)
    number = 0
    while not optimiser.finished(state):
        us, state = optimiser.ask(state, key=jax.random.fold_in(key, number))
        if number + len(us) > trials:
            break
        found = evaluate(
            optimiser, problem, us, number, jax.random.fold_in(key, 1 << 31)
        )
        state = optimiser.tell(state, us, found)
        number += len(us)
    return optimiser.recommend(state)[0], number


def _check_state(
    optimiser: AbstractOptimiser, problem: Problem, key: Key, trials: int
) -> None:
    """Cube, determinism, failures, and a state that can be saved."""
    name, n = f"`{type(optimiser).__name__}`", problem.space.size
    start = np.asarray(problem.space.start)
    fresh = optimiser.init(problem, start, key=key)
    state, number, batch = fresh, 0, 0
    while number < trials and not optimiser.finished(state):
        before = _saved(name, state)
        k = jax.random.fold_in(key, number)
        us, asked = optimiser.ask(state, key=k)
        require(
            us.ndim == 2 and us.shape[1] == n and len(us) and is_cube(us),
            f"{name} must ask for points of the cube, shape (q, {n})",
            f"it asks for {shown(us)}",
        )
        again, _ = optimiser.ask(state, key=k)
        require(
            np.array_equal(us, again),
            f"{name} must ask the same for the same state and key",
            f"it asks for {shown(us)} and then for {shown(again)}",
        )
        found = evaluate(
            optimiser, problem, us, number, jax.random.fold_in(key, 1 << 31)
        )
        if batch == 2:  # the third batch ends with a failure
            found[-1] = Evaluation.failed("a test of failures", found[-1].events)
        told = optimiser.tell(asked, us, found)
        loaded = _loaded(name, fresh, _saved(name, asked))
        _require_same(
            f"{name} must tell the same to a state that was saved and loaded",
            _saved(name, told),
            _saved(name, optimiser.tell(loaded, us, found)),
        )
        _require_same(
            f"{name} must leave a state as it was given",
            before,
            _saved(name, state),
        )
        part = optimiser.tell(asked, us[: -(-len(us) // 2)], found[: -(-len(us) // 2)])
        for recommended in map(optimiser.recommend, (told, part)):
            require(
                recommended.ndim == 2
                and recommended.shape[1] == n
                and is_cube(recommended),
                f"{name} must recommend points of the cube, shape (m, {n})",
                f"it recommends {shown(recommended)}",
            )
        if not optimiser.finished(told):
            k = jax.random.fold_in(key, number + len(us))
            loaded = _loaded(name, fresh, _saved(name, told))
            after, _ = optimiser.ask(told, key=k)
            reloaded, _ = optimiser.ask(loaded, key=k)
            require(
                np.array_equal(after, reloaded),
                f"{name} must ask the same after its state was saved and loaded",
                f"it asks for {shown(after)} and then for {shown(reloaded)}",
            )
        state, number, batch = told, number + len(us), batch + 1


def _saved(name: str, state: Any) -> list[np.ndarray]:
    """The leaves of a state as NumPy arrays of numbers or text."""
    leaves = []
    for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]:
        try:
            leaves.append(np.array(leaf))
        except TypeError:
            leaves.append(np.array(None))
        require(
            leaves[-1].dtype.kind in "biufU",
            f"The state of {name} must be a tree of arrays, numbers and text",
            f"{jax.tree_util.keystr(path)} is a {type(leaf).__name__}",
        )
    return leaves


def _loaded(name: str, fresh: Any, leaves: list[np.ndarray]) -> Any:
    """Saved leaves in the structure of a fresh state."""
    structure = jax.tree.structure(fresh)
    require(
        structure.num_leaves == len(leaves),
        f"The state of {name} must keep the structure that `init` gave it",
        f"it has {len(leaves)} leaves and a fresh one {structure.num_leaves}",
    )
    return jax.tree.unflatten(structure, leaves)


def _require_same(law: str, first: list[np.ndarray], second: list[np.ndarray]) -> None:
    require(len(first) == len(second), law, f"{len(first)} leaves are {len(second)}")
    for i, (a, b) in enumerate(zip(first, second, strict=True)):
        same = np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
        require(same, law, f"leaf {i} was {shown(a)} and is {shown(b)}")
