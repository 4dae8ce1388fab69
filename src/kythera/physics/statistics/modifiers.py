"""The modifiers of HistFactory: what each one is given, and the parameters it brings.

Starts, bounds, constraints and their order are pyhf's.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from kythera import errors
from kythera.physics.statistics.checks import listed
from kythera.physics.statistics.entries import check_once, entry, numbers


@dataclasses.dataclass(frozen=True)
class Parameter:
    """A parameter, or one for each bin, with its constraint.

    Args:
        kind: "alpha" (unit normal), "lumi", "free", "shapesys" or "staterror".
        first: number of its first component.
        names: of the components.
        start: shape (component,).
        low: lower bounds; equal to `up` where it is fixed.
        up: upper bounds.
        centre: of a normal constraint of given width.
        width: of it.
        bins: global bin of each component, where it acts on these alone.
    """

    kind: str
    first: int
    names: tuple[str, ...]
    start: np.ndarray
    low: np.ndarray
    up: np.ndarray
    centre: float = 0.0
    width: float = 1.0
    bins: tuple[int, ...] = ()

    def number(self, bin: int, place: int) -> int:
        """Number of the component that acts on a bin.

        Args:
            bin: counted over all channels.
            place: counted within its channel.
        """
        if self.bins:
            return self.first + self.bins.index(bin)
        return self.first + (place if len(self.names) > 1 else 0)


@dataclasses.dataclass(frozen=True)
class Kind:
    """A type of modifier.

    Args:
        parameter: the kind of parameter it brings.
        parse: (data, bins, text) -> what the model needs.
    """

    parameter: str
    parse: Callable[[Any, int, str], Any]


def check_template(values: np.ndarray, bins: int, where: str) -> None:
    """Refuse a template of another length, or with yields that no counts can have.

    Args:
        values: yields, counts.
        bins: of the channel.
        where: for the error.

    Raises:
        InputError: another length, a negative yield, or none that is a number.
    """
    if values.shape != (bins,):
        raise errors.InputError(
            f"All templates of a channel have its {bins} bins, but {where} has "
            f"{values.size}. Rebin it."
        )
    bad = np.flatnonzero(~(values >= 0) | ~np.isfinite(values))
    if bad.size:
        raise errors.InputError(
            f"A yield is a number of counts >= 0, but {where} has {values[bad[:5]]} in bins "
            f"{listed(bad)}. Merge bins with negative weights, or smooth the template."
        )


def _nothing(data: Any, bins: int, text: str) -> None:
    return None


def _templates(data: Any, bins: int, text: str) -> tuple[np.ndarray, np.ndarray]:
    """Yields at -1 and +1 sigma."""
    low, high = _pair(data, "lo_data", "hi_data", text)
    for values in (low, high):
        check_template(values, bins, text)
    return low, high


def _norm(data: Any, bins: int, text: str) -> tuple[float, float]:
    """Factors at -1 and +1 sigma."""
    low, high = _pair(data, "lo", "hi", text)
    if low.size != 1 or high.size != 1 or not (_positive(low) and _positive(high)):
        raise errors.InputError(
            f"A total is varied by two finite factors > 0, but {text} has lo = "
            f"{low.tolist()}, hi = {high.tolist()}. Give the factors, not their differences "
            "from one."
        )
    return low.item(), high.item()


def _positive(values: np.ndarray) -> bool:
    """Whether all are finite and > 0."""
    return bool(np.all((values > 0) & np.isfinite(values)))


def _pair(data: Any, low: str, high: str, text: str) -> tuple[np.ndarray, np.ndarray]:
    if not isinstance(data, Mapping) or {low, high} - data.keys():
        raise errors.InputError(
            f"The data of this type are '{low}' and '{high}', but {text} has {data!r}. "
            "Give both."
        )
    whose = f"the data of {text}"
    return entry(data, low, "numbers", whose), entry(data, high, "numbers", whose)


def _uncertainties(data: Any, bins: int, text: str) -> np.ndarray:
    """A standard deviation for each bin."""
    values = numbers([] if data is None else data, f"the data of {text}")
    if values.shape != (bins,) or not (np.isfinite(values) & (values >= 0)).all():
        raise errors.InputError(
            f"An uncertainty is finite and >= 0 for each of {bins} bins, but {text} has "
            f"{values.tolist()}. Give absolute standard deviations, in counts."
        )
    return values


# In pyhf's order: that of the parameters.
KINDS = {
    "histosys": Kind("alpha", _templates),
    "lumi": Kind("lumi", _nothing),
    "normfactor": Kind("free", _nothing),
    "normsys": Kind("alpha", _norm),
    "shapefactor": Kind("free", _nothing),
    "shapesys": Kind("shapesys", _uncertainties),
    "staterror": Kind("staterror", _uncertainties),
}


def parameters_of(
    uses: Sequence[Mapping[str, Any]],
    nominal: np.ndarray,
    settings: Sequence[Mapping[str, Any]],
) -> dict[str, Parameter]:
    """The parameters that the modifiers bring, in pyhf's order.

    Args:
        uses: modifiers with the place they act on, by channel, sample and name.
        nominal: yields, shape (sample, bin).
        settings: of the measurement: start, bounds and so on of parameters by name.

    Raises:
        InputError: modifiers of one name that need different parameters, or settings that
            a parameter cannot have.
    """
    names = [entry(s, "name", "text", "each of the parameters") for s in settings]
    check_once(names, "The parameters", "a measurement")
    given = dict(zip(names, settings))
    known = {u["name"] for u in uses if u["type"] in KINDS}
    for name in names:
        if name not in known:
            raise errors.InputError(
                f"A measurement sets parameters of the model, but '{name}' is none. Rename "
                f"or remove the setting. {errors.nearest(name, known)}"
            )
    found: dict[str, Parameter] = {}
    first = 0
    for kind in KINDS:
        names = [u["name"] for u in uses if u["type"] == kind]
        ordered = sorted(set(names)) if kind == "staterror" else dict.fromkeys(names)
        for name in ordered:
            own = [u for u in uses if (u["name"], u["type"]) == (name, kind)]
            new = _parameter(name, kind, own, nominal, first)
            if name in found:
                _check_shared(name, found[name], new, own[0]["text"])
                continue
            found[name] = _set(name, new, given.get(name, {}), kind)
            first += len(new.names)
    if not found:
        raise errors.InputError(
            "A model has parameters, but no sample has a modifier. Add a normfactor to the "
            "signal."
        )
    return found


def _parameter(
    name: str,
    kind: str,
    uses: Sequence[Mapping[str, Any]],
    nominal: np.ndarray,
    first: int,
) -> Parameter:
    """What modifiers of one type and name need."""
    role = KINDS[kind].parameter
    if kind in ("shapefactor", "shapesys", "staterror"):
        bins = _bins(kind, uses)
        fixed = _idle(kind, uses, nominal, bins)
        one = np.ones(len(fixed))
        least = 0.0 if kind == "shapefactor" else 1e-10
        names = tuple(f"{name}[{i}]" for i in range(len(fixed)))
        low, up = np.where(fixed, 1.0, least), np.where(fixed, 1.0, 10.0)
        return Parameter(role, first, names, one, low, up, bins=bins)
    start, low, up = (0.0, -5.0, 5.0) if role == "alpha" else (1.0, 0.0, 10.0)
    start, low, up = (np.full(1, v) for v in (start, low, up))
    return Parameter(role, first, (name,), start, low, up)


def _bins(kind: str, uses: Sequence[Mapping[str, Any]]) -> tuple[int, ...]:
    """Global bins of the components; none where channels share them by place."""
    ranges = [range(u["where"].start, u["where"].stop) for u in uses]
    if kind == "shapefactor":
        if len({len(r) for r in ranges}) > 1:
            raise errors.InputError(
                "Channels that share a shapefactor have equally many bins, but "
                f"{uses[0]['text']} has {len(ranges[0])} and another one "
                f"{next(len(r) for r in ranges if len(r) != len(ranges[0]))}. Give each "
                "channel one of its own."
            )
        return ()
    if kind == "shapesys" and len(uses) > 1:
        raise errors.InputError(
            f"A shapesys belongs to one sample, but {uses[1]['text']} has the name of "
            f"{uses[0]['text']}. Rename one; a staterror can be shared."
        )
    rows = {u["row"] for u in uses}
    covered = {
        r: sorted(b for u, x in zip(uses, ranges) if u["row"] == r for b in x)
        for r in rows
    }
    bins = next(iter(covered.values()))
    if any(other != bins for other in covered.values()):
        raise errors.InputError(
            "Samples that share a staterror have it in the same channels, but those of "
            f"{uses[0]['text']} differ. Name it after its channel."
        )
    return tuple(bins)


def _idle(
    kind: str,
    uses: Sequence[Mapping[str, Any]],
    nominal: np.ndarray,
    bins: tuple[int, ...],
) -> np.ndarray:
    """Components that do nothing: no yield, or no uncertainty. They are fixed."""
    if kind == "shapefactor":
        return np.zeros(len(uses[0]["nominal"]), bool)
    rows = sorted({u["row"] for u in uses})
    total = nominal[np.ix_(rows, bins)].sum(0)
    variance = np.zeros(len(bins))
    for use in uses:
        where = bins.index(use["where"].start) + np.arange(len(use["data"]))
        variance[where] += use["data"] ** 2
    return (total == 0) | (variance == 0)


def _check_shared(name: str, old: Parameter, new: Parameter, text: str) -> None:
    same = (old.kind, len(old.names), old.bins) == (new.kind, len(new.names), new.bins)
    if not same or old.kind in ("shapesys", "staterror"):
        raise errors.InputError(
            "Modifiers of one name share one parameter, so they need the same kind of it, "
            f"but {text} differs from another '{name}'. Rename one."
        )


def _check_settings(
    name: str, parameter: Parameter, given: Mapping[str, Any], kind: str
) -> None:
    """Refuse a setting that the kind of parameter does not have, or lacks."""
    allowed = {"name", "inits", "bounds", "fixed"}
    if parameter.kind in ("alpha", "lumi"):
        allowed.add("auxdata")
    if parameter.kind == "lumi":
        allowed.add("sigmas")
        missing = {"inits", "bounds", "auxdata", "sigmas"} - given.keys()
        if missing:
            raise errors.InputError(
                "The luminosity is what the measurement says, but the setting of "
                f"'{name}' has no {sorted(missing)}. Add it to `config.parameters`."
            )
    unknown = given.keys() - allowed
    if unknown:
        raise errors.InputError(
            f"A measurement sets {sorted(allowed - {'name'})} of a {kind}, but that of "
            f"'{name}' sets {sorted(unknown)}. Remove it."
        )


def _set(
    name: str, parameter: Parameter, given: Mapping[str, Any], kind: str
) -> Parameter:
    """The parameter as the measurement sets it."""
    _check_settings(name, parameter, given, kind)
    count = len(parameter.names)
    where = f"the setting of '{name}'"
    start = entry(given, "inits", "numbers", where, parameter.start)
    bounds = np.stack([parameter.low, parameter.up], 1)
    bounds = entry(given, "bounds", "numbers", where, bounds)
    right = start.shape == (count,) and bounds.shape == (count, 2)
    if not right or not (bounds[:, 0] <= bounds[:, 1]).all():
        raise errors.InputError(
            f"'{name}' has {count} values, each within bounds (lower, upper), but is set "
            f"to inits {start.tolist()}, bounds {bounds.tolist()}. Give one of each for "
            "each value."
        )
    low, up = bounds.T
    if not ((low <= start) & (start <= up) & np.isfinite(start)).all():
        raise errors.InputError(
            f"A parameter starts within its bounds, but '{name}' starts at {start.tolist()} "
            f"with bounds {bounds.tolist()}. Move one of them."
        )
    fixed = np.asarray(given.get("fixed", parameter.low == parameter.up), object)
    truth = all(isinstance(v, bool | np.bool_) for v in fixed.flat)
    if not truth or fixed.shape not in ((), (count,)):
        raise errors.InputError(
            f"'fixed' of '{name}' is true or false, once or for each of {count} values, but "
            f"is {given['fixed']!r}. Give one of them."
        )
    centre, width = (
        entry(given, k, "numbers", where, np.full(1, v))
        for k, v in (("auxdata", parameter.centre), ("sigmas", parameter.width))
    )
    if centre.shape != (1,) or not np.isfinite(centre).all():
        raise errors.InputError(
            f"A constraint has one finite centre, but 'auxdata' of '{name}' is "
            f"{centre.tolist()}. Give a list of one number."
        )
    if width.shape != (1,) or not _positive(width):
        raise errors.InputError(
            f"The width of a constraint is one finite number > 0, but 'sigmas' of '{name}' "
            f"is {width.tolist()}. Fix the parameter instead."
        )
    return dataclasses.replace(
        parameter,
        start=start,
        low=np.where(fixed.astype(bool), start, low),
        up=np.where(fixed.astype(bool), start, up),
        centre=centre.item(),
        width=width.item(),
    )
