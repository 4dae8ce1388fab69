"""Histograms, categories and cuts that can be differentiated, each beside its hard one.

The contents of a histogram jump when an event crosses an edge. Here an event is shared out
among the bins, by weights that add up to one, or to less where a part of it is outside:
*rows*, of shape (event, bin). Rows add up, so that an objective returns them as its tally,
and `histogram` sums them. A soft form tends to the hard one beside it as its last argument
vanishes (a steepness: grows). Search with the soft one and report the hard one; as a stage,
`Summary` holds the two together.

| soft | hard | where from |
|---|---|---|
| `softmax_bins(logits, temperature)` | `largest_bin(logits)` | INFERNO, arXiv:1806.04743 |
| `near_bins(x, centres, temperature)` | `nearest_bin(x, centres)` | softmax of distances |
| `kde_bins(x, edges, bandwidth)` | `inside_bins(x, edges)` | neos, arXiv:2203.05570 |
| `sigmoid_bins(x, edges, steepness)` | `inside_bins(x, edges)` | differences of soft cuts |
| `soft_cut(x, threshold, steepness)` | `hard_cut(x, threshold)` | neos |
"""

from collections.abc import Callable
from typing import Any, ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr

from kythera import errors
from kythera.core.stage import AbstractStage
from kythera.core.types import Array, Float, Key, Vector
from kythera.physics.statistics.checks import known

Rows = Float[Array, "event bin"]
Use = Literal["soft", "hard", "straight_through"]


def softmax_bins(logits: Rows, temperature: Any = 1.0) -> Rows:
    """Bins that a network chooses: softmax(logits / T), the summary of INFERNO.

    As T -> 0 it tends to `largest_bin`; the bias vanishes and the gradients get noisy.

    Args:
        logits: outputs of a network, shape (event, bin).
        temperature: T > 0, in units of the logits.

    Raises:
        InputError: a temperature that is not positive.
    """
    _check_positive("temperature", temperature)
    return jax.nn.softmax(jnp.asarray(logits, float) / temperature, -1)


def largest_bin(logits: Rows) -> Rows:
    """One for the largest logit, zero for the others: `softmax_bins` at T = 0."""
    logits = jnp.asarray(logits, float)
    return jax.nn.one_hot(jnp.argmax(logits, -1), logits.shape[-1], dtype=logits.dtype)


def near_bins(x: Vector, centres: Vector, temperature: Any) -> Rows:
    """A number shared out among centres: softmax(-(x - c)^2 / T).

    Args:
        x: shape (event,).
        centres: c, shape (bin,).
        temperature: T > 0, in units of x^2.

    Raises:
        InputError: a temperature that is not positive.
    """
    _check_positive("temperature", temperature)
    return jax.nn.softmax(-_squares(x, centres) / temperature, -1)


def nearest_bin(x: Vector, centres: Vector) -> Rows:
    """One for the nearest centre, zero for the others: `near_bins` at T = 0."""
    return largest_bin(-_squares(x, centres))


def kde_bins(
    x: Vector, edges: Vector, bandwidth: Any, *, reflect: bool = False
) -> Rows:
    """A histogram of Gaussians: Phi((e_{j+1} - x) / h) - Phi((e_j - x) / h).

    Differentiable in x and in the edges. Some of each event leaks over the ends, unless
    these are at infinity, or what leaks is reflected.

    Args:
        x: shape (event,).
        edges: e, increasing, shape (bin + 1,); the outermost may be infinite.
        bandwidth: h > 0, in units of x.
        reflect: whether finite ends mirror the Gaussians.

    Raises:
        InputError: edges that do not increase, or a bandwidth that is not positive.
    """
    edges = _checked_edges(edges)
    _check_positive("bandwidth", bandwidth)
    x = jnp.asarray(x, float)

    def contents(centre: Vector) -> Rows:
        below = ndtr((edges - centre[..., None]) / bandwidth)
        return below[..., 1:] - below[..., :-1]

    rows = contents(x)
    if reflect:
        for end in (edges[0], edges[-1]):
            finite = jnp.isfinite(end)
            image = contents(2 * jnp.where(finite, end, 0.0) - x)
            rows = rows + jnp.where(finite, image, 0.0)
    return rows


def sigmoid_bins(x: Vector, edges: Vector, steepness: Any) -> Rows:
    """A histogram of soft cuts: sigma(k (x - e_j)) - sigma(k (x - e_{j+1})).

    Args:
        x: shape (event,).
        edges: e, increasing, shape (bin + 1,); the outermost may be infinite.
        steepness: k > 0, in units of 1 / x.

    Raises:
        InputError: edges that do not increase, or a steepness that is not positive.
    """
    edges = _checked_edges(edges)
    _check_positive("steepness", steepness)
    below = jax.nn.sigmoid(steepness * (edges - jnp.asarray(x, float)[..., None]))
    return below[..., 1:] - below[..., :-1]


def inside_bins(x: Vector, edges: Vector) -> Rows:
    """An ordinary histogram: one for the bin with e_j <= x < e_{j+1}, zeros outside.

    As NumPy has it, the last bin contains its upper edge.

    Args:
        x: shape (event,).
        edges: e, increasing, shape (bin + 1,); the outermost may be infinite.

    Raises:
        InputError: edges that do not increase.
    """
    edges, x = _checked_edges(edges), jnp.asarray(x, float)[..., None]
    last = jnp.arange(edges.shape[0] - 1) == edges.shape[0] - 2
    below = (x < edges[1:]) | (last & (x == edges[1:]))
    return jnp.asarray((x >= edges[:-1]) & below, x.dtype)


