"""Named arrays in files that other programs read and write.

A name is the path of an array in its record, "hits.x[0]"; a record that is one array has the
name "value". In the formats that hold tables (Parquet, CSV) an array of rows of several
numbers takes a column for each of them, "momentum[0]", "momentum[1]".
"""

import csv
import importlib.util
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np

from kythera import errors

ALONE = "value"  # the name of the only array of a record

# Format -> (library, extra that brings it), where NumPy is not enough.
NEEDS = {
    "npz": None,
    "json": None,
    "csv": None,
    "hdf5": ("h5py", "hdf5"),
    "parquet": ("pyarrow", "parquet"),
}


def check_format(name: str) -> None:
    """Refuse a format that is not known, or whose library is not here.

    Raises:
        InputError: no such format.
        UnsupportedError: its library is not installed.
    """
    if name not in NEEDS:
        raise errors.InputError(
            f"There is no file format {name!r}. {errors.nearest(name, NEEDS)}"
        )
    needs = NEEDS[name]
    if needs and importlib.util.find_spec(needs[0]) is None:
        raise errors.UnsupportedError(
            f"Files in the format {name!r} need {needs[0]}, which is not installed. "
            f"Run `pip install 'kythera[{needs[1]}]'`, or choose 'npz'."
        )


def named(record: Any) -> dict[str, Any]:
    """The arrays of a record by their names; what is no array is left out."""
    arrays = eqx.filter(record, lambda v: hasattr(v, "shape"))
    leaves = jax.tree.leaves(arrays)
    if leaves and jax.tree.structure(arrays) == jax.tree.structure(0):
        return {ALONE: leaves[0]}
    paths = jax.tree_util.tree_flatten_with_path(arrays)[0]
    return {_spelt(keys): leaf for keys, leaf in paths}


def _spelt(keys: Any) -> str:
    """A path as `Space` spells it: "upper.z[0]"."""
    text = ""
    for k in keys:
        if hasattr(k, "idx"):
            text += f"[{k.idx}]"
        else:
            text += f".{k.name if hasattr(k, 'name') else k.key}"
    return text.removeprefix(".")


def _columns(name: str, shape: tuple[int, ...]) -> list[str]:
    """The columns of an array whose rows have this shape, in C order."""
    if not shape:
        return [name]
    return [f"{name}[{','.join(map(str, i))}]" for i in np.ndindex(*shape)]


def _table(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Arrays cut into columns."""
    table = {}
    for name, array in arrays.items():
        columns = _columns(name, array.shape[1:])
        flat = array.reshape(len(array), len(columns))
        table.update({column: flat[:, i] for i, column in enumerate(columns)})
    return table


def write(path: Path, arrays: Mapping[str, np.ndarray], format: str) -> None:
    """Write arrays, all with the same number of rows.

    Args:
        path: of the file.
        arrays: by name.
        format: one of `NEEDS`.
    """
    if format == "npz":
        np.savez(path, **arrays)  # type: ignore[arg-type]
    elif format == "json":
        path.write_text(json.dumps({k: v.tolist() for k, v in arrays.items()}))
    elif format == "hdf5":
        import h5py  # pyright: ignore[reportMissingImports]

        with h5py.File(path, "w") as file:
            for name, array in arrays.items():
                file[name] = array
    elif format == "parquet":
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.table(_table(arrays)), path)
    else:
        table = _table(arrays)
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(table)
            writer.writerows(zip(*(column.tolist() for column in table.values())))


def read(
    path: Path, rows: Mapping[str, tuple[int, ...]], format: str
) -> dict[str, np.ndarray]:
    """Read the arrays that are wanted; others in the file are left alone.

    Args:
        path: of the file.
        rows: name -> shape of one row.
        format: one of `NEEDS`.

    Raises:
        SimulationError: no such file, it is not in the format, or an array is missing.
    """
    if not path.is_file():
        raise errors.SimulationError(
            f"The program must write the file {path.name!r}, but did not."
        )
    try:
        found, parts = _found(path, format)
    except Exception as error:  # each library has errors of its own
        raise errors.SimulationError(
            f"{path.name!r} must be a {format} file of numbers, but cannot be read "
            f"({type(error).__name__}: {error})."
        ) from error
    if not parts:
        return {name: _taken(found, name, path) for name in rows}
    arrays = {}
    for name, shape in rows.items():
        columns = [_taken(found, column, path) for column in _columns(name, shape)]
        arrays[name] = np.stack(columns, 1).reshape(-1, *shape)
    return arrays


def _taken(found: Mapping[str, np.ndarray], name: str, path: Path) -> np.ndarray:
    if name not in found:
        raise errors.SimulationError(
            f"{path.name!r} must hold {name!r}, but does not. "
            f"{errors.nearest(name, found)}"
        )
    return found[name]


def _found(path: Path, format: str) -> tuple[dict[str, np.ndarray], bool]:
    """All arrays of a file, and whether they are columns of a table."""
    if format == "npz":
        if not zipfile.is_zipfile(path):
            raise ValueError("not a zip archive")
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}, False
    if format == "json":
        text = json.loads(path.read_text())
        return {name: np.array(value) for name, value in text.items()}, False
    if format == "hdf5":
        import h5py  # pyright: ignore[reportMissingImports]

        arrays: dict[str, np.ndarray] = {}

        def visit(name: str, node: Any) -> None:
            if isinstance(node, h5py.Dataset):
                arrays[name] = np.asarray(node)

        with h5py.File(path, "r") as file:
            file.visititems(visit)
        return arrays, False
    if format == "parquet":
        from pyarrow import parquet

        table = parquet.read_table(path)
        return {k: table[k].to_numpy() for k in table.column_names}, True
    with path.open(newline="") as file:
        header = [word.strip() for word in next(csv.reader([file.readline()]))]
        body = file.readlines()
    if len(set(header)) < len(header):
        raise ValueError(f"a column stands twice in {header}")
    numbers = np.loadtxt(body, delimiter=",", ndmin=2) if body else np.zeros((0, 0))
    if body and numbers.shape[1] != len(header):
        raise ValueError(f"{len(header)} names and {numbers.shape[1]} columns")
    empty = np.zeros(0)
    return {k: numbers[:, i] if body else empty for i, k in enumerate(header)}, True


def plain(node: Any) -> Any:
    """A design as what JSON can hold: fields and keys by name, arrays as lists.

    Raises:
        InputError: a part of it is no number, text, array or container of those.
        SimulationError: a number is not finite.
    """
    if node is None or isinstance(node, bool | str):
        return node
    if isinstance(node, Mapping):
        return {str(k): plain(v) for k, v in node.items()}
    if hasattr(node, "__dataclass_fields__"):
        return {k: plain(getattr(node, k)) for k in node.__dataclass_fields__}
    if hasattr(node, "_asdict"):
        return plain(node._asdict())
    if isinstance(node, list | tuple):
        return [plain(v) for v in node]
    array = np.asarray(node)
    if array.dtype.kind not in "biuf":
        raise errors.InputError(
            "A design for a program must be made of numbers, texts, arrays and "
            f"containers of them, but holds a {type(node).__name__}. Leave it out of the "
            "design, or wrap the program with `HostSimulator`."
        )
    if not np.all(np.isfinite(array)):
        raise errors.SimulationError(
            f"A design for a program must be finite, but holds {array}. The trial is "
            "marked as failed; narrow the bounds."
        )
    return array.tolist()
