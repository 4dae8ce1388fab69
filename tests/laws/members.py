"""Finds every concrete member of a kind, in all modules of the package."""

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from types import ModuleType

import kythera
import kythera.instruments


def modules(package: ModuleType = kythera) -> Iterator[ModuleType]:
    """All modules of the package, imported."""
    for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        yield importlib.import_module(info.name)


def concrete(kind: type) -> list[type]:
    """Every public class of the package below `kind` of which objects can be made."""
    found = {}
    for module in modules():
        for value in vars(module).values():
            if inspect.isclass(value) and issubclass(value, kind):
                if value.__name__.startswith("_"):  # a part of something public
                    continue
                if value.__module__ == module.__name__ and not _is_abstract(value):
                    found[f"{value.__module__}.{value.__qualname__}"] = value
    return [found[name] for name in sorted(found)]


def _is_abstract(cls: type) -> bool:
    left = ("__abstractmethods__", "__abstractvars__", "__abstractclassvars__")
    return any(getattr(cls, name, None) for name in left)


def instruments() -> list[str]:
    """The folders of `kythera.instruments`."""
    path = kythera.instruments.__path__
    return sorted(info.name for info in pkgutil.iter_modules(path) if info.ispkg)
