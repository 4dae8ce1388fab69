"""Trees of arrays in files that a kill cannot spoil and that nothing can hide code in.

A checkpoint is one safetensors file: the leaves of a tree in order, numbers as arrays, text
and what the file is about as JSON in its header. It is written beside its place and renamed
over it, both after a sync, so that a reader finds the old one or the new one, whole.
"""

import contextlib
import hashlib
import json
import math
import re
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kythera import errors
from kythera.runs import folder as folders

FORMAT, VERSION = "kythera-checkpoint", 1
KEPT = 2  # the last ones; an older one is of no use once a newer one is safe
HEADER = 100_000_000  # bytes of JSON that are believed, as safetensors has it
_NAME = re.compile(r"checkpoint-(\d{9})\.safetensors")


def encode(tree: Any, about: Mapping[str, Any]) -> bytes:
    """A tree as the bytes of a safetensors file.

    Args:
        tree: of arrays, numbers, text and None, such as the state of an optimiser.
        about: what JSON can hold: which run, after which trial.

    Raises:
        StoreError: a leaf is none of these.
    """
    import jax
    from safetensors.numpy import save

    arrays, texts = {}, {}
    for i, (path, leaf) in enumerate(jax.tree_util.tree_flatten_with_path(tree)[0]):
        try:
            array = np.asarray(leaf)
        except TypeError:  # a typed key, say
            array = np.array(None)
        if array.dtype.kind == "U":
            texts[str(i)] = array.tolist()
        elif array.dtype.kind in "biuf":
            arrays[str(i)] = np.ascontiguousarray(array).reshape(array.shape)
        else:
            raise errors.StoreError(
                "A checkpoint holds arrays, numbers and text, but "
                f"{jax.tree_util.keystr(path)} is of type {type(leaf).__name__}. Keep its "
                "data in the state instead."
            )
    header = {
        "format": FORMAT,
        "version": str(VERSION),
        "about": json.dumps(about),
        "texts": json.dumps(texts),
    }
    return save(arrays, header | {"sha256": _digest(arrays, header)})


def _digest(arrays: Mapping[str, np.ndarray], header: Mapping[str, str]) -> str:
    """Of all that a file holds: safetensors notices what is missing, not what changed."""
    found = hashlib.sha256()
    for key in ("format", "version", "about", "texts"):
        found.update(f"{key}={header[key]}\n".encode())
    for name in sorted(arrays):
        array = arrays[name]
        found.update(f"{name}={array.dtype.str}{array.shape}\n".encode())
        found.update(array.tobytes())
    return found.hexdigest()


def decode(data: bytes, where: str) -> tuple[list[np.ndarray], dict[str, Any]]:
    """The leaves of a tree, and what the file is about.

    Args:
        data: the bytes of a file.
        where: its name, for errors.

    Raises:
        StoreError: it was cut short or altered, or is something else.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        (size,) = struct.unpack("<Q", data[:8])
        header = json.loads(data[8 : 8 + min(size, HEADER)])["__metadata__"]
        kind, version = header["format"], int(header["version"])
        arrays, texts = load(data), json.loads(header["texts"])
        about, digest = json.loads(header["about"]), header["sha256"]
    except (KeyError, ValueError, TypeError, struct.error, SafetensorError) as error:
        raise _spoilt(where, f"it cannot be read: {error}") from error
    if kind != FORMAT or version > VERSION:
        raise _spoilt(where, f"it is a {kind!r} of version {version}")
    if _digest(arrays, header) != digest:
        raise _spoilt(where, "its checksum does not agree with what it holds")
    named: dict[str, Any] = arrays | texts
    return [np.asarray(named[str(i)]) for i in range(len(named))], about


class Checkpoints:
    """The last checkpoints of one run in a folder of its own.

    Args:
        folder: it is made with the first one.
    """

    def __init__(self, folder: Path):
        self.folder = Path(folder)

    def save(self, number: int, tree: Any, about: Mapping[str, Any]) -> None:
        """Keep a tree as the state after trial `number`, and drop what is older.

        Raises:
            StoreError: the folder cannot be written.
        """
        data = encode(tree, {**about, "number": number})
        folders.make(self.folder)
        folders.write_atomically(self._path(number), data)
        self.sweep()

    def numbers(self) -> list[int]:
        """Trials after which there is one, the newest first."""
        if not self.folder.is_dir():
            return []
        found = (_NAME.fullmatch(path.name) for path in self.folder.iterdir())
        return sorted((int(m[1]) for m in found if m), reverse=True)

    def sweep(self) -> None:
        """Remove what is older than the last two, and what a kill left half written."""
        for number in self.numbers()[KEPT:]:
            self._path(number).unlink(missing_ok=True)
        for path in self.folder.glob("*.tmp"):
            path.unlink(missing_ok=True)

    def load(
        self,
        at_most: float = math.inf,
        fits: Callable[[Mapping[str, Any]], bool] = lambda about: True,
    ) -> tuple[list[np.ndarray], dict[str, Any]] | None:
        """The newest that can be read; None where there is none that fits.

        Args:
            at_most: none of a trial behind this number.
            fits: whether a checkpoint is one that is looked for, by what it is about.

        Raises:
            StoreError: there are some, and none can be read.
        """
        failure = None
        for number in self.numbers():
            if number > at_most:
                continue
            path = self._path(number)
            try:
                leaves, about = decode(path.read_bytes(), str(path))
            except (errors.StoreError, OSError) as error:
                failure = failure or error
                continue
            if fits(about):
                return leaves, about
        if failure is not None:
            raise errors.StoreError(str(failure)) from failure
        return None

    def clear(self) -> None:
        """Remove all of them, and the folder."""
        for number in self.numbers():
            self._path(number).unlink(missing_ok=True)
        self.sweep()
        with contextlib.suppress(OSError):  # not there, or something else is in it
            self.folder.rmdir()

    def _path(self, number: int) -> Path:
        return self.folder / f"checkpoint-{number:09d}.safetensors"


def _spoilt(where: str, cause: str) -> errors.StoreError:
    return errors.StoreError(
        f"The checkpoint '{where}' was cut short, altered, or is something else: {cause}. "
        "Delete it: the one before it is used, or the run begins anew."
    )
