"""What travels to a worker and back, and what a worker does with it.

Work is pickled once and named by a hash of its bytes. A worker keeps the objects that it
has unpickled, so that what JAX compiled for them serves all later items.
"""

import collections
import hashlib
import importlib.metadata
import os
import pickle
import platform
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple

from kythera import __version__, errors

KEPT = 8  # works that are kept on either side
MISSING = b""  # a worker's answer where it was not given the work, or forgot it
# Of a worker that is to give the same numbers, or to read what is sent to it.
SAME = ("jax", "jaxlib", "equinox", "numpy")
# Settings of JAX that change numbers, and those of the cache of compiled programs.
SETTINGS = (
    "jax_enable_x64",
    "jax_default_matmul_precision",
    "jax_default_prng_impl",
    "jax_numpy_dtype_promotion",
    "jax_threefry_partitionable",
    "jax_compilation_cache_dir",
)
CACHE = {
    "jax_persistent_cache_min_compile_time_secs": 0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
}


class Packed(NamedTuple):
    """Work as it travels.

    Args:
        digest: hash of the payload.
        payload: settings of JAX and the pickled work.
    """

    digest: str
    payload: bytes


class Answer(NamedTuple):
    """What a worker says of some items.

    Args:
        outcomes: of each, (True, pickled result) or (False, (error, its cause)).
        cpu_seconds: CPU time of the worker's process.
        seconds: wall time.
    """

    outcomes: list[tuple[bool, Any]]
    cpu_seconds: float
    seconds: float


def pack(work: Callable[[Any], Any]) -> Packed:
    """Pickle work, with the settings of JAX that it needs.

    Raises:
        UnsupportedError: it cannot be pickled.
    """
    payload = dumps((_settings(), dumps(work)))
    return Packed(hashlib.sha256(payload).hexdigest(), payload)


def dumps(value: Any) -> bytes:
    """Pickle; functions of scripts and notebooks by what they hold.

    Raises:
        UnsupportedError: it cannot be pickled.
    """
    import cloudpickle

    try:
        return cloudpickle.dumps(value, protocol=5)
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise errors.UnsupportedError(
            "What is sent to workers must be pickled, but something cannot be: "
            f"{error}. Keep open files, locks and connections out of the problem, or "
            "use the executor 'local'."
        ) from error


def versions() -> dict[str, str]:
    """What must be alike here and on a worker: name -> version."""
    found = {"python": ".".join(platform.python_version_tuple()[:2])}
    found["kythera"] = __version__
    for name in SAME:
        found[name] = importlib.metadata.version(name)
    return found


def refusal(address: str, theirs: Any) -> str:
    """Why a worker cannot be used; empty where it can.

    Args:
        address: the worker's.
        theirs: its `versions`, or what came instead.
    """
    ours = versions()
    if isinstance(theirs, BaseException):
        found = f"it says: {type(theirs).__name__}: {theirs}"
    else:
        pairs = [
            f"{name} {theirs.get(name)} where {mine} is here"
            for name, mine in ours.items()
            if theirs.get(name) != mine
        ]
        found = f"it has {', '.join(pairs)}" if pairs else ""
    if not found:
        return ""
    return (
        f"Workers must have the versions of this process, but of {address} {found}. Start "
        "it from the same environment."
    )


def _settings() -> dict[str, Any]:
    """Those of this process, if it uses JAX."""
    if "jax" not in sys.modules:
        return {}
    import jax

    values = jax.config.values
    found = {name: values[name] for name in SETTINGS if name in values}
    if jax.default_backend() == "cpu":
        found["jax_platforms"] = "cpu"
    return found | CACHE


_loaded: collections.OrderedDict[str, tuple[dict[str, Any], Any]]
_loaded = collections.OrderedDict()


def run(digest: str, payload: bytes, items: bytes) -> bytes:
    """Work on some items; this runs on a worker.

    Args:
        digest: of the work.
        payload: the work, or nothing where the worker has it.
        items: pickled list of pickled items.

    Returns:
        a pickled `Answer`, or `MISSING`.
    """
    import cloudpickle

    before = time.process_time(), time.perf_counter()
    if digest not in _loaded and not payload:
        return MISSING
    try:
        work = _load(digest, payload)
        pairs = [_outcome(work, item) for item in pickle.loads(items)]
    except Exception as error:  # none of the items was looked at
        pairs = [(False, _portable(error))] * len(pickle.loads(items))
    after = time.process_time(), time.perf_counter()
    answer = Answer(pairs, after[0] - before[0], after[1] - before[1])
    return cloudpickle.dumps(answer, protocol=5)


def _load(digest: str, payload: bytes) -> Callable[[Any], Any]:
    """The work, unpickled once, under its settings."""
    if digest not in _loaded:
        settings, work = pickle.loads(payload)
        _configure(settings)
        try:
            _loaded[digest] = settings, pickle.loads(work)
        except ImportError as error:
            raise errors.UnsupportedError(
                f"Workers must have what the problem is made of, but one lacks "
                f"something: {error}. Install it there, or put its folder on PYTHONPATH."
            ) from error
        while len(_loaded) > KEPT:
            _loaded.popitem(last=False)
    _loaded.move_to_end(digest)
    settings, work = _loaded[digest]
    _configure(settings)
    return work


def _configure(settings: dict[str, Any]) -> None:
    """Set up JAX as it is where the work comes from."""
    if not settings:
        return
    import jax

    for name, value in settings.items():
        if name == "jax_compilation_cache_dir" and not _can_write(value):
            continue
        if name in jax.config.values and jax.config.values[name] != value:
            jax.config.update(name, value)


def _can_write(folder: str | None) -> bool:
    """Whether a folder of the sender's machine is, or can be, one of this machine."""
    if folder is None:
        return False
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


def _outcome(work: Callable[[Any], Any], item: bytes) -> tuple[bool, Any]:
    try:
        return True, dumps(work(pickle.loads(item)))
    except Exception as error:
        return False, _portable(error)


def _portable(error: Exception) -> tuple[Exception, BaseException | None]:
    """An error and its cause, such that they can be pickled and read again."""
    where = "".join(traceback.format_exception(error)).rstrip()
    sent = _copied(error) or RuntimeError(f"{type(error).__name__}: {error}")
    sent.add_note(f"On a worker:\n{where}")
    return sent, error.__cause__ and _copied(error.__cause__)


def _copied(error: Any) -> Any:
    try:
        return pickle.loads(dumps(error))
    except Exception:  # whatever its constructor says to what was kept of it
        return None
