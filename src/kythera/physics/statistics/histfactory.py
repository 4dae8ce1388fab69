"""HistFactory models: binned counts of several samples that nuisance parameters move.

K. Cranmer, G. Lewis, L. Moneta, A. Shibata, W. Verkerke, CERN-OPEN-2012-016. Each bin b
expects

    n_b = sum over samples s of  prod(factors) (nominal_sb + sum over shifts),

and each constrained parameter has an auxiliary measurement, normal or Poisson. All bins of
all channels stand in one axis, so that a model of any size is a few array operations, which
can be differentiated in the yields, in the parameters, or in both.
"""

import reprlib

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln, xlogy

from kythera import errors
from kythera.core.types import Array, Float, Int, Scalar, Vector
from kythera.physics.statistics.checks import known, reals
from kythera.physics.statistics.interpolation import factor, shift
from kythera.physics.statistics.modifiers import check_template


class Shifts(eqx.Module):
    """Shape uncertainties (`histosys`): templates of one sample at -1 and +1 sigma.

    Args:
        parameter: its number, shape (shift,).
        sample: of the moved sample, shape (shift,).
        moved: which bins are moved, shape (shift, bin).
        low: yields at -1 sigma, counts, shape (shift, bin); looked at in moved bins only.
        high: yields at +1 sigma.
    """

    parameter: Int[Array, " shift"]
    sample: Int[Array, " shift"]
    moved: Array
    low: Float[Array, "shift bin"]
    high: Float[Array, "shift bin"]


class Norms(eqx.Module):
    """Uncertainties of a sample's total in a channel (`normsys`).

    Args:
        parameter: its number, shape (norm,).
        low: factor at -1 sigma, > 0, shape (norm,).
        high: factor at +1 sigma, > 0.
    """

    parameter: Int[Array, " norm"]
    low: Float[Array, " norm"]
    high: Float[Array, " norm"]


class Cells(eqx.Module):
    """Uncertainties of single bins of single samples (`shapesys`, `staterror`).

    Args:
        component: which of the constraints, counted from zero, shape (cell,).
        sample: shape (cell,).
        bin: shape (cell,).
        uncertainty: standard deviation of the yield, counts, shape (cell,).
        parameters: of each constraint, shape (component,).
    """

    component: Int[Array, " cell"]
    sample: Int[Array, " cell"]
    bin: Int[Array, " cell"]
    uncertainty: Float[Array, " cell"]
    parameters: Int[Array, " component"]


class Normals(eqx.Module):
    """Auxiliary measurements with a normal density whose width is given.

    Args:
        parameter: shape (normal,).
        centre: what was measured.
        width: its standard deviation, > 0.
    """

    parameter: Int[Array, " normal"]
    centre: Float[Array, " normal"]
    width: Float[Array, " normal"]


