"""How well a quantity will be measured, systematic uncertainties included."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from kythera import errors
from kythera.core.objective import AbstractObjective, Score, Tangents
from kythera.core.pipeline import Trace
from kythera.core.types import Array, Float
from kythera.physics.statistics import fisher
from kythera.physics.statistics.checks import known, listed

Form = Literal["log", "sigma", "variance"]
FORMS: dict[str, str] = {"log": "log_sigma", "sigma": "sigma", "variance": "variance"}
EMPTY = 1e-6  # counts: what expects fewer tells nothing
RIDGE = (
    25.0  # roundings for each parameter: where nothing is known, the error stays finite
)


def _in_order(named: Mapping[str, float]) -> dict[str, float]:
    """Sorted by name, as JAX keeps a dict: the order is the same in and outside of `jit`."""
    return dict(sorted(named.items()))


class ExpectedUncertainty(AbstractObjective):
    """Standard deviation with which a parameter will be measured: the loss of INFERNO.

    The counts in the bins of a summary are n = sum_k N_k y_k, where y_k is the mean row of
    sample k and N_k what is expected of it. With J = dn/dtheta, over the parameters theta
    that are not known,

        I = J^T diag(1/n) J + diag(1/width^2),   variance = (I^-1)_pp,

    p the parameter of interest: minus the second derivative of the Poisson log-likelihood
    at the expected data, exactly, so that this is the bound of Cramer and Rao and what a
    profile likelihood reaches with many events. Derivatives of the rows with respect to
    nuisance parameters come with the tally; those with respect to yields are the rows.

    The inference (or `Summary`) gives a mapping: name of a sample -> rows, of shape
    (event, bin), which may be weighted, and of which the mean over all rows is y_k. Where
    samples are told apart by a label, multiply the rows with (label == k) / (its share).

    With n drawn events the loss is biased by O(1/n): noise in J is taken for knowledge.

    Args:
        yields: name of each sample -> expected counts N_k.
        interest: what is to be measured: the count of a sample, or a path of `shifts`.
        normalisations: names of other samples whose count is not known -> standard
            deviation of what is known of it, in counts; `math.inf`: nothing.
        shifts: path of a leaf of the design, a nuisance parameter -> likewise.
        steps: some of `shifts` -> step of its templates, see `templates`; the others
            are differentiated.
        form: "log" for the logarithm of the standard deviation, a loss whose slopes do not
            depend on its size: search with it; "sigma", "variance".

    Raises:
        InputError: names that do not exist, or numbers that are not positive; when scored
            outside `jit` also counts that are negative, and parameters that the bins cannot
            tell apart. Inside `jit`, bins with no or negative counts tell nothing, and a
            singular matrix is regularised: finite, and large.
    """

    yields: dict[str, float] = eqx.field(converter=_in_order)
    interest: str = eqx.field(static=True)
    normalisations: dict[str, float] = eqx.field(
        converter=_in_order, default_factory=dict
    )
    shifts: dict[str, float] = eqx.field(converter=_in_order, default_factory=dict)
    steps: dict[str, float] = eqx.field(converter=_in_order, default_factory=dict)
    form: Form = eqx.field(static=True, default="log")
    references: ClassVar[tuple[str, ...]] = (
        "P. de Castro, T. Dorigo, INFERNO: inference-aware neural optimisation, Comput. "
        "Phys. Commun. 244 (2019) 170, arXiv:1806.04743",
    )

    def __check_init__(self):
        """Refuse names that do not exist and widths that are none."""
        _check_known("a `form`", [self.form], FORMS)
        _check_known("of `interest`", [self.interest], [*self.yields, *self.shifts])
        _check_known("a sample", self.normalisations, self.yields)
        _check_known("one of `shifts`", self.steps, self.shifts)
        for field in ("yields", "normalisations", "shifts", "steps"):
            for name, value in getattr(self, field).items():
                if known(value) and not value > 0:
                    raise errors.InputError(
                        f"Yields, widths and steps must be > 0, but `{field}` has {value} "
                        f"for '{name}'. Leave out what is known exactly."
                    )

    @property
    def parameters(self) -> dict[str, float]:
        """What is not known -> width of its constraint: counts, then shifts, by name."""
        free = {self.interest: np.inf} if self.interest in self.yields else {}
        return free | self.normalisations | self.shifts

    def nuisances(self) -> dict[str, float]:
        """The shifts."""
        return dict(self.shifts)

    def templates(self) -> dict[str, float]:
        """Those of them that are taken from templates."""
        return dict(self.steps)

    def tally(self, design: Any, trace: Trace) -> dict[str, Float[Array, "event bin"]]:
        """Rows of each sample."""
        missing = [name for name in self.yields if name not in trace.result]
        if missing:
            raise errors.InputError(
                f"The inference must give rows of each sample, {list(self.yields)}, but "
                f"{missing} are not among {list(trace.result)}. Name them alike."
            )
        return {name: trace.result[name] for name in self.yields}

    def counts(self, tally: Any) -> tuple[Array, Array]:
        """Expected counts n, shape (bin,), and J, shape (bin, parameter).

        Args:
            tally: the mean row of each sample, or `Tangents` of it.
        """
        rows = tally.value if isinstance(tally, Tangents) else tally
        expected = sum(count * rows[name] for name, count in self.yields.items())
        columns: dict[str, Any] = {name: rows[name] for name in self.yields}
        for i, path in enumerate(self.shifts):
            moves = [n * tally.tangents[k][i] for k, n in self.yields.items()]
            columns[path] = sum(moves)
        jacobian = jnp.stack([columns[name] for name in self.parameters], 1)
        return jnp.asarray(expected), jacobian

    def information(self, tally: Any) -> Float[Array, "parameter parameter"]:
        """Fisher information of all that is not known, in the order of `parameters`."""
        expected, jacobian = self.counts(tally)
        negative = expected < 0
        if known(expected) and np.any(negative):
            where = np.flatnonzero(negative)
            raise errors.InputError(
                f"Bins must expect counts >= 0, but bins {listed(where)} expect "
                f"{np.asarray(expected)[where[:5]]}. Look at the weights of the events, "
                "or merge bins."
            )
        full = expected > EMPTY
        return fisher.fisher_information(
            jnp.where(full[:, None], jacobian, 0.0),
            jnp.where(full, expected, 0.0),
            list(self.parameters.values()),
        )

    def score(self, design: Any, tally: Any) -> Score:
        """The one term: "log_sigma", "sigma" or "variance"."""
        information = self.information(tally)
        names = list(self.parameters)
        if known(information):
            fisher.covariance(information, names)  # says what cannot be told apart
        p = names.index(self.interest)
        variance = _inverse(information)[p, p]
        values = {
            "log": jnp.log(variance) / 2,
            "sigma": jnp.sqrt(variance),
            "variance": variance,
        }
        return Score({FORMS[self.form]: values[self.form]})


def _inverse(information: Array) -> Array:
    """Its inverse; where it is singular, that of a matrix that differs by rounding."""
    diagonal = jnp.diagonal(information)
    least = RIDGE * len(diagonal) * jnp.finfo(information.dtype).eps
    unit = jnp.where(diagonal > 0, diagonal, 1.0)
    return fisher.covariance(information + jnp.diag(least * unit))


def _check_known(what: str, names: Any, options: Any) -> None:
    for name in names:
        if name not in options:
            raise errors.InputError(
                f"'{name}' is not {what} that is known. {errors.nearest(name, list(options))}"
            )
