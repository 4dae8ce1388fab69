"""Run settings: from the instrument, from a TOML file, from the command line, in that order."""

import dataclasses
import importlib
import inspect
import math
import re
import tomllib
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import kythera
from kythera import errors, units

BUDGETS = ("events", "trials", "seconds", "cpu_seconds", "price")
# Key of a file or of `defaults`: what it must be.
KEYS: dict[str, tuple[type, ...]] = {
    "instrument": (str,),
    "optimiser": (str, dict),
    "estimator": (str, dict),
    "events": (int, float),
    "trials": (int,),
    "seconds": (int, float),
    "report_rows": (int,),
    "seed": (int,),
    "device": (str,),
    "out": (str,),
    "cpu_seconds": (int, float),
    "price": (int, float),
    "price_per_hour": (int, float),
    "store": (str,),
    "files": (str,),
    "name": (str,),
    "executor": (str,),
    "in_flight": (int,),
    "tracker": (str,),
    "start": (str,),
    "freeze": (list,),
    "set": (dict,),
}
NAME_OF = {
    int: "a whole number",
    float: "a number",
    str: "a string",
    dict: "a table",
    list: "a list",
    bool: "true or false",
    type(None): "none",
}
DEVICES = ("cpu", "gpu", "tpu")
ALIASES = {"random": "RandomSearch", "cmaes": "Evolution", "ppo": "Policy"}
NEEDS_PYTHON = ("Gradient", "from_optax")  # what no text can name


@dataclasses.dataclass(frozen=True)
class Spec:
    """All that a run is told beside its problem; None where the default decides.

    Args:
        instrument: name, or package.module:problem.
        optimiser: "adam:step=0.05".
        estimator: "pathwise".
        events: primaries that the search may simulate.
        trials: designs that it may look at.
        seconds: wall time after which no new design is asked for.
        report_rows: event rows of the final measurement of start and best (a softened
            detector gets a quarter).
        seed: of all random numbers.
        device: "cpu", "gpu" or "tpu".
        out: folder of the result.
        cpu_seconds: CPU time after which no new design is asked for.
        price: likewise, in the currency of `price_per_hour`.
        price_per_hour: of one CPU.
        store: database of studies: a path or a URL.
        files: its folder for checkpoints and artifacts.
        name: of the study.
        executor: where designs are evaluated: "dask:workers=2".
        in_flight: designs that are under way at any time, told as they come back.
        tracker: where trials are shown as well: "mlflow".
        start: study, and after a colon its trial, from whose design it starts.
        freeze: leaves of the design that stay as they are.
        set: settings of the instrument by name.
    """

    instrument: str | None = None
    optimiser: str | None = None
    estimator: str | None = None
    events: float | None = None
    trials: int | None = None
    seconds: float | None = None
    report_rows: int | None = None
    seed: int | None = None
    device: str | None = None
    out: str | None = None
    cpu_seconds: float | None = None
    price: float | None = None
    price_per_hour: float | None = None
    store: str | None = None
    files: str | None = None
    name: str | None = None
    executor: str | None = None
    in_flight: int | None = None
    tracker: str | None = None
    start: str | None = None
    freeze: list[str] | None = None
    set: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def budget(self) -> dict[str, float | None]:
        """The limits by name."""
        return {name: getattr(self, name) for name in BUDGETS}

    def over(self, base: "Spec") -> "Spec":
        """These settings, and those of `base` where these say nothing."""
        said = {k: v for k, v in vars(self).items() if v is not None}
        return dataclasses.replace(base, **said | {"set": {**base.set, **self.set}})

    def over_defaults(self, defaults: "Spec") -> "Spec":
        """As `over`, but any limit that is given replaces all limits of the defaults."""
        if any(limit is not None for limit in self.budget.values()):
            defaults = dataclasses.replace(defaults, **dict.fromkeys(BUDGETS))
        return self.over(defaults)


def from_mapping(entries: Mapping[str, Any], where: str) -> Spec:
    """Settings from a mapping with the keys of `KEYS`.

    Args:
        entries: as in a file.
        where: what to call it in messages.

    Raises:
        InputError: an unknown key, or a value of the wrong type.
    """
    for key, value in entries.items():
        if key not in KEYS:
            raise errors.InputError(
                f"{where} has an unknown key {key!r}. {errors.nearest(key, KEYS)}"
            )
        kinds = KEYS[key]
        if int in kinds and float not in kinds and _is_whole(value):
            continue
        if not isinstance(value, kinds) or isinstance(value, bool):
            wanted = " or ".join(NAME_OF[kind] for kind in kinds)
            raise errors.InputError(
                f"`{key}` in {where} must be {wanted}, but is {value!r}. Mend it."
            )
    found = dict(entries)
    for key in ("trials", "report_rows", "seed", "in_flight"):
        if key in found:
            found[key] = int(found[key])
    for key in ("optimiser", "estimator"):
        if isinstance(found.get(key), Mapping):
            found[key] = _as_text(key, found[key], where)
    found["set"] = {
        name: parse_value(name, value) if isinstance(value, str) else value
        for name, value in _flat(found.get("set", {})).items()
    }
    return Spec(**found)


