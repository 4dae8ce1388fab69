"""Where designs are evaluated: this process, its neighbours, or many machines.

    with executors.make("dask:workers=2") as executor:
        ky.optimise(problem, ky.Evolution(), key=key, max_trials=1000, map=executor)

The text names a kind and, after a colon, its settings:

- `local`: this process.
- `dask:workers=2`: processes of this machine.
- `dask:address=tls://host:8786,ca=ca.pem,cert=c.pem,key=k.pem`: a scheduler that runs.
- `slurm:jobs=4,...`, `pbs:...`, `htcondor:...`, `kubernetes:...`: see
  `kythera.runs.executors.clusters`.

All but `local` take `attempts=5`, the workers that may die of one item before it fails, and
`wait=600`, the seconds without any worker before everything does.
"""

from pathlib import Path
from typing import Any

from kythera import errors
from kythera.runs import spec
from kythera.runs.executors.base import AbstractExecutor, Local

__all__ = ["AbstractExecutor", "Local", "make"]

DASK = ("workers", "address", "ca", "cert", "key")
TLS = ("ca", "cert", "key")
SHARED = {"attempts": 5, "wait": 600.0}
BATCH_WAIT = 86400.0  # jobs may queue for a day


def make(text: str) -> AbstractExecutor:
    """The executor that a text names; nothing starts before its `with`.

    Raises:
        InputError: an unknown kind or setting, or a value that makes no sense.
    """
    from kythera.runs.executors import clusters

    kind, _, rest = text.strip().partition(":")
    known = ["local", "dask", *clusters.KINDS]
    if kind not in known:
        raise errors.InputError(
            f"There is no executor {kind!r}. {errors.nearest(kind, known)}"
        )
    given = _settings(kind, rest)
    if kind == "local":
        _check_known(kind, given, ())
        return Local(text)
    from kythera.runs.executors.places import Submitted
    from kythera.runs.executors.pool import DaskExecutor

    waits = SHARED | ({} if kind == "dask" else {"wait": BATCH_WAIT})
    shared = {
        name: _number(kind, name, given.pop(name)) if name in given else default
        for name, default in waits.items()
    }
    if kind == "dask":
        place: Any = _dask(given)
    else:
        place = Submitted(kind, given, clusters.read(kind, given).size)
    attempts = int(shared["attempts"])
    return DaskExecutor(text, place, attempts=attempts, wait=float(shared["wait"]))


def _settings(kind: str, rest: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for pair in spec._split(rest):
        name, equals, value = (part.strip() for part in pair.partition("="))
        if not (equals and name and value) or name in found:
            raise errors.InputError(
                f"Settings of the executor {kind!r} are written NAME=VALUE, each once, "
                f"but got {pair!r}. Write dask:workers=2."
            )
        found[name] = value
    return found


def _check_known(kind: str, given: dict[str, str], known: tuple[str, ...]) -> None:
    for name in given:
        if name not in known:
            raise errors.InputError(
                f"The executor {kind!r} has no setting {name!r}. "
                f"{errors.nearest(name, known)}"
            )


def _number(kind: str, name: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = float("nan")
    whole = name == "wait" or number.is_integer()
    if not (0 < number < 1e9 and whole):
        raise errors.InputError(
            f"{name!r} of the executor {kind!r} must be a number > 0, but is {value!r}. "
            f"Write {name}={SHARED.get(name, 2):g}."
        )
    return number


def _dask(given: dict[str, str]) -> Any:
    """Processes here, or a scheduler's address."""
    from kythera.runs.executors.places import Processes, Running

    _check_known("dask", given, (*DASK, *SHARED))
    if ("workers" in given) == ("address" in given):
        raise errors.InputError(
            "The executor 'dask' needs either the number of workers to be started here "
            f"or the address of a scheduler that runs, but got {sorted(given)}. Write "
            "dask:workers=2 or dask:address=tcp://host:8786."
        )
    files = {name: given[name] for name in TLS if name in given}
    if files and ("address" not in given or len(files) < len(TLS)):
        raise errors.InputError(
            "TLS needs the three files 'ca', 'cert' and 'key' beside an address, but got "
            f"{sorted(given)}. Give all of them or none."
        )
    for name, path in files.items():
        if not Path(path).is_file():
            raise errors.InputError(
                f"The file {path!r} of the setting {name!r} does not exist. Mend its path."
            )
    if "address" in given:
        return Running(given["address"], **files)
    workers = _number("dask", "workers", given["workers"])
    if workers > 1024:
        raise errors.InputError(
            f"'workers' of the executor 'dask' are processes of this machine, but "
            f"{workers:g} are asked for. Give one for each core."
        )
    return Processes(int(workers))
