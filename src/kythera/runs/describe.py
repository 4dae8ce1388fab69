"""A solution as plain numbers: what is written of an optimisation."""

import dataclasses
import datetime
import importlib.metadata
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kythera import __version__, text
from kythera.drawing import plain
from kythera.runs import folder as folders
from kythera.runs.citation import REFERENCES
from kythera.runs.result import FORMAT, VERSION, Result, write

if TYPE_CHECKING:
    from kythera.core.evaluation import AbstractEstimator, AbstractOptimiser, Measured
    from kythera.core.problem import Problem
    from kythera.solution import Gain, Solution

DRAW = 0xFFFFFFFC  # stream of the key that drawings use, beside those of the loop


def describe(solution: "Solution", **context: Any) -> Result:
    """A solution as plain numbers, with the instrument's drawings.

    Args:
        solution: what `optimise` returned.
        context: as for `begin`, from `reference` on.
    """
    figures, failure = _drawings(solution)
    begun = begin(
        solution.problem,
        solution.optimiser,
        solution.estimator,
        solution.key,
        **context,
    )
    record = begun | _found(solution)
    record["drawing_failed"] = failure
    record["events"] |= {"search": solution.events, "report": solution.report_events}
    return Result(record, _trials(solution), figures)


def begin(
    problem: "Problem",
    optimiser: "AbstractOptimiser",
    estimator: "AbstractEstimator",
    key: Any,
    *,
    reference: str = "",
    settings: Mapping[str, Any] | None = None,
    command: str = "",
    budget: Mapping[str, float | None] | None = None,
    optimiser_option: str = "",
    estimator_option: str = "",
) -> dict[str, Any]:
    """The record of a search that begins: nothing was found, and best is the start.

    Args:
        problem: as `optimise` is given it.
        optimiser: likewise.
        estimator: likewise.
        key: likewise.
        reference: where the problem comes from: "telescope", "package.module:problem".
        settings: what it was made with, `{"planes": 6}`.
        command: the line that repeats the run, where there is one.
        budget: limits by name: "events", "trials", "seconds".
        optimiser_option: as the command line names it, "adam:step=0.02".
        estimator_option: likewise.
    """
    space, nothing = problem.space, {"value": None, "stderr": None}
    unknown = {"start": nothing, "best": nothing, "gain": nothing}
    start = _point(space, np.asarray(space.start))
    return {
        "format": FORMAT,
        "version": VERSION,
        "kythera": __version__,
        "jax": importlib.metadata.version("jax"),
        "python": platform.python_version(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "finished": False,
        "command": command,
        "instrument": {
            "name": problem.name,
            "reference": reference or problem.name,
            "settings": plain(settings or {}, digits=None),
            "weights": plain(problem.weights, digits=None),
            "rows": problem.events,
        },
        "optimiser": _settings(optimiser) | {"option": optimiser_option},
        "estimator": _settings(estimator) | {"option": estimator_option},
        **_key(key),
        "budget": {k: (budget or {}).get(k) for k in ("events", "trials", "seconds")},
        "events": {
            "search": 0,
            "report": 0,
            "evaluation": estimator.price(problem),
        },
        "reason": "",
        "seconds": 0.0,
        "space": describe_space(space),
        "start": start,
        "best": start,
        "soft": unknown | {"terms": {}, "slack": {}, "events": 0},
        "hard": None,
        "gain": nothing,
        "terms": [],
        "slack": [],
        "causes": {},
        "drawing_failed": "",
        "references": _references(problem, optimiser, estimator),
        "files": {},
    }


def save(solution: "Solution", folder: str | Path, **context: Any) -> Path:
    """Write a solution as a result, atomically; an existing result is never touched.

    Args:
        solution: what `optimise` returned.
        folder: where; it is made where it does not exist.
        context: as for `describe`.

    Returns:
        the folder.

    Raises:
        StoreError: it cannot be written, or already holds a result.
    """
    claimed = folders.claim(Path(folder))
    try:
        write(describe(solution, **context), claimed.path)
    except BaseException:
        claimed.release()
        raise
    return claimed.path


def _found(solution: "Solution") -> dict[str, Any]:
    """The part of the record that says what came out."""
    space = solution.problem.space
    return {
        "finished": True,
        "reason": solution.reason,
        "seconds": solution.seconds,
        "start": _point(space, solution.u_start),
        "best": _point(space, solution.u_best),
        "soft": _gain(solution.soft),
        "hard": _gain(solution.hard) if solution.hard else None,
        "gain": _number(solution.gain),
        **_names(solution),
        "causes": {
            str(trial.number): trial.evaluation.cause
            for trial in solution.trials
            if trial.evaluation.cause
        },
    }


def _names(solution: "Solution") -> dict[str, list[str]]:
    """Of terms and constraints, which a final measurement that failed does not know."""
    found = [t.evaluation for t in solution.trials if not t.evaluation.cause]
    known = found[0] if found else solution.soft
    return {"terms": sorted(known.terms), "slack": sorted(known.slack)}


def _references(problem: "Problem", *engines: Any) -> list[str]:
    """Of kythera, the problem's parts, the optimiser and the estimator, each once."""
    found = dict.fromkeys((*REFERENCES, *problem.references()))
    for part in engines:
        found |= dict.fromkeys(part.references)
    return list(found)


def _number(measured: "Measured") -> dict[str, float | None]:
    return {
        name: value if np.isfinite(value) else None
        for name, value in (("value", measured.value), ("stderr", measured.stderr))
    }


def _gain(gain: "Gain") -> dict[str, Any]:
    def pairs(named: Mapping[str, "tuple[Measured, Measured]"]) -> dict[str, Any]:
        return {
            name: {"start": _number(first), "best": _number(second)}
            for name, (first, second) in named.items()
        }

    return {
        "start": _number(gain.start),
        "best": _number(gain.best),
        "gain": _number(gain.gain),
        "terms": pairs(gain.terms),
        "slack": pairs(gain.slack),
        "events": gain.events,
    }


def _key(key: Any) -> dict[str, Any]:
    """The seed where the key is that of a whole number, and the key itself."""
    import jax

    words = [int(v) for v in np.ravel(jax.random.key_data(key))]
    seed = words[-1] if not any(words[:-1]) else None
    return {
        "seed": seed,
        "key": {"words": words, "kind": str(jax.random.key_impl(key))},
    }


def describe_space(space: Any) -> dict[str, Any]:
    """Columns over the coordinates, and the groups they come in."""
    names = space.names
    lower, upper, kinds = np.zeros(len(names)), np.ones(len(names)), []
    groups = []
    for (path, where), domain in zip(space.groups.items(), space.domains, strict=True):
        kind = type(domain).__name__.lower()
        size = where.stop - where.start
        shape = np.shape(space._leaves(space.template)[len(groups)])
        if hasattr(domain, "lower"):
            lower[where] = np.ravel(np.broadcast_to(np.asarray(domain.lower), shape))
            upper[where] = np.ravel(np.broadcast_to(np.asarray(domain.upper), shape))
        kinds += [kind] * size
        groups.append(
            {
                "path": path,
                "kind": kind,
                "size": size,
                "shape": list(shape),
                "unit": domain.unit,
                "log": bool(getattr(domain, "log", False)),
                "options": list(getattr(domain, "options", ())),
            }
        )
    return {
        "names": list(names),
        "units": list(space.units),
        "native_per_unit": [text.native_per(unit) for unit in space.units],
        "lower": lower.tolist(),
        "upper": upper.tolist(),
        "kinds": kinds,
        "groups": groups,
    }


def _point(space: Any, u: np.ndarray) -> dict[str, list[float]]:
    return {
        "cube": [float(v) for v in u],
        "values": space.values(u, hard=True).tolist(),
    }


def _trials(solution: "Solution") -> dict[str, np.ndarray]:
    """Columns over the trials."""
    trials, found = solution.trials, [t.evaluation for t in solution.trials]
    n = len(solution.u_start)

    def named(which: str, names: list[str], what: str) -> np.ndarray:
        nan = float("nan")
        rows = [
            [getattr(getattr(e, which).get(name), what, nan) for name in names]
            for e in found
        ]
        return np.array(rows, float).reshape(len(found), len(names))

    terms, slack = _names(solution).values()
    return {
        "number": np.array([t.number for t in trials], np.int64),
        "sample": np.array([t.sample for t in trials], np.int64),
        "u": np.array([t.u for t in trials], float).reshape(len(trials), n),
        "values": np.array([t.values for t in trials], float).reshape(len(trials), n),
        "total": np.array([e.total.value for e in found], float),
        "stderr": np.array([e.total.stderr for e in found], float),
        "terms": named("terms", terms, "value"),
        "terms_stderr": named("terms", terms, "stderr"),
        "slack": named("slack", slack, "value"),
        "slack_stderr": named("slack", slack, "stderr"),
        "events": np.array([e.events for e in found], np.int64),
        "spent": np.array([t.spent for t in trials], np.int64),
        "seconds": np.array([t.seconds for t in trials], float),
        "state": np.array([t.state for t in trials], "U8"),
    }


def _drawings(solution: "Solution") -> tuple[dict[str, Any], str]:
    """Figures by name, and why there are none: a drawing must not cost a result."""
    import jax

    if solution.problem.draw is None:
        return {}, ""
    designs = {"start": solution.start, "best": solution.best}
    key = jax.random.fold_in(solution.key, DRAW)
    try:
        drawn = solution.problem.draw(solution.problem, designs, key)
        return {name: plain(dict(figure)) for name, figure in drawn.items()}, ""
    except Exception as error:  # the instrument's own code may raise anything
        return {}, f"{type(error).__name__}: {error}"


def _settings(part: Any) -> dict[str, Any]:
    """Name and settings of an optimiser or estimator."""
    fields = dataclasses.fields(part) if dataclasses.is_dataclass(part) else ()
    return {
        "name": type(part).__name__,
        "settings": {f.name: _setting(getattr(part, f.name)) for f in fields},
    }


def _setting(value: Any) -> Any:
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value).__name__
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _settings(value)
    if isinstance(value, Mapping):
        return {str(k): _setting(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_setting(v) for v in value]
    if callable(value):
        return getattr(value, "__qualname__", type(value).__name__)
    if getattr(value, "size", 0) > 16:
        return f"array of shape {tuple(value.shape)}"
    return plain(value)