def from_toml(path: Path) -> Spec:
    """Settings from a file.

    Raises:
        InputError: it cannot be read, is no TOML, or has unknown keys.
    """
    try:
        entries = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise errors.InputError(
            f"The file '{path}' cannot be read: {error.strerror}. Check its name."
        ) from error
    except ValueError as error:  # both of TOML and of UTF-8
        raise errors.InputError(
            f"'{path}' must be TOML, but is not: {error}. "
            'Strings are quoted: optimiser = "adam".'
        ) from error
    return from_mapping(entries, f"'{path}'")


def parse_settings(pairs: Sequence[str]) -> dict[str, Any]:
    """`["planes=6", "z=[0, 1] m"]` as a mapping.

    Raises:
        InputError: one that has no "=", or comes twice.
    """
    found: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        name = name.strip()
        if not equals or not name:
            raise errors.InputError(
                f"--set takes NAME=VALUE, but got {pair!r}. Write --set z=0.5."
            )
        if name in found:
            raise errors.InputError(
                f"--set gives {name!r} twice: {found[name]!r} and {value!r}. "
                "Leave one out."
            )
        found[name] = parse_value(name, value)
    return found


def parse_value(name: str, text: str) -> Any:
    """A number, list, truth value or string; with a unit behind it in native units.

    `0.5`, `5 cm`, `[0.1, 0.2] m`, `true`, `none`, `lead`.

    Raises:
        InputError: numbers with an unknown unit.
    """
    text = text.strip()
    words = {"true": True, "false": False, "none": None, "null": None}
    if text.lower() in words:
        return words[text.lower()]
    match = re.fullmatch(
        r"(?P<value>\[.*\]|\(.*\)|[-+]?(?:[\d.][\d._]*(?:[eE][-+]?\d+)?|inf|nan))"
        r"\s*\*?\s*(?P<unit>[A-Za-z]\w*)?",
        text,
        re.DOTALL,
    )
    if match is None:
        return text
    inside = match["value"]
    try:
        if inside[0] in "[(":
            value: Any = [parse_value(name, v) for v in _split(inside[1:-1])]
        else:
            value = float(inside)
            if (
                value == value
                and abs(value) < 1e15
                and re.fullmatch(r"[-+]?\d+", inside)
            ):
                value = int(inside)
    except ValueError:
        return text
    unit = match["unit"]
    if unit is None:
        return value
    factor = getattr(units, unit, None)
    if not isinstance(factor, int | float):
        known = [k for k, v in vars(units).items() if isinstance(v, int | float)]
        raise errors.InputError(
            f"{name!r} is given in {unit!r}, which is no unit. "
            f"{errors.nearest(unit, known)}"
        )
    return _scaled(value, factor)


def _scaled(value: Any, factor: float) -> Any:
    if isinstance(value, list):
        return [_scaled(v, factor) for v in value]
    return value * factor


def written(value: Any) -> str:
    """A value as `parse_value` reads it."""
    if isinstance(value, float):
        return f"{value:.12g}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(written, value))}]"
    return str(value)


def parts(kind: str) -> dict[str, tuple[str, str]]:
    """What `--optimiser` or `--estimator` can name: short name -> module and attribute.

    Nothing is imported: some of them stand on large libraries.

    Args:
        kind: "optimiser", "estimator" or "surrogate".
    """
    return {
        _short(name): (f"kythera.{module}", name)
        for module, names in kythera._HOME.items()
        for name in names
        if module.startswith(f"{kind}s.") and name not in NEEDS_PYTHON
    }


