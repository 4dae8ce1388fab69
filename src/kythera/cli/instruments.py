"""Instruments: `kythera list | new | sensitivity | cite`."""

from pathlib import Path
from typing import Annotated

import typer

from kythera.cli.base import (
    Device,
    Engine,
    Name,
    Rows,
    Seed,
    Set,
    app,
    checked_seed,
    prepare_jax,
)
from kythera.runs import instruments, spec


@app.command("list")
def list_instruments() -> None:
    """List the instruments that are installed."""
    known = instruments.available()
    width = max(map(len, known), default=0)
    for name, reference in known.items():
        print(f"{name:<{width}}  {instruments.summary(reference) or reference}")


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="Of the instrument: a Python name.")],
) -> None:
    """Write a runnable skeleton of an instrument into a new folder NAME."""
    from kythera.runs import skeleton

    folder = skeleton.write(name, Path())
    print(f"Wrote {folder}. Next:\n")
    print(f"  cd {folder}\n  kythera optimise {name}.problem:problem")
    print("  python -m pytest")


@app.command()
def sensitivity(
    name: Name,
    estimator: Engine = None,
    replicas: Annotated[int, typer.Option(help="Independent repetitions.")] = 8,
    settings: Set = None,
    seed: Seed = None,
    device: Device = None,
    rows: Rows = 40,
) -> None:
    """Rank the parameters by how much they matter at the start."""
    instrument = instruments.find(name)
    given = spec.parse_settings(settings or [])
    prepare_jax(device)
    import jax

    from kythera.sensitivity import sensitivity as find_sensitivity

    problem = instruments.build(instrument, given)
    engine = spec.make("estimator", estimator) if estimator else None
    found = find_sensitivity(
        problem,
        engine,
        key=jax.random.key(checked_seed(seed)),
        replicas=replicas,
    )
    print(found.table(rows))


@app.command()
def cite(
    what: Annotated[
        str | None, typer.Argument(metavar="[NAME|FILE]", help="Instrument or result.")
    ] = None,
) -> None:
    """Print the references of kythera, and of what an instrument or a result used."""
    from kythera.runs.citation import REFERENCES

    references = dict.fromkeys(REFERENCES)
    if what is not None:
        references |= dict.fromkeys(_references(what))
    for reference in references:
        print(reference)


def _references(what: str) -> list[str]:
    from kythera.runs.result import load

    if what not in instruments.available() and Path(what).exists():
        return load(what).record["references"]
    instrument = instruments.find(what)
    prepare_jax(None)
    return instruments.build(instrument, {}).references()
