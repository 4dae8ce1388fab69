"""Clusters of jobs or pods by name: SLURM, PBS, HTCondor, Kubernetes."""

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any

from kythera import errors
from kythera.runs.executors.batch import Batch, HTCondor, Pbs, Slurm
from kythera.runs.executors.pods import Kubernetes
from kythera.runs.executors.settings import typed

KINDS: dict[str, type[Batch] | type[Kubernetes]] = {
    "slurm": Slurm,
    "pbs": Pbs,
    "htcondor": HTCondor,
    "kubernetes": Kubernetes,
}


def read(kind: str, settings: Mapping[str, Any]) -> Batch | Kubernetes:
    """The settings of a cluster, checked.

    Args:
        kind: a key of `KINDS`.
        settings: by name; values as text or as what they mean.

    Raises:
        InputError: an unknown kind or setting, one that is missing, or a value that
            makes no sense.
    """
    if kind not in KINDS:
        raise errors.InputError(
            f"There is no cluster {kind!r}. {errors.nearest(kind, KINDS)}"
        )
    fields = {field.name: field for field in dataclasses.fields(KINDS[kind])}
    wanted = typing.get_type_hints(KINDS[kind])
    for name in settings:
        if name not in fields:
            raise errors.InputError(
                f"The executor {kind!r} has no setting {name!r}. "
                f"{errors.nearest(name, fields)}"
            )
    for name, field in fields.items():
        if field.default is dataclasses.MISSING and name not in settings:
            raise errors.InputError(
                f"The executor {kind!r} needs a value for {name!r}. "
                f"Write {kind}:{name}={4 if wanted[name] is int else 'NAME'}."
            )
    given = {k: typed(kind, k, wanted[k], v) for k, v in settings.items()}
    cluster = KINDS[kind](**given)
    cluster.check(kind)
    return cluster


def build(kind: str, settings: Mapping[str, Any]) -> Any:
    """A Dask cluster whose workers are jobs; `distributed.Client` takes it.

    It asks for all its workers at once and returns at once: they come when the batch
    system pleases. It replaces those that are lost, until it is closed.

    Args:
        kind: a key of `KINDS`.
        settings: as `read` takes them.

    Raises:
        InputError: settings that make no sense or that the batch system refuses.
        UnsupportedError: a library or the batch system is not there.
    """
    return read(kind, settings).build()


def script(kind: str, settings: Mapping[str, Any]) -> str:
    """What would be handed to the batch system for one worker, or to Kubernetes for all.

    Args:
        kind: a key of `KINDS`.
        settings: as `read` takes them.
    """
    return read(kind, settings).script()
