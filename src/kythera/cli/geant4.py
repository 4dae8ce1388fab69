"""Geant4: `kythera geant4 tables`."""

from pathlib import Path
from typing import Annotated

import typer

from kythera import errors
from kythera.cli.base import app

geant4 = typer.Typer(no_args_is_help=True, help="Prepare Geant4.")
app.add_typer(geant4, name="geant4")


@geant4.callback()
def _group() -> None:
    """Prepare Geant4."""


@geant4.command()
def tables(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Is made: 6 MB.")],
) -> None:
    """Make the tables that Geant4 needs from formulas, where its data sets are not at hand.

    What is simulated with them is "Geant4 with generated EM tables", an approximation.
    """
    from kythera.physics.geant4_tables import NAME, write

    try:
        write(folder)
    except OSError as error:
        raise errors.InputError(
            f"Tables need a folder that can be written, but: {error}. Give another one."
        ) from error
    print(f"{NAME}: {folder}")
    print(f"To use them: export GEANT4_DATA_DIR={folder.resolve()}")
