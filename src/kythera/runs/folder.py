"""Folders for results: claimed before anything is simulated, written atomically."""

import dataclasses
import os
import re
import tempfile
from pathlib import Path

from kythera import errors

OURS = ("result.json", "trials.npz", "figures.json", "report.html")
MOST = 100_000  # numbered folders that are tried


@dataclasses.dataclass
class Claim:
    """A folder that a run may write to.

    Args:
        path: the folder; it exists.
        made: what was made for it, the outermost first.
    """

    path: Path
    made: list[Path]

    def release(self) -> None:
        """Take away what was made, as far as it is empty."""
        for folder in reversed(self.made):
            try:
                folder.rmdir()
            except OSError:
                return


def claim(path: Path) -> Claim:
    """Make sure of a folder that was asked for by name.

    Raises:
        StoreError: it cannot be written, or already holds a result.
    """
    check_free(path)
    made = make(path)
    found = Claim(path, made)
    try:
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        found.release()
        raise _unwritable(path, error) from error
    return found


def claim_next(parent: Path, name: str) -> Claim:
    """Make sure of `parent/name-1`, or the first numbered folder that is free.

    Args:
        parent: folder of results; it is made where it does not exist.
        name: of the instrument; what no file name should hold becomes "_".

    Raises:
        StoreError: the folder cannot be written.
    """
    name = re.sub(r"[^\w.-]+", "_", name).strip("._") or "result"
    made = make(parent)
    for number in range(1, MOST):
        path = parent / f"{name}-{number}"
        try:
            path.mkdir()
        except FileExistsError:
            continue
        except OSError as error:
            Claim(parent, made).release()
            raise _unwritable(path, error) from error
        return Claim(path, [*made, path])
    raise errors.StoreError(
        f"'{parent}' already holds {MOST:,} results of {name!r}. Give another --out."
    )


def check_free(path: Path) -> None:
    """Refuse a folder that holds any file of a result.

    Raises:
        StoreError: naming the file.
    """
    for name in OURS:
        if os.path.lexists(path / name):
            raise errors.StoreError(
                f"A result is never overwritten, but '{path}' already holds {name}. "
                "Give another folder, or move that one away."
            )


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that it is whole or absent, whatever happens meanwhile.

    Raises:
        StoreError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
        _sync(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise _unwritable(path, error) from error


def make(path: Path) -> list[Path]:
    """Make a folder and those around it; the new ones, the outermost first.

    Raises:
        StoreError: it cannot be made.
    """
    missing = [p for p in (path, *path.parents) if not p.exists()][::-1]
    made: list[Path] = []
    try:
        for folder in missing:
            folder.mkdir(exist_ok=True)
            made.append(folder)
        if not path.is_dir():
            raise NotADirectoryError(20, "it is a file, no folder")
    except OSError as error:
        Claim(path, made).release()
        raise _unwritable(path, error) from error
    return made


def _sync(folder: Path) -> None:
    """Make the new name durable, where the system knows how."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _unwritable(path: Path, error: OSError) -> errors.StoreError:
    return errors.StoreError(
        f"'{path}' cannot be written: {error.strerror or error}. Make room, or give "
        "another folder: --out of a result, `files` of a store."
    )
