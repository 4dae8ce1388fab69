"""Settings of clusters: from text to what they mean, checked; and what clusters share."""

import importlib
import re
from typing import Any

from kythera import errors
from kythera.runs import spec

PATIENCE = 120  # seconds that a worker looks for its scheduler before it gives up
DEATHS = (
    1000  # of workers before a scheduler fails a task; attempts are counted elsewhere
)
# Threads of linear algebra wait for each other busily; Dask's nannies set these three,
# and there is no nanny where a batch system starts the workers.
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def typed(kind: str, name: str, wanted: Any, value: Any) -> Any:
    """A value as its field wants it.

    Raises:
        InputError: it cannot be that, or would not stay on its line of a job script.
    """
    text = str(value).strip()
    if wanted is int and re.fullmatch(r"\d{1,9}", text):
        return int(text)
    if wanted is bool and text.lower() in ("true", "false"):
        return text.lower() == "true"
    if wanted == tuple[str, ...] and isinstance(value, str | list | tuple):
        if isinstance(value, str):
            value = spec._split(text[1:-1]) if text[:1] == "[" else [text]
        return tuple(typed(kind, name, str, entry) for entry in value)
    if wanted is str and isinstance(value, str | int) and text.isprintable() and text:
        return text
    called = {int: "a whole number", bool: "true or false"}
    raise errors.InputError(
        f"{name!r} of {kind!r} must be {called.get(wanted, 'text on one line')}, "
        f"but is {value!r}. Mend it."
    )


def check_positive(kind: str, **numbers: int) -> None:
    """Refuse numbers below one.

    Raises:
        InputError: one of them is.
    """
    for name, number in numbers.items():
        if number < 1:
            raise errors.InputError(
                f"{name!r} of {kind!r} must be at least 1, but is {number}. Give more."
            )


def check_memory(kind: str, memory: str) -> None:
    """Refuse what is no amount of memory.

    Raises:
        InputError: no number with a unit.
    """
    if not re.fullmatch(r"[1-9]\d*(\.\d+)?[MGT]i?B?", memory):
        raise errors.InputError(
            f"'memory' of {kind!r} must be a number with a unit, but is {memory!r}. "
            "Write memory=4GB."
        )


def attribute(module: str, name: str, extra: str = "dask") -> Any:
    """A class of a library that not everybody has.

    Args:
        module: where it is.
        name: of the class.
        extra: of kythera that installs the library.

    Raises:
        UnsupportedError: it is not installed.
    """
    try:
        return getattr(importlib.import_module(module), name)
    except ImportError as error:
        raise errors.UnsupportedError(
            f"This executor stands on `{module.partition('.')[0]}`, which is not "
            f"installed. Install it: pip install 'kythera[{extra}]'."
        ) from error
