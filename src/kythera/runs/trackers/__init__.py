"""Trackers: a search seen in MLflow, Weights & Biases, Comet or TensorBoard."""

import dataclasses
import importlib
import importlib.util
import re

from kythera import errors
from kythera.runs.trackers.base import Tracker, TrackerWarning

__all__ = ["SINKS", "Tracker", "TrackerWarning", "make"]

# Name -> module, class, and the library that the extra of that name brings.
SINKS = {
    "comet": ("comet", "Comet", "comet_ml"),
    "mlflow": ("mlflow", "MLflow", "mlflow"),
    "tensorboard": ("tensorboard", "TensorBoard", "tensorboardX"),
    "wandb": ("wandb", "WandB", "wandb"),
}


def make(text: str, *, id: str = "") -> Tracker:
    """The tracker that a text such as "mlflow:uri=sqlite:///mlflow.db" names.

    The settings of each are the fields of its class: "wandb:project=portal,mode=offline",
    "comet:project=portal,offline=FOLDER", "tensorboard:folder=runs".

    Args:
        text: name, and after a colon its settings.
        id: of the tracker that followed the search before it was interrupted; it goes on
            where the program allows it, else a new one begins (see `Tracker.id`).

    Raises:
        InputError: unknown name or setting, or an id that is none.
        UnsupportedError: its library is not installed.
    """
    name, _, rest = text.strip().partition(":")
    if name not in SINKS:
        raise errors.InputError(
            f"There is no tracker {name!r}. {errors.nearest(name, SINKS)}"
        )
    if id and not re.fullmatch("[0-9a-f]{32}", id):
        raise errors.InputError(
            f"The id of a tracker has 32 hexadecimal digits, but {id[:40]!r} was given. "
            "Give the one that was kept, or none."
        )
    module, kind, library = SINKS[name]
    if importlib.util.find_spec(library) is None:
        raise errors.UnsupportedError(
            f"The tracker {name!r} needs a library that is not installed. "
            f"Install it: pip install 'kythera[{name}]'."
        )
    sink = getattr(importlib.import_module(f"{__name__}.{module}"), kind)
    return Tracker(sink(**_settings(name, rest, sink)), id=id)


def _settings(name: str, text: str, sink: type) -> dict[str, str]:
    """The settings in "uri=a,experiment=b", checked against the fields of a class."""
    known = [field.name for field in dataclasses.fields(sink) if field.init]
    found: dict[str, str] = {}
    for pair in filter(None, text.split(",")):
        key, equals, value = (part.strip() for part in pair.partition("="))
        if not equals or not value:
            raise errors.InputError(
                f"Settings of the tracker {name!r} are written NAME=VALUE, but got "
                f"{pair!r}. Write {name}:{known[0]}=VALUE."
            )
        if key not in known or key in found:
            twice = "is given {!r} twice" if key in found else "has no setting {!r}"
            raise errors.InputError(
                f"The tracker {name!r} {twice.format(key)}. {errors.nearest(key, known)}"
            )
        found[key] = value
    return found