def make(kind: str, text: str) -> Any:
    """The optimiser or estimator that a text such as "adam:step=0.05" names.

    A key with a dot makes a mapping: "adam:step.z=0.01" is step={"z": 0.01}. One that
    takes another one is given its text in brackets: "multi_start:optimiser=(lbfgsb)",
    "local_surrogate:surrogate=(regressor:steps=200)".

    Args:
        kind: "optimiser", "estimator" or "surrogate".
        text: name, and after a colon its settings.

    Raises:
        InputError: unknown name or setting, or a value that is refused.
    """
    name, _, rest = text.strip().partition(":")
    known = parts(kind)
    plain = _short(ALIASES.get(_squeezed(name), name))
    chosen = next((k for k in known if _squeezed(k) == _squeezed(plain)), None)
    if chosen is None:
        raise errors.InputError(
            f"There is no {kind} {name!r}. {errors.nearest(name, known)}"
        )
    module, attribute = known[chosen]
    factory = getattr(importlib.import_module(module), attribute)
    signature = inspect.signature(factory)
    settings: dict[str, Any] = {}
    for pair in _split(rest):
        key, equals, value = pair.partition("=")
        key, _, path = key.strip().partition(".")
        if not equals:
            raise errors.InputError(
                f"Settings of {kind} {name!r} are written NAME=VALUE, but got {pair!r}. "
                f"Write {name}:step=0.05."
            )
        if key not in signature.parameters:
            raise errors.InputError(
                f"The {kind} {name!r} has no setting {key!r}. "
                f"{errors.nearest(key, signature.parameters)}"
            )
        parsed = _part_value(kind, key, value)
        if path:
            settings.setdefault(key, {})[path] = parsed
        else:
            settings[key] = parsed
    return _called(kind, name, factory, signature, settings)


def _called(
    kind: str,
    name: str,
    factory: Callable[..., Any],
    signature: inspect.Signature,
    settings: dict[str, Any],
) -> Any:
    """Call a factory with settings that were typed; refuse what does not fit."""
    for key, parameter in signature.parameters.items():
        variadic = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        if (
            parameter.default is parameter.empty
            and not variadic
            and key not in settings
        ):
            raise errors.InputError(
                f"The {kind} {name!r} needs a value for {key!r}. "
                f"Write {name}:{key}=VALUE."
            )
    for key, value in settings.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise errors.InputError(
                f"{key!r} of {kind} {name!r} must be finite, but is {value}. "
                "Give a number."
            )
        kinds = _kinds(factory, signature, key)
        if kinds and not _fits(value, kinds):
            wanted = " or ".join(sorted(NAME_OF[k] for k in kinds))
            raise errors.InputError(
                f"{key!r} of {kind} {name!r} must be {wanted}, but is {value!r}. Mend it."
            )
    try:
        return factory(**settings)
    except errors.KytheraError:
        raise
    except (TypeError, ValueError) as error:
        raise errors.InputError(
            f"The {kind} {name!r} cannot be made with {settings}: {error}. "
            "Mend its settings."
        ) from error


def _part_value(kind: str, key: str, value: str) -> Any:
    value = value.strip()
    if key in (kind, "surrogate"):
        return make(key, value[1:-1] if value.startswith("(") else value)
    return parse_value(key, value)


def _kinds(
    factory: Callable[..., Any], signature: inspect.Signature, key: str
) -> set[type]:
    """The plain types that a setting may have; empty where anything goes."""
    wanted = signature.parameters[key].annotation
    if isinstance(wanted, str):
        try:
            target = factory.__init__ if isinstance(factory, type) else factory
            wanted = typing.get_type_hints(target).get(key)
        except (NameError, TypeError):
            return set()
    union = isinstance(wanted, types.UnionType)
    kinds: set[Any] = set(typing.get_args(wanted)) if union else {wanted}
    plain = {int, float, bool, str, type(None)}
    return kinds if kinds <= plain else set()


def _fits(value: Any, kinds: set[type]) -> bool:
    if isinstance(value, bool):
        return bool in kinds
    if isinstance(value, int) and float in kinds:
        return True
    return isinstance(value, tuple(kinds))


def _short(name: str) -> str:
    """In snake case: "RandomSearch" becomes "random_search"."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


def _squeezed(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _split(text: str) -> list[str]:
    """Split at commas that stand outside brackets; empty parts are dropped."""
    found, depth, last = [], 0, 0
    for i, letter in enumerate(text):
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth == 0:
            found.append(text[last:i])
            last = i + 1
    return [part.strip() for part in [*found, text[last:]] if part.strip()]


def _flat(entries: Mapping[str, Any], stem: str = "") -> dict[str, Any]:
    """Nested tables as dotted names."""
    found: dict[str, Any] = {}
    for key, value in entries.items():
        name = f"{stem}.{key}" if stem else key
        found.update(
            _flat(value, name) if isinstance(value, Mapping) else {name: value}
        )
    return found


def _as_text(key: str, entries: Mapping[str, Any], where: str) -> str:
    """A table with `name` and settings as the text that the command line takes."""
    if not isinstance(entries.get("name"), str):
        raise errors.InputError(
            f"The table `{key}` in {where} needs a `name`, but has {dict(entries)!r}. "
            'Write name = "adam".'
        )
    settings = _flat({k: v for k, v in entries.items() if k != "name"})
    rest = ",".join(f"{k}={v}" for k, v in settings.items())
    return f"{entries['name']}:{rest}" if rest else entries["name"]


def _is_whole(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value) and int(value) == value
