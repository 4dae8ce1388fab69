"""Stores for the page to show: filled in milliseconds, without a search."""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from kythera import drawing
from kythera.core.evaluation import Evaluation, Measured, Trial
from kythera.runs.recorder import StoredRun
from kythera.runs.result import Result
from kythera.runs.store import Store
from kythera.runs.study import DRAWING, Study

DRAWN = 6  # every so many trials the toy is drawn
EVIL = "a <b>\"quoted\"</b> 'name' / naïve ☂ {{root}} </script>"


def sketch(z: float) -> dict[str, dict]:
    """Two views of a toy."""
    side = drawing.figure(drawing.points([z], [0.0], name="panel"), x="z (cm)")
    plane = drawing.plane((0, 0, z), (1, 1), name="panel")
    return {"side": side, "in_space": drawing.figure(plane, z="z (cm)")}


def begun(result: Result) -> dict[str, Any]:
    """The record of a run that has just begun."""
    record = json.loads(json.dumps(result.record))
    nothing = {"value": None, "stderr": None}
    soft = {"start": nothing, "best": nothing, "gain": nothing}
    return record | {
        "finished": False,
        "best": record["start"],
        "soft": soft | {"terms": {}, "slack": {}, "events": 0},
        "gain": nothing,
        "causes": {},
    }


def begin(store: Store, name: str, result: Result) -> Study:
    """A study of the toy without a run."""
    space = result.record["space"]
    return Study.create(store, name, instrument="toy", spec={}, space=space)


def write(run: StoredRun, trials: Sequence[Trial], drawn: int = DRAWN) -> None:
    """Keep trials, and the drawing of every `drawn`-th."""
    for trial in trials:
        run.add(trial)
        if trial.number % drawn == 0:
            draw(run, trial.number, float(trial.values[0]))
    run.flush()


def draw(run: StoredRun, number: int, z: float) -> None:
    """Keep the drawing of a trial."""
    run.keep("drawing.json", json.dumps(sketch(z)).encode(), DRAWING, number)


def finish(run: StoredRun, result: Result, price: float = 0.0) -> None:
    """What a search says at its end."""
    run.keep("figures.json", json.dumps(result.figures).encode(), "application/json")
    draw(run, len(result.trials["number"]), float(result.best[0]))
    record = {**result.record, "finished": True}
    run.describe(record, price_per_hour=price)
    run.finish("finished", result.record["reason"])


def fill(
    store: Store, name: str, result: Result, trials: Sequence[Trial], price: float = 0.0
) -> Study:
    """A study with one finished run."""
    study = begin(store, name, result)
    with study.begin() as run:
        write(run, trials)
        finish(run, result, price)
    return study


def trial(number: int, value: float, n: int, terms: dict[str, float] | None = None):
    """A trial of n parameters, all alike."""
    u = np.full(n, 0.5)
    total = Measured(value, 0.1, None)
    found = {k: Measured(v, 0.1, None) for k, v in (terms or {"image": value}).items()}
    square = np.eye(len(found))
    evaluation = Evaluation(total, found, {}, square, 4)
    return Trial(number, number, u, u, evaluation, 0.5, 4 * (number + 1))


def wide(result: Result, n: int) -> Result:
    """The same with n parameters in groups of a hundred."""
    record = json.loads(json.dumps(result.record))
    names = [f"part{i // 100}.z[{i % 100}]" for i in range(n)]
    groups = [
        {"path": f"part{i}.z", "kind": "real", "size": 100, "unit": "m", "log": False}
        | {"options": []}
        for i in range(n // 100)
    ]
    record["space"] = {
        **{"names": names, "units": ["m"] * n, "kinds": ["real"] * n, "groups": groups},
        **{"lower": [0.0] * n, "upper": [1.0] * n, "native_per_unit": [1.0] * n},
    }
    start, best = np.full(n, 0.5), np.full(n, 0.5)
    best[7777 % n] = 0.9
    for key, values in (("start", start), ("best", best)):
        record[key] = {"cube": values.tolist(), "values": values.tolist()}
    record["terms"], record["slack"], record["causes"] = ["image"], [], {}
    number = {"value": 1.0, "stderr": 0.1}
    record["soft"] |= {"terms": {"image": {"start": number, "best": number}}}
    record["soft"]["slack"] = {}
    return dataclasses.replace(result, record=record, figures={})
