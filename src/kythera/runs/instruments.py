"""Instruments by name: built in, registered by other packages, or a user's own module."""

import ast
import dataclasses
import importlib
import importlib.metadata
import importlib.util
import inspect
import os
import sys
import sysconfig
import traceback
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kythera import errors

if TYPE_CHECKING:
    from kythera.core.problem import Problem

GROUP = "kythera.instruments"


@dataclasses.dataclass(frozen=True)
class Instrument:
    """Where a problem comes from.

    Args:
        name: as the user typed it.
        reference: "package.module:attribute".
        make: gives the problem; its keywords can be set.
        defaults: run settings that its module, or a package around that, declares for
            the command line.
    """

    name: str
    reference: str
    make: Callable[..., Any]
    defaults: dict[str, Any]


def available() -> dict[str, str]:
    """Name of each registered instrument -> "package.module:attribute"; imports none."""
    found = importlib.metadata.entry_points(group=GROUP)
    return {entry.name: entry.value for entry in sorted(found, key=lambda e: e.name)}


def summary(reference: str) -> str:
    """First line of a module's docstring, read without importing the module."""
    module = reference.partition(":")[0]
    try:
        spec = importlib.util.find_spec(module)
        tree = ast.parse(Path(spec.origin).read_bytes())  # type: ignore[union-attr, arg-type]
    except (ImportError, OSError, SyntaxError, ValueError, TypeError, AttributeError):
        return ""
    return (ast.get_docstring(tree) or "").partition("\n")[0]


def find(name: str) -> Instrument:
    """The instrument of that name.

    Args:
        name: a registered name, or "package.module:attribute" of a `Problem` or of a
            callable that gives one. The current folder and its `src` can be imported.

    Raises:
        InputError: unknown name, module or attribute, or a module that does not import.
    """
    known = available()
    if ":" not in name and name not in known:
        raise errors.InputError(
            f"There is no instrument {name!r}. {errors.nearest(name, known)} "
            "A problem of your own is written package.module:problem."
        )
    reference = known.get(name, name)
    module_name, _, attribute = reference.partition(":")
    module = _import(module_name)
    found = _attribute(module, module_name, attribute or "problem")
    make = found if callable(found) else lambda: found
    return Instrument(name, reference, make, _defaults(module_name))


def build(instrument: Instrument, settings: Mapping[str, Any]) -> "Problem":
    """The problem with the user's settings.

    Args:
        instrument: from `find`.
        settings: name -> value: a keyword of the instrument's callable, else `events`,
            else the path of a leaf of the design, free or frozen, in native units.

    Raises:
        InputError: an unknown name, or a value that the instrument refuses.
        SpaceError: a leaf's value of a wrong shape or outside its bounds.
    """
    from kythera.core.problem import Problem
    from kythera.core.space import leaf_paths

    keywords = _keywords(instrument.make)
    arguments = {k: v for k, v in settings.items() if k in keywords}
    needed = [k for k, p in keywords.items() if p.default is p.empty]
    missing = [k for k in needed if k not in arguments]
    if missing:
        raise errors.InputError(
            f"'{instrument.name}' needs a value for {missing[0]!r}. "
            f"Give --set {missing[0]}=VALUE."
        )
    arguments = {k: _fit(instrument, k, v) for k, v in arguments.items()}
    try:
        problem = instrument.make(**arguments)
    except errors.KytheraError:
        raise
    except Exception as error:  # the instrument's own code may raise anything
        raise errors.InputError(
            f"'{instrument.name}' could not be made with {arguments}: {_told(error)}. "
            "Mend the values or the instrument."
        ) from error
    if not isinstance(problem, Problem):
        raise errors.InputError(
            f"'{instrument.reference}' must be a Problem, or give one when called, but "
            f"it is a {type(problem).__name__}. Name the callable that gives it."
        )
    paths = leaf_paths(problem.space.template)
    for name, value in settings.items():
        if name in arguments:
            continue
        if name == "events":
            problem = problem.replace(events=_rows(value))
        elif name in paths or _is_part(name, paths):
            problem = problem.replace(space=_with_leaf(problem.space, name, value))
        else:
            known = {*keywords, "events", *paths}
            raise errors.InputError(
                f"'{instrument.name}' has no setting {name!r}. "
                f"{errors.nearest(name, known)}"
            )
    return problem


def _is_part(name: str, paths: Sequence[str]) -> bool:
    """Whether a name is one entry of a leaf: "z[2]"."""
    return name.endswith("]") and name.rpartition("[")[0] in paths


