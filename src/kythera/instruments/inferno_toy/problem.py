"""Which summary of an event measures the signal best, background uncertainties included."""

import math
import numbers

import equinox as eqx
import jax
import jax.numpy as jnp

from kythera import errors
from kythera.core.checks import check_count
from kythera.core.pipeline import Pipeline
from kythera.core.problem import Problem
from kythera.core.space import Real, Space
from kythera.core.types import Array
from kythera.instruments.inferno_toy.design import LIMIT, Analysis, fresh
from kythera.instruments.inferno_toy.drawings import draw
from kythera.instruments.inferno_toy.reconstruction import (
    CrossEntropy,
    Logits,
    probability,
)
from kythera.instruments.inferno_toy.simulator import YIELDS, Mixture, Pairs
from kythera.stages.inference.summaries import (
    Summary,
    inside_bins,
    kde_bins,
    largest_bin,
    softmax_bins,
)
from kythera.stages.objectives.uncertainty import ExpectedUncertainty, Form

OBJECTIVES = ("inferno", "bce")
# Nuisance parameter -> standard deviation of what is known of it, for each benchmark.
SHIFTS: tuple[dict[str, float], ...] = (
    {},
    {"shift": math.inf},
    {"shift": math.inf, "rate": math.inf},
    {"shift": 0.4, "rate": 1.0},
    {"shift": 0.4, "rate": 1.0},
)
NORMALISATIONS: tuple[dict[str, float], ...] = ({}, {}, {}, {}, {"background": 100.0})
STEPS = {"shift": 0.2, "rate": 0.5}  # of the paper's templates
CHUNK = 20_000  # pairs at a time: 8 MB for each hidden layer
BANDWIDTH = 0.02  # of a classifier's soft histogram


def uncertainty(
    benchmark: int, form: Form, *, hard: bool = False
) -> ExpectedUncertainty:
    """Expected error of the signal's count of 50 in one of the benchmarks.

    Args:
        benchmark: 0: nothing else is unknown; 1: r; 2: r and lambda; 3: both, known to 0.4
            and 1; 4: the background's count as well, known to 100 of 1000.
        form: of the loss.
        hard: with the paper's templates instead of derivatives.

    Raises:
        InputError: an unknown benchmark.
    """
    check_benchmark(benchmark)
    shifts = SHIFTS[benchmark]
    steps = {path: STEPS[path] for path in shifts} if hard else {}
    return ExpectedUncertainty(
        YIELDS, "signal", NORMALISATIONS[benchmark], shifts, steps, form
    )


class _Bins(eqx.Module):
    """Rows of each sample, soft or hard."""

    kind: str = eqx.field(static=True)
    temperature: float
    bins: int = eqx.field(static=True)

    def __call__(self, design: Analysis, logits: dict[str, Array]) -> dict[str, Array]:
        return {name: self.rows(v) for name, v in logits.items()}

    def rows(self, logits: Array) -> Array:
        if self.kind == "softmax":
            return softmax_bins(logits, self.temperature)
        if self.kind == "largest":
            return largest_bin(logits)
        edges, x = jnp.linspace(0, 1, self.bins + 1), probability(logits)
        return (
            kde_bins(x, edges, BANDWIDTH)
            if self.kind == "kde"
            else inside_bins(x, edges)
        )


def problem(
    benchmark: int = 2,
    objective: str = "inferno",
    events: int = 1000,
    bins: int = 10,
    width: int = 100,
    temperature: float = 0.1,
    seed: int = 1,
) -> Problem[Analysis]:
    """The synthetic problem of the INFERNO paper (arXiv:1806.04743, Section 5.1).

    Args:
        benchmark: 0 to 4: what is not known beside the signal's count, see `uncertainty`.
        objective: "inferno", the logarithm of the expected error of the signal's count,
            soft and with derivatives; or "bce", the cross-entropy of a classifier.
        events: pairs of a signal and a background event in one evaluation.
        bins: of the summary (of a classifier's probability).
        width: of the two hidden layers.
        temperature: of the softmax, > 0.
        seed: of the weights at the start.

    Returns:
        11,510 weights by default. Either way the error of the signal's count from hard bins
        and the paper's templates is what is reported of it.

    Raises:
        InputError: an unknown benchmark or objective, bins or units that are no whole
            numbers or too few, or a temperature that is not > 0.
    """
    _check(benchmark, objective, bins, width, temperature)
    inferno = objective == "inferno"
    sizes = (3, width, width, bins if inferno else 2)
    start = fresh(sizes, jax.random.key(seed))
    soft, hard = ("softmax", "largest") if inferno else ("kde", "inside")
    summary = Summary(_Bins(soft, temperature, bins), _Bins(hard, temperature, bins))
    line = Pipeline(Pairs(), Mixture(), Logits(), summary)
    free = [f"layers[{i}].{k}" for i in range(3) for k in ("weight", "bias")]
    return Problem(
        space=Space(start, {path: Real(-LIMIT, LIMIT) for path in free}),
        pipeline=line,
        objective=uncertainty(benchmark, "log") if inferno else CrossEntropy(),
        events=events,
        chunk=CHUNK,
        hard_pipeline=eqx.tree_at(lambda p: p.inference, line, summary.reported()),
        hard_objective=uncertainty(benchmark, "sigma", hard=True),
        draw=draw,
        name="inferno_toy",
    )


def check_benchmark(benchmark: int) -> None:
    """Refuse what is none of the five.

    Args:
        benchmark: 0 to 4.

    Raises:
        InputError: anything else, also 2.0.
    """
    whole = isinstance(benchmark, numbers.Integral) and not isinstance(benchmark, bool)
    if not whole or benchmark not in range(len(SHIFTS)):
        raise errors.InputError(
            f"The benchmarks are 0 to {len(SHIFTS) - 1}, but `benchmark` is {benchmark!r}. "
            "Give 2 for unknown shift and rate."
        )


def _check(
    benchmark: int, objective: str, bins: int, width: int, temperature: float
) -> None:
    check_benchmark(benchmark)
    if objective not in OBJECTIVES:
        raise errors.InputError(
            f"{objective!r} is no objective. {errors.nearest(objective, OBJECTIVES)}"
        )
    check_count("bins", bins, "The paper has 10", least=2)
    check_count("width", width, "The paper has 100")
    if not (isinstance(temperature, numbers.Real) and 0 < temperature < math.inf):
        raise errors.InputError(
            "The `temperature` of the softmax must be > 0 and finite, but is "
            f"{temperature!r}. Try 0.1; what is reported is the limit of 0 anyway."
        )