def soft_cut(x: Array, threshold: Any, steepness: Any) -> Array:
    """Weights of events that pass x > c: sigma(k (x - c)).

    Args:
        x: any shape.
        threshold: c, in units of x.
        steepness: k > 0, in units of 1 / x.

    Raises:
        InputError: a steepness that is not positive.
    """
    _check_positive("steepness", steepness)
    return jax.nn.sigmoid(steepness * (jnp.asarray(x, float) - threshold))


def hard_cut(x: Array, threshold: Any) -> Array:
    """One where x > c, zero elsewhere: `soft_cut` of infinite steepness."""
    x = jnp.asarray(x, float)
    return jnp.asarray(x > threshold, x.dtype)


def histogram(rows: Rows, weights: Vector | None = None) -> Float[Array, " bin"]:
    """Contents of bins: sum_i w_i rows_i.

    Args:
        rows: of any of the functions above, shape (event, bin).
        weights: w, shape (event,); one each by default.

    Raises:
        InputError: rows or weights of another shape.
    """
    rows = jnp.asarray(rows, float)
    shape = rows.shape[:1] if weights is None else jnp.shape(weights)
    if rows.ndim != 2 or shape != rows.shape[:1]:
        raise errors.InputError(
            "Rows have the shape (event, bin) and weights (event,), but they have the "
            f"shapes {rows.shape} and {shape}. Give one weight for each event."
        )
    return jnp.sum(rows, 0) if weights is None else jnp.asarray(weights, float) @ rows


def straight_through(soft: Array, hard: Array) -> Array:
    """The hard value with the derivative of the soft one: soft + stop(hard - soft).

    **Biased**: the derivative is that of another function than the value, and descent along
    it does not lead to the minimum of either. Only the soft loss can be checked against
    differences. (Y. Bengio, N. Leonard, A. Courville, arXiv:1308.3432.)

    Args:
        soft: differentiable.
        hard: of the same shape.
    """
    return soft + jax.lax.stop_gradient(hard - soft)


class Summary(AbstractStage):
    """A soft summary of each event together with the hard one that will be reported.

        bins = Summary(lambda d, x: kde_bins(x, d.edges, 0.1),
                       lambda d, x: inside_bins(x, d.edges))
        Problem(..., Pipeline(source, simulator, network, bins),
                hard_pipeline=Pipeline(source, simulator, network, bins.reported()))

    Args:
        soft: (design, record) -> rows, differentiable.
        hard: (design, record) -> rows of the same shape.
        use: "soft"; "hard", of which the derivative vanishes; or "straight_through", hard
            values with soft derivatives, which are **biased**.

    Raises:
        InputError: another `use`.
    """

    soft: Callable[[Any, Any], Any]
    hard: Callable[[Any, Any], Any]
    use: Use = eqx.field(static=True, default="soft")
    references: ClassVar[tuple[str, ...]] = (
        "P. de Castro, T. Dorigo, INFERNO: inference-aware neural optimisation, Comput. "
        "Phys. Commun. 244 (2019) 170, arXiv:1806.04743",
        "N. Simpson, L. Heinrich, neos: end-to-end-optimised summary statistics for high "
        "energy physics, J. Phys.: Conf. Ser. 2438 (2023) 012105, arXiv:2203.05570",
    )

    def __check_init__(self):
        """Refuse a use that is not known."""
        known_uses = ("soft", "hard", "straight_through")
        if self.use not in known_uses:
            raise errors.InputError(
                f"{self.use!r} is no `use` of a summary. "
                f"{errors.nearest(self.use, known_uses)}"
            )

    def reported(self) -> "Summary":
        """The same summary in its hard form, for the detector as built."""
        return Summary(self.soft, self.hard, "hard")

    def __call__(self, design: Any, x: Any, *, key: Key) -> Any:
        """Rows of each event, shape (event, bin), or a tree of them."""
        if self.use == "soft":
            return self.soft(design, x)
        hard = self.hard(design, x)
        if self.use == "hard":
            return hard
        return jax.tree.map(straight_through, self.soft(design, x), hard)


def _squares(x: Vector, centres: Vector) -> Rows:
    return (jnp.asarray(x, float)[..., None] - jnp.asarray(centres, float)) ** 2


def _check_positive(name: str, value: Any) -> None:
    if known(value) and not np.all(np.asarray(value) > 0):
        raise errors.InputError(
            f"The `{name}` of a soft summary must be > 0, but is {value}. For the limit "
            "take the hard form beside it."
        )


def _checked_edges(edges: Vector) -> Vector:
    edges = jnp.asarray(edges, float)
    rising = edges.ndim == 1 and edges.size > 1
    if not rising or (known(edges) and not np.all(np.diff(np.asarray(edges)) > 0)):
        shown = np.asarray(edges).tolist() if known(edges) else edges.shape
        raise errors.InputError(
            "Edges of bins must increase, two or more in one axis, but are "
            f"{shown}. Sort them, and leave out those that come twice."
        )
    return edges
