"""Studies for other programs: `kythera export`."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from kythera import errors
from kythera.cli.base import Files, Run, StorePath, User, What, app, read


@app.command()
def export(
    what: What,
    out: Annotated[
        Path | None,
        typer.Option(help="A file .parquet, .csv or .json. Default: JSON is printed."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON (the default without --out).")
    ] = False,
    optuna: Annotated[
        str | None, typer.Option(help="URL of an Optuna storage to write to.")
    ] = None,
    terms: Annotated[
        bool,
        typer.Option("--terms", help="Each term an objective of the Optuna study."),
    ] = False,
    run: Run = 1,
    store: StorePath = None,
    files: Files = None,
    user: User = None,
) -> None:
    """Write the trials of a result or a study, parameters in their units."""
    from kythera.runs import folder, tables

    found = read(what, store, files, user, run)
    if optuna is not None:
        from kythera.runs.trackers.optuna import export as to_optuna

        name = what if found.folder is None else found.folder.resolve().name
        to_optuna(found, optuna, name, terms=terms)
        print(f"study   {name}")
        return
    if out is None or as_json:
        json.dump(tables.plain(found), sys.stdout, indent=1, allow_nan=False)
        print()
        return
    if out.exists():
        raise errors.StoreError(
            f"'{out}' exists and is not overwritten. Give another name."
        )
    folder.write_atomically(out, tables.encode(found, out.suffix))
    print(out)
