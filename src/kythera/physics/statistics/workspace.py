"""Reads a HistFactory workspace: the JSON format that pyhf defines and HEPData keeps.

Channels, samples and parameters stand in pyhf's order (channels and samples by name), and
parameters have pyhf's names, starts, bounds and constraints, so that numbers compare.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from kythera import errors
from kythera.physics.statistics.checks import listed
from kythera.physics.statistics.entries import check_once, entry
from kythera.physics.statistics.histfactory import (
    Cells,
    HistFactory,
    Normals,
    Norms,
    Shifts,
)
from kythera.physics.statistics.modifiers import (
    KINDS,
    Parameter,
    check_template,
    parameters_of,
)


def read(
    workspace: Mapping[str, Any] | str | Path, measurement: str | None = None
) -> HistFactory:
    """A model, and its data, from a workspace.

    Args:
        workspace: as pyhf writes it: the tree, or the path of a JSON file.
        measurement: its name; by default the first one.

    Returns:
        the model: normfactor, normsys (code 4), histosys (code 4p), shapesys, staterror,
        shapefactor and lumi modifiers, with the measurement's parameter of interest,
        starts, bounds and fixed parameters.

    Raises:
        InputError: the file is no workspace, an entry is missing or of another kind, a
            name comes twice, a modifier is unknown, lengths differ, a yield is negative, a
            bin expects nothing, or a parameter is set to what it cannot be, or is none of
            the model's.
    """
    tree = _tree(workspace)
    channels = _channels(tree)
    widths = {name: samples[0]["data"].size for name, samples in channels.items()}
    first = dict(zip(widths, np.cumsum([0, *widths.values()]).tolist()))
    samples = sorted({s["name"] for found in channels.values() for s in found})
    bins = sum(widths.values())
    nominal = np.zeros((len(samples), bins))
    uses = []
    for channel, found in channels.items():
        where = slice(first[channel], first[channel] + widths[channel])
        for sample in sorted(found, key=lambda s: s["name"]):
            row = samples.index(sample["name"])
            nominal[row, where] = sample["data"]
            uses += _uses(sample, channel, row, where)
    _check_empty(nominal, channels, first)
    config = _measurement(tree, measurement)
    settings = entry(config, "parameters", "trees", "`config` of a measurement", [])
    parameters = parameters_of(uses, nominal, settings)
    return _model(
        nominal,
        uses,
        parameters,
        observed=_observed(tree, widths),
        samples=tuple(samples),
        channels=tuple(widths.items()),
        poi=entry(config, "poi", "text", "`config` of a measurement", ""),
    )


def _tree(workspace: Mapping[str, Any] | str | Path) -> Mapping[str, Any]:
    """The workspace with the parts that it must have."""
    if not isinstance(workspace, Mapping):
        try:
            workspace = json.loads(Path(workspace).read_text(encoding="utf-8"))
        except (OSError, TypeError, ValueError) as error:
            raise errors.InputError(
                f"A workspace is a JSON file, but '{workspace}' cannot be read: {error}. "
                "Give the path of one that pyhf wrote, or the tree itself."
            ) from error
    needed = ("channels", "observations", "measurements")
    for key in needed:
        if not entry(workspace, key, "trees", "a workspace", []):
            raise errors.InputError(
                f"A workspace has {', '.join(needed)}, but this one has no {key}. Give "
                "the whole workspace, not the model alone."
            )
    return workspace  # type: ignore[return-value]


def _named(tree: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
    """Entries of a list by their names, each once."""
    found = tree[key]
    names = [entry(one, "name", "text", f"each of the {key}") for one in found]
    check_once(names, f"The {key}", where)
    return dict(zip(names, found))


def _channels(tree: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Samples of each channel, in the order of the channels' names."""
    found = {}
    for channel, one in sorted(_named(tree, "channels", "a workspace").items()):
        where = f"channel '{channel}'"
        if not entry(one, "samples", "trees", where, []):
            raise errors.InputError(
                f"A channel has at least one sample, but {where} has none. Remove it."
            )
        samples = _named(one, "samples", where)
        found[channel] = [_sample(n, s, where) for n, s in samples.items()]
        bins = max(1, found[channel][0]["data"].size)
        for sample in found[channel]:
            text = f"sample '{sample['name']}' of {where}"
            check_template(sample["data"], bins, text)
    return found


