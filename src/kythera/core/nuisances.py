"""Derivatives of tallies with respect to nuisance parameters.

Each is either differentiated at a fixed key (forward mode), which needs a simulator that can
be, or taken from *templates*: the same events with the parameter moved up and down by a step
h, (tally(+h) - tally(-h)) / 2h, which also a hard histogram or a program outside JAX allows.
Either way it is a row for each event, and rows add up.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from kythera.core.objective import AbstractObjective, Tangents
from kythera.core.space import _get
from kythera.core.types import Array, Design, Float, PyTree, Vector

RowsOf = Callable[[Design], tuple[PyTree, Any]]
Shifted = Callable[[Vector], tuple[PyTree, Any]]


def with_tangents(
    objective: AbstractObjective,
    design: Design,
    rows_of: RowsOf,
    *,
    is_host: bool = False,
) -> tuple[PyTree, Any]:
    """Rows of tallies, with their tangents where the objective names nuisances.

    Args:
        objective: names the nuisance parameters.
        design: where.
        rows_of: design -> rows, and what else belongs to them; at one key.
        is_host: whether `rows_of` leaves JAX.

    Returns:
        rows or `Tangents` of them (leading axes: event, nuisance), and what else there is.
    """
    paths, steps = list(objective.nuisances()), objective.templates()
    if not paths:
        return rows_of(design)
    nominal = jnp.stack([jnp.asarray(_get(design, p), float) for p in paths])

    def shifted(values: Vector) -> tuple[PyTree, Any]:
        moved = eqx.tree_at(lambda d: [_get(d, p) for p in paths], design, list(values))
        return rows_of(moved)

    units = dict(zip(paths, jnp.eye(len(paths)), strict=True))
    smooth = {path: unit for path, unit in units.items() if path not in steps}
    moves = {path: step * units[path] for path, step in steps.items()}
    columns: dict[str, PyTree] = {}
    found: Any = None
    if smooth:
        found, columns = _differentiated(shifted, nominal, smooth)
    if moves:
        first = [] if smooth else [nominal]
        both = [nominal + s * move for move in moves.values() for s in (1, -1)]
        drawn = _at_each(shifted, jnp.stack([*first, *both]), is_host)
        if not smooth:
            found = jax.tree.map(lambda v: v[0], drawn)
        for k, (path, step) in enumerate(steps.items()):
            up = len(first) + 2 * k
            columns[path] = jax.tree.map(
                lambda v, i=up, h=step: (v[i] - v[i + 1]) / (2 * h), drawn[0]
            )
    rows, more = found
    ordered = [columns[path] for path in paths]
    return Tangents(rows, jax.tree.map(lambda *v: jnp.stack(v, 1), *ordered)), more


def _differentiated(
    shifted: Shifted, nominal: Vector, directions: dict[str, Array]
) -> tuple[tuple[PyTree, Any], dict[str, PyTree]]:
    """What is there at the nominal values, and the derivative in each direction."""
    found, (slopes, _) = jax.vmap(
        lambda t: jax.jvp(shifted, (nominal,), (t,)), out_axes=(None, 1)
    )(jnp.stack(list(directions.values())))
    return found, {
        path: jax.tree.map(lambda v, i=i: v[:, i], slopes)
        for i, path in enumerate(directions)
    }


def _at_each(
    shifted: Shifted, values: Float[Array, "value k"], is_host: bool
) -> tuple[PyTree, Any]:
    """What is there at each, with a leading axis; one by one, to save memory."""
    if not is_host:
        return jax.lax.map(shifted, values)
    return jax.tree.map(lambda *v: jnp.stack(v), *[shifted(value) for value in values])
