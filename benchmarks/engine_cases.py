"""The problems and the engines of the table: one line each.

Nothing heavy is imported before a problem or an engine is made, so that names are cheap.
Problems are those of `kythera.testing`, `optimisers.py` and `portal_problem.py`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import kythera as ky
from kythera import errors


@dataclasses.dataclass(frozen=True)
class Case:
    """A problem, how its answer is measured, and the settings that depend on it.

    Args:
        problem: what is searched.
        best: the lowest loss; None where nobody knows it.
        exact: design as built -> its loss without noise, where that is known.
        rows: of the final measurement, where it is not.
        step: of Adam, a fraction of each parameter's range.
        clip: longest move in steps; none where it is 0.
        radius: half width of the region of local surrogates.
        designs: that they simulate around each design.
        terms: of the loss, where there are several.
    """

    problem: Any
    best: float | None = None
    exact: Callable[[Any], float] | None = None
    rows: int = 1
    step: float = 0.02
    clip: float = 0.0
    radius: float = 0.05
    designs: int = 8
    terms: tuple[str, ...] = ()


def _textbook(label: str) -> Case:
    from optimisers import cases

    found = cases()[label]
    problem = found.problem.replace(events=max(SPREAD, found.problem.events))
    return Case(problem, found.best, found.exact, rows=problem.events)


def _local(name: str, best: float, designs: int, radius: float = 0.02) -> Case:
    """L-GSO's problems with the settings of its authors: Adam 0.1 of a range of ten."""
    from kythera.testing import published

    return Case(
        getattr(published, name)(), best, rows=100_000, step=0.01, clip=radius / 0.01,
        radius=radius, designs=designs,
    )  # fmt: skip


def _shower() -> Case:
    from kythera.testing import showers

    return Case(showers.shower("loss", events=100), SHOWER, rows=1000, step=0.05)


def _off_three(y: Any) -> Any:
    return (y[0] - 3) ** 2


def _poisson() -> Case:
    """N ~ Poisson(x) shall be 3: the mean of (N - 3)^2 is x + (x - 3)^2, least at 2.5."""
    from kythera.testing import decisions
    from kythera.testing.textbook import Textbook

    problem = decisions.poisson()
    problem = problem.replace(
        space=problem.space.with_leaf("x", [10.0]), objective=Textbook(_off_three)
    )
    return Case(
        problem, 2.75, lambda d: float(d.x[0] + (d.x[0] - 3) ** 2), problem.events
    )


def _straws() -> Case:
    from kythera import testing

    terms = ("missed", "volume")
    weighted = testing.straws(*terms).replace(weights={"volume": 1e-3}, events=SPREAD)
    return Case(weighted, rows=SPREAD, terms=terms)


def _calorimeter() -> Case:
    from kythera.instruments import sampling_calorimeter

    return Case(sampling_calorimeter.problem(events=512), rows=16_384)


def _portal() -> Case:
    from portal_problem import tomopt_like

    return Case(tomopt_like(muons=1000), rows=32, step=0.005)


PARTS = (1 / 8, 1 / 4, 1 / 2, 1)  # of the CPU seconds, after which is measured
SPREAD = 2  # rows, where one would do: a surrogate needs their spread
HUMP = -0.8582  # by quadrature, at psi = (0, +-1.232)
SHOWER = 0.085  # of a scan, near 0.85

PROBLEMS: dict[str, Callable[[], Case]] = {
    "sphere": lambda: _textbook("sphere, 4"),
    "Rosenbrock": lambda: _textbook("Rosenbrock, 4"),
    "Branin": lambda: _textbook("Branin"),
    "mixed": lambda: _textbook("mixed"),
    "noisy mixed": lambda: _textbook("noisy mixed"),
    "three hump": lambda: _local("three_hump", HUMP, 4, 0.05),
    "valley": lambda: _local("valley", 0.0, 15),
    "hidden valley": lambda: _local("hidden_valley", 0.0, 20),
    "hidden hump": lambda: _local("hidden_hump", HUMP, 10),
    "shower": _shower,
    "Poisson": _poisson,
    "straw tracker": _straws,
    "calorimeter": _calorimeter,
    "portal": _portal,
}


def _adam(case: Case) -> Any:
    if not case.clip:
        return ky.adam(case.step)
    import optax

    rule = optax.chain(optax.adam(1.0), optax.clip_by_global_norm(case.clip))
    return ky.from_optax(rule, case.step)


def _surrogate(make: Callable[[], Any]) -> Callable[[Case], tuple]:
    def engine(case: Case) -> tuple:
        local = ky.LocalSurrogate(make(), radius=case.radius, designs=case.designs)
        return _adam(case), local

    return engine


def _front(model: str) -> Callable[[Case], tuple]:
    def engine(case: Case) -> tuple:
        if not case.terms:
            raise errors.UnsupportedError(
                "A front is between several terms, but the loss has one. Use `Bayesian` "
                "or `Evolution`."
            )
        return ky.MultiObjective(case.terms, model), None

    return engine


# Name -> (family, case -> (optimiser, estimator)); None is what suits the optimiser.
ENGINES: dict[str, tuple[str, Callable[[Case], tuple]]] = {
    "Pathwise": ("derivatives", lambda c: (_adam(c), ky.Pathwise())),
    "LBFGSB, Pathwise": ("derivatives", lambda c: (ky.LBFGSB(), ky.Pathwise())),
    "MultiStart, Pathwise": (
        "derivatives",
        lambda c: (ky.MultiStart(_adam(c), starts=4), ky.Pathwise()),
    ),
    "ScoreFunction": ("probabilities", lambda c: (_adam(c), ky.ScoreFunction())),
    "Branching": ("probabilities", lambda c: (_adam(c), ky.Branching())),
    "RandomisedDesign": ("differences", lambda c: (_adam(c), ky.RandomisedDesign())),
    "FiniteDifference": ("differences", lambda c: (_adam(c), ky.FiniteDifference())),
    "LocalSurrogate, Quadratic": ("surrogates", _surrogate(lambda: ky.Quadratic())),
    "LocalSurrogate, Regressor": ("surrogates", _surrogate(lambda: ky.Regressor())),
    "LocalSurrogate, CramerGAN": ("surrogates", _surrogate(lambda: ky.CramerGAN())),
    "LocalSurrogate, Flow": ("surrogates", _surrogate(lambda: ky.Flow())),
    "EndToEndSurrogate": (
        "surrogates",
        lambda c: (_adam(c), ky.EndToEndSurrogate(radius=c.radius)),
    ),
    "Evolution": ("populations", lambda c: (ky.Evolution(), None)),
    "Policy": ("populations", lambda c: (ky.Policy(), None)),
    "RandomSearch": ("populations", lambda c: (ky.RandomSearch(), None)),
    "NSGA-II": ("populations", _front("nsga2")),
    'Bayesian("tpe")': ("models of the loss", lambda c: (ky.Bayesian(), None)),
    'Bayesian("gp")': ("models of the loss", lambda c: (ky.Bayesian("gp"), None)),
    "qLogNEHVI": ("models of the loss", _front("gp")),
}
