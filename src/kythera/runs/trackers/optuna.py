"""A result as a study of Optuna, for its dashboard and its analysis of parameters."""

import contextlib
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from kythera import errors, text
from kythera.runs.result import Result, as_built
from kythera.runs.store import address
from kythera.runs.trackers.base import MOST_PARAMETERS, flat

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

CONSTRAINTS = "constraints"  # where Optuna and its dashboard look for them


def export(result: Result, url: str, name: str, *, terms: bool = False) -> "Study":
    """Write all trials of a result as a new study of Optuna.

    Args:
        result: finished or not.
        url: Optuna's storage: the path of an SQLite file, or the URL of a database.
        name: of the study.
        terms: the terms of the loss as objectives of their own, unweighted; by default
            the weighted total is the only one.

    Returns:
        Optuna's study. Parameters are in the units that their names give; of more than a
        hundred the first are kept. A constraint holds in Optuna where it is <= 0, so that
        each is the slack with the other sign.

    Raises:
        StoreError: there is a study of that name, or the storage cannot be used.
    """
    import optuna

    record, place = result.record, address(url)
    objectives = record["terms"] if terms and record["terms"] else ["total"]
    minimise = [optuna.study.StudyDirection.MINIMIZE]
    with _told(place, name):
        _refuse_foreign(place)
        storage = optuna.storages.RDBStorage(
            place.render_as_string(hide_password=False)
        )
        study = optuna.create_study(
            study_name=name, storage=storage, directions=minimise * len(objectives)
        )
        try:
            with warnings.catch_warnings():
                category = optuna.exceptions.ExperimentalWarning
                warnings.simplefilter("ignore", category)
                study.set_metric_names(objectives)
            for key, value in _about(result).items():
                study.set_user_attr(key, value)
            study.add_trials(_trials(result, terms))
        except BaseException:  # half a study would keep the name from a whole one
            optuna.delete_study(study_name=name, storage=storage)
            raise
    return study


@contextlib.contextmanager
def _told(place: sa.URL, name: str) -> Iterator[None]:
    """What Optuna and its database complain of, as our error."""
    from optuna.exceptions import DuplicatedStudyError, OptunaError

    where = place.render_as_string(hide_password=True)
    try:
        yield
    except DuplicatedStudyError as error:
        raise errors.StoreError(
            f"A study is never overwritten, but '{where}' holds {name!r} already. "
            "Give another name, or delete that one with Optuna."
        ) from error
    except (OptunaError, SQLAlchemyError, ImportError) as error:
        raise errors.StoreError(
            f"'{where}' cannot be used by Optuna ({type(error).__name__}). Give the path "
            "of an SQLite file, or the URL of a database that is there."
        ) from error


def _refuse_foreign(place: sa.URL) -> None:
    """Refuse a store of ours, or of another program whose versions Alembic counts too."""
    engine = sa.create_engine(place)
    try:
        tables = set(sa.inspect(engine).get_table_names())
    finally:
        engine.dispose()
    if "alembic_version" in tables and "version_info" not in tables:
        raise errors.StoreError(
            f"'{place.render_as_string(hide_password=True)}' belongs to another program: "
            f"it holds {', '.join(sorted(tables)[:3])}. Give a database of its own."
        )


def _about(result: Result) -> dict[str, Any]:
    """What the study as a whole is about, as its user attributes."""
    record, size = result.record, len(result.names)
    kept = ("kythera", "instrument", "optimiser", "estimator", "seed", "reason")
    found = flat({key: record[key] for key in kept})
    gain = record["gain"]
    found |= {"gain": gain["value"], "gain_stderr": gain["stderr"]}
    if size > MOST_PARAMETERS:
        found["parameters"] = f"the first {MOST_PARAMETERS} of {size:,}"
    return found


def _trials(result: Result, terms: bool) -> "Iterator[FrozenTrial]":
    from optuna.trial import TrialState, create_trial

    columns, record = result.trials, result.record
    parameters = _parameters(result)
    distributions = {name: domain for name, domain, _ in parameters}
    for i, number in enumerate(columns["number"]):
        values = as_built(record["space"], columns["u"][i], columns["values"][i])
        attributes: dict[str, Any] = {
            "stderr": columns["stderr"][i],
            "events": int(columns["events"][i]),
            "spent": int(columns["spent"][i]),
            "seconds": float(columns["seconds"][i]),
        }
        for group in ("terms", "slack"):
            pairs = zip(columns[group][i], columns[f"{group}_stderr"][i], strict=True)
            for name, (value, stderr) in zip(record[group], pairs, strict=True):
                attributes[f"{group}.{name}"] = value
                attributes[f"{group}.{name}.stderr"] = stderr
        attributes = {
            key: value if isinstance(value, int) else float(value)
            for key, value in attributes.items()
            if np.isfinite(value)
        }
        failed = columns["state"][i] == "failed"
        if failed:
            attributes["cause"] = result.causes.get(int(number), "")
        found = (
            columns["terms"][i] if terms and record["terms"] else columns["total"][[i]]
        )
        slack = [] if failed else [-float(v) for v in columns["slack"][i]]
        yield create_trial(
            state=TrialState.FAIL if failed else TrialState.COMPLETE,
            values=None if failed else [float(v) for v in found],
            params={name: read(values) for name, _, read in parameters},
            distributions=distributions,
            user_attrs=attributes,
            system_attrs={CONSTRAINTS: slack} if slack else {},
        )


def _parameters(result: Result) -> list[tuple[str, Any, Any]]:
    """Name, Optuna's distribution, and how to read the value from those of a trial."""
    space, names, found = result.record["space"], result.names, []
    first = 0
    while first < len(names) and len(found) < MOST_PARAMETERS:
        kind, last = space["kinds"][first], first + 1
        if kind == "choice":
            stem = names[first].partition("=")[0] + "="
            while last < len(names) and names[last].startswith(stem):
                last += 1
        found.append(_parameter(space, kind, slice(first, last)))
        first = last
    return found


def _parameter(space: dict[str, Any], kind: str, where: slice) -> tuple[str, Any, Any]:
    from optuna import distributions as domains

    i, unit = where.start, space["units"][where.start]
    stem, _, option = space["names"][i].partition("=")
    if kind == "choice":
        options = [name.partition("=")[2] for name in space["names"][where]]
        return (
            stem,
            domains.CategoricalDistribution(options),
            lambda values: options[int(np.argmax(values[where]))],
        )
    native = text.native_per(unit)
    lower, upper = space["lower"][i] / native, space["upper"][i] / native
    if kind == "integer" and native == 1:  # others are no whole numbers of their unit
        domain: Any = domains.IntDistribution(int(lower), int(upper))
        return _named(stem, unit), domain, lambda values: int(round(values[i]))
    sizes, logs = zip(*((g["size"], g["log"]) for g in space["groups"]), strict=True)
    log = bool(np.repeat(logs, sizes)[i])
    return (
        _named(stem, unit),
        domains.FloatDistribution(lower, upper, log=log),
        lambda values: float(np.clip(values[i] / native, lower, upper)),
    )


def _named(stem: str, unit: str) -> str:
    return f"{stem} ({unit})" if unit else stem
