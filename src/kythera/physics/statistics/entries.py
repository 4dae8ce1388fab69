"""Numbers, and entries of a tree that was JSON: there, and of the kind that they must be."""

import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kythera import errors

KINDS = {
    "text": "a name",
    "tree": "an object of named entries",
    "trees": "a list of objects",
    "numbers": "numbers without quotes",
}


def entry(tree: Any, key: str, kind: str, where: str, default: Any = None) -> Any:
    """One entry of a tree.

    Args:
        tree: an object of JSON.
        key: name of the entry.
        kind: one of `KINDS`.
        where: whose entry it is, for errors.
        default: what an entry is that is not there; by default it must be.

    Returns:
        what is there; numbers as an array.

    Raises:
        InputError: the tree is none, or the entry is missing or of another kind.
    """
    if not isinstance(tree, Mapping):
        raise errors.InputError(
            f"{_capital(where)} must be {KINDS['tree']}, but is {reprlib.repr(tree)}. Write it as "
            "pyhf does."
        )
    if key not in tree:
        if default is not None:
            return default
        raise errors.InputError(
            f"{_capital(where)} must have '{key}', {KINDS[kind]}, but has only "
            f"{list(tree)}. Add it."
        )
    value = tree[key]
    if kind == "numbers":
        return numbers(value, f"'{key}' of {where}")
    good = {
        "text": isinstance(value, str),
        "tree": isinstance(value, Mapping),
        "trees": isinstance(value, Sequence)
        and not isinstance(value, str)
        and all(isinstance(v, Mapping) for v in value),
    }
    if not good[kind]:
        raise errors.InputError(
            f"'{key}' of {where} must be {KINDS[kind]}, but is {reprlib.repr(value)}. Write "
            "it as pyhf does."
        )
    return value


def numbers(value: Any, what: str, kinds: str = "iuf") -> np.ndarray:
    """An array of real numbers.

    Args:
        value: a number, or lists of them.
        what: its name, for errors.
        kinds: NumPy's letters of the types that are numbers; with "b", truth values are.

    Raises:
        InputError: text, truth values, complex numbers, or lists of different lengths.
    """
    try:
        found = np.asarray(value)
    except ValueError:  # lists of different lengths
        found = np.asarray(None)
    if found.dtype.kind not in kinds:
        raise errors.InputError(
            f"{_capital(what)} must be {KINDS['numbers']}, but is {reprlib.repr(value)}. Give real "
            "numbers, in lists of equal length."
        )
    return found.astype(float, copy=False)


def check_once(names: Sequence[str], what: str, where: str) -> None:
    """Refuse a name that comes twice.

    Args:
        names: of things.
        what: what they are called.
        where: in what they are.

    Raises:
        InputError: a name comes twice.
    """
    twice = sorted({n for n in names if list(names).count(n) > 1})
    if twice:
        raise errors.InputError(
            f"{what} of {where} have different names, but {twice} came twice. Rename or "
            "remove one."
        )


def _capital(text: str) -> str:
    """The text as a sentence begins."""
    return text[:1].upper() + text[1:]
