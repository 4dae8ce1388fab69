"""Which observable excludes a signal best, the background's shape not being known."""

import equinox as eqx
import jax
import jax.numpy as jnp

from kythera.core.checks import check_count
from kythera.core.pipeline import Pipeline
from kythera.core.problem import Problem
from kythera.core.space import Real, Space
from kythera.core.types import Array
from kythera.instruments.three_blobs.design import LIMIT, Observable, fresh
from kythera.instruments.three_blobs.simulator import Blobs, Observed, Points
from kythera.physics.statistics.histfactory import HistFactory, one_channel
from kythera.stages.inference.summaries import Summary, inside_bins, kde_bins
from kythera.stages.objectives.limits import ExpectedInference, Form

YIELDS = {"signal": 20.0, "background": 100.0, "up": 100.0, "down": 100.0}
BANDWIDTH = 0.1  # of the soft histogram, as neos trains


def model(counts: dict[str, Array]) -> HistFactory:
    """The statistical model of four templates: a signal, a background, its variations."""
    shifts = {"corr": (counts["down"], counts["up"])}
    return one_channel(counts["signal"], counts["background"], shifts)


class _Bins(eqx.Module):
    """Histograms of all samples in [0, 1], soft or hard; the outer bins are open."""

    bins: int = eqx.field(static=True)
    hard: bool = eqx.field(static=True)

    def __call__(self, design: Observable, x: dict[str, Array]) -> dict[str, Array]:
        inner = jnp.linspace(0, 1, self.bins + 1)[1:-1]
        edges = jnp.concatenate([jnp.array([-jnp.inf]), inner, jnp.array([jnp.inf])])
        if self.hard:
            return {name: inside_bins(v, edges) for name, v in x.items()}
        return {name: kde_bins(v, edges, BANDWIDTH) for name, v in x.items()}


def problem(
    form: Form = "log_cls",
    events: int = 1000,
    bins: int = 4,
    units: int = 16,
    seed: int = 2,
) -> Problem[Observable]:
    """The three blobs of neos (arXiv:2203.05570): CLs through the fit.

    Args:
        form: of the loss, see `ExpectedInference`.
        events: of each sample in one evaluation.
        bins: of the observable.
        units: of the network's hidden layer.
        seed: of the weights at the start.

    Returns:
        4 x units + 1 weights. The search sees soft histograms; reported are hard ones, and
        their CLs, p0 or sigma itself.

    Raises:
        InputError: fewer than two bins, no unit, or numbers of them that are not whole.
    """
    check_count("bins", bins, "Try 4", least=2)
    check_count("units", units, "Try 16")
    start = fresh(units, jax.random.key(seed))
    summary = Summary(_Bins(bins, False), _Bins(bins, True))
    line = Pipeline(Points(), Blobs(), Observed(), summary)
    goal = ExpectedInference(YIELDS, model, form)
    names = ("weight", "bias", "out", "offset")
    return Problem(
        space=Space(start, {name: Real(-LIMIT, LIMIT) for name in names}),
        pipeline=line,
        objective=goal,
        events=events,
        hard_pipeline=eqx.tree_at(lambda p: p.inference, line, summary.reported()),
        hard_objective=ExpectedInference(YIELDS, model, form.removeprefix("log_")),  # type: ignore[arg-type]
        name="three_blobs",
    )