def _sample(name: str, sample: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Its name, yields and modifiers."""
    text = f"sample '{name}' of {where}"
    return {
        "name": name,
        "data": entry(sample, "data", "numbers", text),
        "modifiers": entry(sample, "modifiers", "trees", text, []),
    }


def _uses(
    sample: Mapping[str, Any], channel: str, row: int, where: slice
) -> list[dict[str, Any]]:
    """Each modifier of a sample, with the place it acts on, in the order of the names."""
    found = []
    nominal, whose = sample["data"], f"sample '{sample['name']}' in '{channel}'"
    for m in sample["modifiers"]:
        for key in ("name", "type"):
            entry(m, key, "text", f"each modifier of {whose}")
    for m in sorted(sample["modifiers"], key=lambda m: (m["name"], m["type"])):
        text = f"modifier '{m['name']}' of {whose}"
        if m["type"] not in KINDS:
            raise errors.InputError(
                f"A modifier has one of the types of HistFactory, but {text} has the type "
                f"'{m['type']}'. {errors.nearest(m['type'], KINDS)}"
            )
        if any((m["name"], m["type"]) == (f["name"], f["type"]) for f in found):
            raise errors.InputError(
                f"A sample has a modifier once, but {text} came twice. Remove one."
            )
        data = KINDS[m["type"]].parse(m.get("data"), len(nominal), text)
        found.append(
            {
                "name": m["name"],
                "type": m["type"],
                "data": data,
                "row": row,
                "where": where,
                "channel": channel,
                "nominal": nominal,
                "text": text,
            }
        )
    return found


def _check_empty(
    nominal: np.ndarray, channels: Mapping[str, Any], first: Mapping[str, int]
) -> None:
    """Refuse bins in which no sample expects anything."""
    empty = np.flatnonzero(nominal.sum(0) == 0)
    if empty.size:
        names = list(channels)
        channel = [n for n in names if first[n] <= empty[0]][-1]
        raise errors.InputError(
            "Each bin expects counts of some sample, but in bins "
            f"{listed(empty[empty >= first[channel]] - first[channel])} of channel "
            f"'{channel}' all templates are empty. Merge them with their neighbours, or "
            "drop them."
        )


def _measurement(tree: Mapping[str, Any], name: str | None) -> Mapping[str, Any]:
    """The configuration of one measurement."""
    found = {
        n: entry(m, "config", "tree", f"measurement '{n}'", {})
        for n, m in _named(tree, "measurements", "a workspace").items()
    }
    if name is None:
        return next(iter(found.values()))
    if name not in found:
        raise errors.InputError(
            f"The workspace has no measurement '{name}'. {errors.nearest(name, found)}"
        )
    return found[name]


def _observed(tree: Mapping[str, Any], widths: Mapping[str, int]) -> np.ndarray:
    """Observed counts of all bins."""
    given = {
        n: entry(o, "data", "numbers", f"the observation of channel '{n}'")
        for n, o in _named(tree, "observations", "a workspace").items()
    }
    for name, bins in widths.items():
        if name not in given:
            raise errors.InputError(
                f"Each channel has observed counts, but '{name}' has none. Add them to "
                f"`observations`. {errors.nearest(name, given)}"
            )
        check_template(given[name], bins, f"the observation of channel '{name}'")
    return np.concatenate([given[name] for name in widths])


def _model(
    nominal: np.ndarray,
    uses: Sequence[Mapping[str, Any]],
    parameters: Mapping[str, Parameter],
    *,
    observed: np.ndarray,
    samples: tuple[str, ...],
    channels: tuple[tuple[str, int], ...],
    poi: str,
) -> HistFactory:
    """The arrays of the model."""
    place = {name: p.first for name, p in parameters.items()}
    norms = _norms(uses, place)
    stat, shape = (_cells(uses, parameters, kind) for kind in ("staterror", "shapesys"))
    normals = _normals(parameters)
    kinds = np.concatenate(
        [normals.parameter, stat.parameters, shape.parameters]
    ).astype(int)
    names = [n for p in parameters.values() for n in p.names]
    start, low, up = (
        np.concatenate([getattr(p, k) for p in parameters.values()])
        for k in ("start", "low", "up")
    )
    return HistFactory(
        nominal=_floats(nominal),
        shifts=_shifts(uses, place, nominal.shape[1]),
        norms=norms,
        factors=_factors(uses, parameters, nominal.shape, len(names)),
        normals=normals,
        stat=stat,
        shape=shape,
        order=_ints(np.argsort(np.argsort(kinds))),
        observed=_floats(observed),
        start=_floats(start),
        low=_floats(low),
        up=_floats(up),
        names=tuple(names),
        samples=samples,
        channels=channels,
        poi=_poi(poi, parameters),
    )


def _poi(name: str, parameters: Mapping[str, Parameter]) -> int | None:
    """Number of the parameter of interest."""
    if not name:
        return None
    if name not in parameters:
        raise errors.InputError(
            f"The parameter of interest is one of the model's, but '{name}' is not. "
            f"{errors.nearest(name, parameters)}"
        )
    chosen = parameters[name]
    if len(chosen.names) > 1 or chosen.low[0] == chosen.up[0]:
        state = "is fixed" if len(chosen.names) == 1 else "has one value for each bin"
        raise errors.InputError(
            f"The parameter of interest is a single free number, but '{name}' {state}. "
            "Name another one, or free it."
        )
    return chosen.first


def _shifts(
    uses: Sequence[Mapping[str, Any]], place: Mapping[str, int], bins: int
) -> Shifts:
    """One row for each parameter and sample, over all channels."""
    rows: dict[tuple[int, int], tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
    for use in uses:
        if use["type"] == "histosys":
            key = place[use["name"]], use["row"]
            new = np.zeros(bins, bool), np.zeros(bins), np.zeros(bins)
            moved, low, high = rows.setdefault(key, new)
            moved[use["where"]] = True
            low[use["where"]], high[use["where"]] = use["data"]
    moved, low, high = (
        np.reshape([r[i] for r in rows.values()], (-1, bins)) for i in range(3)
    )
    return Shifts(
        _ints([k[0] for k in rows]),
        _ints([k[1] for k in rows]),
        jnp.asarray(moved.astype(bool)),
        _floats(low),
        _floats(high),
    )


def _norms(uses: Sequence[Mapping[str, Any]], place: Mapping[str, int]) -> Norms:
    """One entry for each parameter, sample and channel."""
    found = [u for u in uses if u["type"] == "normsys"]
    return Norms(
        _ints([place[u["name"]] for u in found]),
        _floats([u["data"][0] for u in found]),
        _floats([u["data"][1] for u in found]),
    )


def _factors(
    uses: Sequence[Mapping[str, Any]],
    parameters: Mapping[str, Parameter],
    shape: tuple[int, int],
    count: int,
) -> Any:
    """What multiplies each yield; padded with the number of the one at the end."""
    each: list[list[list[int]]] = [
        [[] for _ in range(shape[1])] for _ in range(shape[0])
    ]
    norms = 0
    for use in uses:
        if use["type"] == "histosys":
            continue
        parameter = parameters[use["name"]]
        for i, b in enumerate(range(use["where"].start, use["where"].stop)):
            if use["type"] == "normsys":
                number = count + norms
            else:
                number = parameter.number(b, i)
            each[use["row"]][b].append(number)
        norms += use["type"] == "normsys"
    most = max([len(f) for row in each for f in row], default=0)
    one = count + norms
    return _ints([[f + [one] * (most - len(f)) for f in row] for row in each]).reshape(
        *shape, most
    )


def _cells(
    uses: Sequence[Mapping[str, Any]], parameters: Mapping[str, Parameter], kind: str
) -> Cells:
    """Cells of all modifiers of a kind, component by component."""
    entries, numbers = [], []
    for name, parameter in parameters.items():
        if parameter.kind != kind:
            continue
        offset = len(numbers)
        numbers += range(parameter.first, parameter.first + len(parameter.names))
        for use in uses:
            if (use["name"], use["type"]) != (name, kind):
                continue
            for i, b in enumerate(range(use["where"].start, use["where"].stop)):
                component = offset + parameter.number(b, i) - parameter.first
                entries.append((component, use["row"], b, use["data"][i]))
    component, row, column, value = ([e[i] for e in entries] for i in range(4))
    return Cells(
        _ints(component), _ints(row), _ints(column), _floats(value), _ints(numbers)
    )


def _normals(parameters: Mapping[str, Parameter]) -> Normals:
    """Auxiliary measurements whose width is given."""
    found = [p for p in parameters.values() if p.kind in ("alpha", "lumi")]
    return Normals(
        _ints([p.first for p in found]),
        _floats([p.centre for p in found]),
        _floats([p.width for p in found]),
    )


def _ints(values: Any) -> Any:
    return jnp.asarray(np.asarray(values, int))


def _floats(values: Any) -> Any:
    return jnp.asarray(np.asarray(values, float), float)
