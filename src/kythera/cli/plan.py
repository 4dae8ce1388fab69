"""A search, checked and ready, from what was typed."""

import dataclasses
import shlex
from typing import TYPE_CHECKING, Any

from kythera import errors
from kythera.cli.base import checked_seed
from kythera.runs import instruments, spec

if TYPE_CHECKING:
    from kythera.core.problem import Problem
    from kythera.runs.run_spec import RunSpec
    from kythera.runs.study import Study

FALLBACK = spec.Spec(trials=200)  # where nobody sets a budget
SHOWN = ("events", "trials", "seconds")  # limits that the progress line counts


@dataclasses.dataclass(frozen=True)
class Plan:
    """A search, checked and ready.

    Args:
        about: what rebuilds it.
        wanted: its settings and those of this place.
        problem, search, engine: made from them.
    """

    about: "RunSpec"
    wanted: spec.Spec
    problem: "Problem"
    search: Any
    engine: Any

    @classmethod
    def of(cls, rebuilt: "RunSpec", wanted: spec.Spec) -> "Plan":
        """Build all parts."""
        problem = rebuilt.problem()
        if wanted.optimiser is None:
            wanted = wanted.over(spec.Spec(optimiser=_default_optimiser(problem)))
        rebuilt = dataclasses.replace(rebuilt, settings=wanted)
        return cls(rebuilt, wanted, problem, *rebuilt.engines(problem))

    @property
    def context(self) -> dict[str, Any]:
        """What a record says of it."""
        return {
            "reference": self.wanted.instrument or "",
            "settings": self.wanted.set,
            "command": _command(self.wanted),
            "optimiser_option": self.wanted.optimiser or "",
            "estimator_option": self.wanted.estimator or "",
        }

    @property
    def limits(self) -> dict[str, Any]:
        """Those that `optimise` takes."""
        return {f"max_{name}": getattr(self.wanted, name) for name in SHOWN}

    def key(self) -> Any:
        """The root of all random numbers."""
        import jax

        return jax.random.key(self.wanted.seed or 0)


def over_source(asked: spec.Spec, source: "Study") -> spec.Spec:
    """What was asked for, about the instrument of another study."""
    theirs = source.spec.get("settings", {})
    mine = {k: theirs[k] for k in ("instrument", "set") if k in theirs}
    if asked.instrument not in (None, mine.get("instrument")):
        return asked
    return asked.over(spec.from_mapping(mine, f"the study {source.name!r}"))


def with_defaults(asked: spec.Spec) -> spec.Spec:
    """Over the instrument's own, and ours."""
    if asked.instrument is None:
        raise errors.InputError(
            "A run needs an instrument, but none was named. "
            f"Known: {', '.join(instruments.available())}."
        )
    instrument = instruments.find(asked.instrument)
    where = f"`defaults` of '{instrument.reference.partition(':')[0]}'"
    wanted = asked.over_defaults(spec.from_mapping(instrument.defaults, where))
    if not any(wanted.budget.values()):
        wanted = wanted.over(FALLBACK)
    if wanted.report_rows is not None and wanted.report_rows < 1:
        raise errors.InputError(
            f"`report_rows` must be at least 1, but is {wanted.report_rows}. Leave it "
            "out for the default."
        )
    return dataclasses.replace(wanted, seed=checked_seed(wanted.seed))


def _default_optimiser(problem: "Problem") -> str:
    """Adam where a gradient is cheap, evolution elsewhere."""
    from kythera.estimators.finite_difference import FiniteDifference
    from kythera.optimise import gradient_estimator

    dear = isinstance(gradient_estimator(problem), FiniteDifference)
    return "evolution" if dear else "adam"


def _command(wanted: spec.Spec) -> str:
    """The line that repeats a run."""
    options = {
        "optimiser": "optimiser",
        "estimator": "estimator",
        **{name: name for name in (*SHOWN, "cpu_seconds")},
        "price": "max_price",
        "price_per_hour": "price_per_hour",
        "report_rows": "report_rows",
        "in_flight": "in_flight",
        "device": "device",
        "seed": "seed",
        "start": "start",
    }
    words = ["kythera", "optimise", wanted.instrument or ""]
    for key, option in options.items():
        value = getattr(wanted, key)
        if value is not None:
            words += [f"--{option.replace('_', '-')}", spec.written(value)]
    for path in wanted.freeze or ():
        words += ["--freeze", path]
    for name, value in wanted.set.items():
        words += ["--set", f"{name}={spec.written(value)}"]
    return shlex.join(words)
