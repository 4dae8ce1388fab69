"""What rebuilds a study's problem and engines, on this machine or another."""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from kythera import errors
from kythera.runs import instruments, spec
from kythera.runs.environment import environment
from kythera.runs.result import as_built

if TYPE_CHECKING:
    from kythera.core.problem import Problem
    from kythera.runs.store import Store
    from kythera.runs.study import Study

# Settings of the place where a run happens, and not of what it is about.
PLACE = ("store", "files", "name", "executor", "tracker", "out", "device")


@dataclasses.dataclass(frozen=True)
class RunSpec:
    """All that a search depends on.

    Args:
        settings: instrument, engines, limits, seed.
        design: leaves of the start that another study gave: path -> values, native.
        origin: that study, its user, run and trial; empty where there is none.
        environment: versions, code, machine of the first run.
    """

    settings: spec.Spec
    design: dict[str, Any] = dataclasses.field(default_factory=dict)
    origin: dict[str, Any] = dataclasses.field(default_factory=dict)
    environment: dict[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(
        cls, wanted: spec.Spec, start: "tuple[Study, int | None] | None" = None
    ) -> "RunSpec":
        """What was asked for, here and now.

        Args:
            wanted: settings with their defaults in place.
            start: study and trial that give the start, from `find_start`.
        """
        design, origin = design_of(*start) if start else ({}, {})
        reference = instruments.find(wanted.instrument or "").reference
        return cls(wanted, design, origin, environment(reference))

    @classmethod
    def read(cls, plain: Mapping[str, Any]) -> "RunSpec":
        """From what a study keeps.

        Raises:
            StoreError: the study was begun in Python, and only there can go on.
        """
        if "settings" not in plain:
            raise errors.StoreError(
                "This study was begun in Python, from a problem that no name leads to. "
                "Go on with it there: `Study.open(...).optimise(problem, ...)`."
            )
        settings = spec.from_mapping(plain["settings"], "the study")
        return cls(settings, plain["design"], plain["origin"], plain["environment"])

    def plain(self) -> dict[str, Any]:
        """As a study keeps it: what JSON holds."""
        said = {k: v for k, v in vars(self.settings).items() if v is not None}
        settings = {k: v for k, v in said.items() if k not in PLACE}
        rest = {"design": self.design, "origin": self.origin}
        return {"settings": settings, **rest, "environment": self.environment}

    def problem(self) -> "Problem":
        """Built anew.

        Raises:
            InputError: its instrument is not here, or refuses the settings.
            SpaceError: a design or a frozen leaf that does not fit.
        """
        wanted = self.settings
        instrument = instruments.find(wanted.instrument or "")
        problem = started(instruments.build(instrument, wanted.set), self.design)
        if not wanted.freeze:
            return problem
        return problem.replace(space=problem.space.freeze(*wanted.freeze))

    def engines(self, problem: "Problem") -> tuple[Any, Any]:
        """Optimiser and estimator as they were asked for."""
        from kythera.optimise import default_estimator

        search = spec.make("optimiser", self.settings.optimiser or "")
        if self.settings.estimator:
            return search, spec.make("estimator", self.settings.estimator)
        return search, default_estimator(problem, search)


def started(problem: "Problem", leaves: Mapping[str, Any]) -> "Problem":
    """The problem with another start: leaves of the design by path, native values.

    Raises:
        SpaceError: one that the design has not, or outside its bounds.
    """
    space = problem.space
    for path, values in leaves.items():
        space = space.with_leaf(path, np.asarray(values, float))
    return problem if space is problem.space else problem.replace(space=space)


def find_start(store: "Store", text: str) -> tuple["Study", int | None]:
    """The study, and the trial where one is named, of "STUDY" or "STUDY:TRIAL".

    Raises:
        StoreError: there is no such study.
    """
    from kythera.runs.study import Study

    try:
        return Study.open(store, text), None
    except errors.StoreError:
        name, _, number = text.rpartition(":")
        if not name or not number.isdigit():
            raise
        return Study.open(store, name), int(number)


def design_of(study: "Study", trial: int | None = None) -> tuple[dict, dict]:
    """A design that a study found: its free leaves, and those it got from elsewhere.

    Args:
        study: from which.
        trial: the number of one of its trials; by default what it would build now.

    Returns:
        the leaves (path -> native values), and where they come from.

    Raises:
        StoreError: there is no such trial, or nothing was found yet.
    """
    run = max((row["number"] for row in study.runs()), default=1)
    result = study.result(run)
    if trial is None:
        values = result.best
    else:
        where = np.flatnonzero(result.trials["number"] == trial)
        if not len(where):
            raise errors.StoreError(
                f"The study {study.name!r} has no trial {trial}, but "
                f"{len(result.trials['number'])} from 0 on. Give one of them."
            )
        point, found = (result.trials[k][where[0]] for k in ("u", "values"))
        values = as_built(result.record["space"], point, found)
    leaves: dict[str, Any] = dict(study.spec.get("design", {}))
    first = 0
    for group in result.record["space"]["groups"]:
        own = values[first : first + group["size"]]
        leaves[group["path"]] = np.reshape(own, group["shape"]).tolist()
        first += group["size"]
    origin = {"study": study.name, "user": study.user, "run": run, "trial": trial}
    return leaves, origin