def _with_leaf(space: Any, name: str, value: Any) -> Any:
    """The space with one leaf set, or one entry of it; an option may be given by name."""
    from kythera.core.space import Choice, _get, leaf_paths

    if isinstance(value, str):
        domain = space.free.get(name)
        if not isinstance(domain, Choice):
            raise errors.InputError(
                f"'{name}' must be set to a number, but got {value!r}. "
                "Write it as 0.5, '5 cm' or '[0.1, 0.2] m'."
            )
        if value not in domain.options:
            raise errors.SpaceError(
                f"'{name}' has no option {value!r}. "
                f"{errors.nearest(value, domain.options)}"
            )
        value = np.eye(len(domain.options))[domain.options.index(value)]
    try:
        new = np.asarray(value, float)
    except (TypeError, ValueError):
        new = np.array(np.nan)
    if not np.all(np.isfinite(new)):
        raise errors.InputError(
            f"'{name}' must be set to finite numbers, but got {value!r}. "
            "Write them as 0.5, '5 cm' or '[0.1, 0.2] m'."
        )
    if name in leaf_paths(space.template):
        return space.with_leaf(name, new)
    stem, _, rest = name.rpartition("[")
    whole = np.array(_get(space.template, stem), float)
    try:
        whole[tuple(int(i) for i in rest[:-1].split(","))] = new
    except (ValueError, IndexError) as error:
        raise errors.SpaceError(
            f"'{stem}' has shape {whole.shape}, so that '{name}' is none of its "
            f"entries. Count from 0, as in {stem}[0]."
        ) from error
    return space.with_leaf(stem, whole)


def _rows(value: Any) -> int:
    if isinstance(value, bool | str) or not np.isfinite(value) or int(value) != value:
        raise errors.InputError(
            f"`events` must be a whole number >= 1, but is {value!r}. "
            "Give the number of rows of one evaluation."
        )
    return int(value)


def _import(name: str) -> types.ModuleType:
    for folder in (os.path.join(os.getcwd(), "src"), os.getcwd()):
        if folder not in sys.path and os.path.isdir(folder):
            sys.path.insert(0, folder)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            raise errors.InputError(
                f"There is no module '{name}' (no '{error.name}' in {os.getcwd()}, its "
                "src, or among the installed packages). Check the spelling, or change "
                "to the folder that holds it."
            ) from error
        raise _unimportable(name, error) from error
    except errors.KytheraError as error:
        raise _unimportable(name, error) from error
    except (Exception, SystemExit) as error:  # a user's module may raise anything
        raise _unimportable(name, error) from error


def _unimportable(name: str, error: BaseException) -> errors.InputError:
    return errors.InputError(
        f"The module '{name}' could not be imported: {_told(error)}. Mend the module."
    )


def _told(error: BaseException) -> str:
    """Last line of an exception, and the place in the user's code where it was raised."""
    line = traceback.format_exception_only(error)[-1].strip().rstrip(".")
    if isinstance(error, SyntaxError):
        return f"{line} ({error.filename}, line {error.lineno})"
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if "importlib" not in frame.filename and frame.filename != __file__
    ]
    libraries = tuple(
        sysconfig.get_paths()[k] for k in ("stdlib", "purelib", "platlib")
    )
    own = [frame for frame in frames if not frame.filename.startswith(libraries)]
    place = (own or frames)[-1:]
    return "".join([line, *(f" ({f.filename}, line {f.lineno})" for f in place)])


def _defaults(module_name: str) -> dict[str, Any]:
    """`defaults` of a module, or of the nearest package around it that has any."""
    name = module_name
    while name:
        found = getattr(sys.modules.get(name), "defaults", None)
        if isinstance(found, Mapping):
            return dict(found)
        if found is not None:
            raise errors.InputError(
                f"`defaults` of '{name}' must be a mapping of run settings, but is "
                f"{found!r}. Write defaults = {{'optimiser': 'adam', 'events': 1e6}}."
            )
        name = name.rpartition(".")[0]
    return {}


def _attribute(module: types.ModuleType, module_name: str, attribute: str) -> Any:
    found: Any = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            public = [
                n
                for n, v in vars(module).items()
                if not n.startswith("_") and not isinstance(v, types.ModuleType)
            ]
            raise errors.InputError(
                f"The module '{module_name}' has no {attribute!r}. "
                f"{errors.nearest(attribute, public)}"
            )
        found = getattr(found, part)
    return found


def _keywords(make: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    parameters = inspect.signature(make).parameters
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {k: p for k, p in parameters.items() if p.kind in kinds}


def _fit(instrument: Instrument, name: str, value: Any) -> Any:
    """A value as the keyword's annotation wants it, where that can be told."""
    try:
        wanted = typing.get_type_hints(instrument.make).get(name)
    except (NameError, TypeError):
        return value
    kinds = set(typing.get_args(wanted)) or {wanted}
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and not np.isfinite(value):
        raise errors.InputError(
            f"{name!r} must be a finite number, but is {value}. Give a number."
        )
    if int in kinds and float not in kinds and number and value == int(value):
        return int(value)
    if kinds <= {int, float, type(None)}:
        whole = "a whole number" if float not in kinds else "a number"
        fits = number and (float in kinds or value == int(value))
        if not fits and not (value is None and type(None) in kinds):
            raise errors.InputError(
                f"{name!r} of '{instrument.name}' must be {whole}, but is {value!r}. "
                f"Give --set {name}=NUMBER."
            )
    return value