class HistFactory(eqx.Module):
    """A binned model with nuisance parameters, and its data.

    `kythera.physics.statistics.workspace.read` makes one. Replace its yields with
    `eqx.tree_at`, and every value below is differentiable in them, the fits included.

    Args:
        nominal: yields, counts, shape (sample, bin).
        shifts: shape uncertainties.
        norms: uncertainties of totals.
        factors: for each yield the numbers of what multiplies it, padded; it counts the
            parameters, then the norms, then a one; shape (sample, bin, factor).
        normals: auxiliary measurements of given width.
        stat: cells whose constraint is normal, of relative width sqrt(sum u^2) / sum n
            over samples (`staterror`).
        shape: cells whose constraint is Poisson, with (n / u)^2 counts (`shapesys`).
        order: place of each normal, stat and shape constraint in the auxiliary data.
        observed: counts, shape (bin,).
        start: of the parameters, shape (parameter,).
        low: their lower bounds; a parameter with low = up is fixed.
        up: their upper bounds.
        names: of the parameters.
        samples: names of the rows.
        channels: name and number of bins.
        poi: number of the parameter of interest, None where there is none.
    """

    nominal: Float[Array, "sample bin"]
    shifts: Shifts
    norms: Norms
    factors: Int[Array, "sample bin factor"]
    normals: Normals
    stat: Cells
    shape: Cells
    order: Int[Array, " auxiliary"]
    observed: Float[Array, " bin"]
    start: Vector
    low: Vector
    up: Vector
    names: tuple[str, ...] = eqx.field(static=True)
    samples: tuple[str, ...] = eqx.field(static=True)
    channels: tuple[tuple[str, int], ...] = eqx.field(static=True)
    poi: int | None = eqx.field(static=True)

    def yields(self, parameters: Vector) -> Float[Array, "sample bin"]:
        """Expected counts of each sample."""
        p = jnp.asarray(parameters, float)
        rate, s = self.nominal, self.shifts
        if len(s.parameter):
            moved = shift(p[s.parameter, None], s.low, rate[s.sample], s.high)
            rate = rate.at[s.sample].add(jnp.where(s.moved, moved, 0.0))
        norms = factor(p[self.norms.parameter], self.norms.low, self.norms.high)
        each = jnp.concatenate([p, norms, jnp.ones(1, p.dtype)])
        return rate * jnp.prod(each[self.factors], -1)

    def counts(self, parameters: Vector) -> Float[Array, " bin"]:
        """Expected counts of each bin."""
        return jnp.sum(self.yields(parameters), 0)

    def auxiliary(self, parameters: Vector) -> Float[Array, " auxiliary"]:
        """Expected auxiliary measurements."""
        p = jnp.asarray(parameters, float)
        count = p[self.shape.parameters] * self._shape_counts()
        return self._in_order(p[self.normals.parameter], p[self.stat.parameters], count)

    def expected(self, parameters: Vector) -> Float[Array, " data"]:
        """Expected data: the bins, then the auxiliary measurements."""
        return jnp.concatenate([self.counts(parameters), self.auxiliary(parameters)])

    @property
    def data(self) -> Float[Array, " data"]:
        """Observed counts, and what the auxiliary measurements gave."""
        ones = jnp.ones(len(self.stat.parameters), self.nominal.dtype)
        measured = self._in_order(self.normals.centre, ones, self._shape_counts())
        return jnp.concatenate([self.observed, measured])

    def nll(
        self, parameters: Vector, data: Float[Array, " data"] | None = None
    ) -> Scalar:
        """-log L, less its value for a model that fits each number of the data exactly.

        What is taken away depends on data and widths alone: it cancels in ratios of
        likelihoods, and with it go the digits that large counts would cost.

        Args:
            parameters: shape (parameter,).
            data: as `expected` gives them; by default those that were observed.

        Returns:
            half a chi2 for large counts; inf where a bin expects less than nothing.
        """
        counts, values = self._split(self.data if data is None else data)
        p = jnp.asarray(parameters, float)
        expected = p[self.shape.parameters] * self._shape_counts()
        expected = jnp.concatenate([self.counts(p), expected])
        of = jnp.concatenate([self.normals.parameter, self.stat.parameters])
        pull = (values - p[of]) / self._widths()
        return jnp.sum(_poisson(counts, expected)) + jnp.sum(pull**2) / 2

    def logpdf(
        self, parameters: Vector, data: Float[Array, " data"] | None = None
    ) -> Scalar:
        """log L with all its constants: the logarithm of the probability of the data.

        Args:
            parameters: shape (parameter,).
            data: as `expected` gives them; by default those that were observed.
        """
        data = self.data if data is None else data
        counts, _ = self._split(data)
        best = jnp.sum(xlogy(counts, counts) - counts - gammaln(counts + 1))
        best -= jnp.sum(jnp.log(self._widths()) + jnp.log(2 * jnp.pi) / 2)
        return best - self.nll(parameters, data)

    def _split(self, data: Float[Array, " data"]) -> tuple[Array, Array]:
        """What has a Poisson density (bins, shape), and what has a normal one."""
        main, auxiliary = data[: len(self.observed)], data[len(self.observed) :]
        first = len(self.normals.parameter) + len(self.stat.parameters)
        kinds = auxiliary[self.order]
        return jnp.concatenate([main, kinds[first:]]), kinds[:first]

    def _in_order(self, *kinds: Array) -> Float[Array, " auxiliary"]:
        """Normals, stat and shape in the order of the auxiliary data."""
        values = jnp.concatenate(kinds)
        return jnp.zeros_like(values).at[self.order].set(values)

    def _widths(self) -> Array:
        """Of normals and stat."""
        return jnp.concatenate([self.normals.width, self._stat_widths()])

    def _shape_counts(self) -> Float[Array, " component"]:
        """(n / u)^2 of each cell; one where either is zero, which fixes the parameter."""
        c = self.shape
        nominal = self.nominal[c.sample, c.bin]
        good = (nominal > 0) & (c.uncertainty > 0)
        ratio = jnp.where(good, nominal, 1.0) / jnp.where(good, c.uncertainty, 1.0)
        return jnp.where(good, ratio**2, 1.0)

    def _stat_widths(self) -> Float[Array, " component"]:
        """Relative error of the samples' sum; one where it is zero (then it is fixed)."""
        c, components = self.stat, len(self.stat.parameters)
        zero = jnp.zeros(components, self.nominal.dtype)
        total = zero.at[c.component].add(self.nominal[c.sample, c.bin])
        variance = zero.at[c.component].add(c.uncertainty**2)
        good = (total > 0) & (variance > 0)
        root = jnp.sqrt(jnp.where(good, variance, 1.0))
        return jnp.where(good, root / jnp.where(good, total, 1.0), 1.0)


