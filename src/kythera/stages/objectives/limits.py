"""Which limit or discovery an analysis will reach, through the fit: the loss of neos."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar, Literal

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from kythera import errors
from kythera.core.objective import AbstractObjective, Score
from kythera.core.pipeline import Trace
from kythera.core.types import Array, Float
from kythera.physics.statistics.asymptotics import log_p_value, p_value
from kythera.physics.statistics.checks import known, listed
from kythera.physics.statistics.hypotheses import (
    Model,
    expected_discovery,
    expected_error,
    expected_limit,
)

Form = Literal["log_cls", "cls", "log_p0", "p0", "log_sigma", "sigma"]
FORMS: dict[str, Callable[[Model], Array]] = {
    "cls": expected_limit,
    "log_cls": partial(expected_limit, log=True),
    "p0": lambda model: p_value(expected_discovery(model)),
    "log_p0": lambda model: log_p_value(expected_discovery(model)),
    "sigma": expected_error,
    "log_sigma": lambda model: jnp.log(expected_error(model)),
}


class ExpectedInference(AbstractObjective):
    """What a fit to the counts of a summary will say: CLs, p0 or the error of a signal.

    The counts of sample k are N_k y_k, where y_k is the mean row of the sample: templates
    of a statistical model, variations by systematic uncertainties among them. The loss is
    that of the model's Asimov data, nuisance parameters profiled:

    - "cls": CLs of a signal of strength one that is not there (the loss of neos);
    - "p0": probability that the background looks like the signal that is there;
    - "sigma": error of its strength, the bound of Cramer and Rao.

    The fit is differentiated by the envelope theorem, so one fit and no unrolled step is
    what a gradient costs. "log_..." are their logarithms, made of logarithms of tails, so
    that neither value nor slope is lost where the probabilities underflow: search with
    these and report the others, as `hard_objective`.

    The inference (or `Summary`) gives a mapping: name of a sample -> rows, of shape
    (event, bin), of which the mean over all rows is y_k.

    Args:
        yields: name of each template -> expected counts N_k.
        model: counts of each template by name, shape (bin,) -> a statistical model, such
            as `one_channel` or a workspace whose yields are replaced.
        form: of the loss, and the name of its term.
        floor: counts that are added to each bin of each template, so that none is empty.

    Raises:
        InputError: names that do not exist, numbers that are not positive, or negative
            counts; when scored under `jit` these give NaN, and so does a fit that does not
            converge.
    """

    yields: dict[str, float]
    model: Callable[[dict[str, Float[Array, " bin"]]], Model] = eqx.field(static=True)
    form: Form = eqx.field(static=True, default="log_cls")
    floor: float = 1e-3
    references: ClassVar[tuple[str, ...]] = (
        "N. Simpson, L. Heinrich, neos: end-to-end-optimised summary statistics for high "
        "energy physics, J. Phys.: Conf. Ser. 2438 (2023) 012105, arXiv:2203.05570",
        "G. Cowan, K. Cranmer, E. Gross, O. Vitells, Asymptotic formulae for likelihood-"
        "based tests of new physics, Eur. Phys. J. C 71 (2011) 1554, arXiv:1007.1727",
    )

    def __check_init__(self):
        """Refuse a form that is not known, and yields that are none."""
        if self.form not in FORMS:
            raise errors.InputError(
                f"'{self.form}' is no `form` that is known. "
                f"{errors.nearest(self.form, FORMS)}"
            )
        for name, value in [*self.yields.items(), ("floor", self.floor)]:
            if known(value) and not value > 0:
                raise errors.InputError(
                    f"Yields and `floor` must be > 0, but '{name}' is {value}. Leave out "
                    "what is not expected."
                )

    def tally(self, design: Any, trace: Trace) -> dict[str, Float[Array, "event bin"]]:
        """Rows of each template."""
        missing = [name for name in self.yields if name not in trace.result]
        if missing:
            raise errors.InputError(
                f"The inference must give rows of each template, {list(self.yields)}, but "
                f"{missing} are not among {list(trace.result)}. Name them alike."
            )
        return {name: trace.result[name] for name in self.yields}

    def counts(self, tally: Mapping[str, Array]) -> dict[str, Float[Array, " bin"]]:
        """Expected counts of each template."""
        return {k: n * tally[k] + self.floor for k, n in self.yields.items()}

    def score(self, design: Any, tally: Mapping[str, Array]) -> Score:
        """The one term, named after the form."""
        counts = self.counts(tally)
        for name, value in counts.items():
            if known(value) and not np.all(np.asarray(value) >= 0):
                bad = np.flatnonzero(~(np.asarray(value) >= 0))
                raise errors.InputError(
                    f"Bins must expect counts >= 0, but bins {listed(bad)} of '{name}' "
                    f"expect {np.asarray(value)[bad[:5]]}. Look at the weights of the "
                    "events, or merge bins."
                )
        good = jnp.all(jnp.stack([jnp.all(v >= 0) for v in counts.values()]))
        value = FORMS[self.form](self.model(counts))
        return Score({self.form: jnp.where(good, value, jnp.nan)})