def _poisson(count: Array, mean: Array) -> Array:
    """-log of a Poisson probability over its largest: m - n - n log(m / n), no digit lost."""
    some, good = count > 0, mean > 0
    excess = (jnp.where(good, mean, 1.0) - count) / jnp.where(some, count, 1.0)
    spent = count * (excess - jnp.log1p(jnp.where(some, excess, 0.0)))
    # No counts cost what was expected; counts where none are expected are impossible.
    none = jnp.where(mean >= 0, mean, jnp.inf)
    return jnp.where(some, jnp.where(good, spent, jnp.inf), none)


def one_channel(
    signal: Float[Array, " bin"],
    background: Float[Array, " bin"],
    shifts: dict[str, tuple[Array, Array]] | None = None,
    observed: Float[Array, " bin"] | None = None,
) -> HistFactory:
    """A signal of free strength `mu` on a background whose shape is not known exactly.

    n_b = mu signal_b + background_b + shifts, each with a nuisance parameter of unit
    normal constraint and interpolation code 4p: the model of neos. Templates may be traced.

    Args:
        signal: expected counts at mu = 1.
        background: expected counts.
        shifts: name of a nuisance parameter -> background at -1 and at +1 sigma.
        observed: counts; by default the background's.

    Raises:
        InputError: templates of different lengths or of no bins, a shift that is not a pair
            of them or is named "mu", or yields and counts that are not finite and >= 0
            (these are looked at where they are known, so not under `jit`).
    """
    shifts = shifts or {}
    background = reals(background, "`background`")
    k, bins = len(shifts), background.size
    signal = _template(signal, bins, "`signal`")
    background = _template(background, bins, "`background`")
    if observed is not None:
        observed = _template(observed, bins, "`observed`")
    pairs = [_pair(name, pair, bins) for name, pair in shifts.items()]
    number = jnp.arange(k)
    none = jnp.zeros(0, int)
    ends = jnp.reshape(jnp.asarray(pairs, float), (k, 2, bins))
    unit = Normals(number, jnp.zeros(k), jnp.ones(k))
    # Rows are background and signal, which alone is multiplied by mu, the last parameter.
    factors = jnp.stack([jnp.full((bins, 1), k + 1), jnp.full((bins, 1), k)])
    return HistFactory(
        nominal=jnp.stack([background, signal]),
        shifts=Shifts(
            number, 0 * number, jnp.ones((k, bins), bool), ends[:, 0], ends[:, 1]
        ),
        norms=Norms(none, jnp.zeros(0), jnp.zeros(0)),
        factors=factors,
        normals=unit,
        stat=Cells(none, none, none, jnp.zeros(0), none),
        shape=Cells(none, none, none, jnp.zeros(0), none),
        order=number,
        observed=background if observed is None else observed,
        start=jnp.append(jnp.zeros(k), 1.0),
        low=jnp.append(jnp.full(k, -5.0), 0.0),
        up=jnp.append(jnp.full(k, 5.0), 10.0),
        names=(*shifts, "mu"),
        samples=("background", "signal"),
        channels=(("channel", bins),),
        poi=k,
    )


def _template(values: Array, bins: int, what: str) -> Array:
    """Counts in bins; where they are known, such as can be."""
    found = reals(values, what)
    if found.shape != (bins,) or not bins:
        raise errors.InputError(
            f"All templates have the shape (bin,), here ({bins},), as the background has, "
            f"but {what} has {found.shape}. Rebin it."
        )
    if known(found):
        check_template(np.asarray(found), bins, what)
    return found


def _pair(name: str, pair: tuple[Array, Array], bins: int) -> Array:
    """Templates of a shift, shape (2, bin)."""
    try:
        low, high = pair
    except (TypeError, ValueError) as error:
        raise errors.InputError(
            f"A shift is a pair of templates, but '{name}' is {reprlib.repr(pair)}. Give "
            "the background at -1 and at +1 sigma."
        ) from error
    if name == "mu":
        raise errors.InputError(
            "Parameters have different names, and 'mu' is the signal's strength, but a "
            "shift is named so, too. Rename the shift."
        )
    ends = low, high
    return jnp.stack([_template(v, bins, f"the shift '{name}'") for v in ends])
