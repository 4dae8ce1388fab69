"""Stores: `kythera store upgrade | check | usage | allow`."""

import json
from typing import Annotated

import typer

from kythera import errors
from kythera.cli.base import FAILED, AsJson, Files, StorePath, User, app, open_store
from kythera.runs.store import HEAD

stores = typer.Typer(no_args_is_help=True, help="Look after a store.")
app.add_typer(stores, name="store")


@stores.command()
def upgrade(store: StorePath = None, files: Files = None) -> None:
    """Bring the schema of a store to the newest version; nothing is lost."""
    found = open_store(store, files, None, versions=False)
    before = found.version()
    found.upgrade()
    print(f"{found!r}: schema {before or 'none'} -> {HEAD}")


@stores.command()
def check(store: StorePath = None, files: Files = None) -> None:
    """Check that a store is whole: tables, checkpoints, artifacts; exit code 1 if not."""
    from kythera.runs.check import check as find_faults

    found = open_store(store, files, None)
    counts, faults = find_faults(found)
    print(f"{found!r}: " + ", ".join(f"{n:,} {what}" for what, n in counts.items()))
    for fault in faults:
        print(f"  {fault}")
    raise typer.Exit(FAILED if faults else 0)


@stores.command()
def usage(
    store: StorePath = None, files: Files = None, as_json: AsJson = False
) -> None:
    """What each user's runs took: events, CPU time, price, and what is allowed."""
    rows = open_store(store, files, None).usage()
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    print(f"{'user':20} {'runs':>6} {'events':>14} {'CPU hours':>10} {'price':>10}")
    for row in rows:
        print(
            f"{row['user']:20} {row['runs']:6,} {row['events']:14,} "
            f"{row['cpu_seconds'] / 3600:10.2f} {row['price']:10.2f}"
        )
        for name, unit, factor in (
            ("cpu_seconds_limit", "CPU hours", 3600),
            ("price_limit", "of price", 1),
        ):
            if row[name] is not None:
                print(f"{'':20} at most {row[name] / factor:,.2f} {unit}")


@stores.command()
def allow(
    name: Annotated[str, typer.Argument(metavar="USER")],
    cpu_seconds: Annotated[
        float | None, typer.Option(help="Of all runs together. Default: no limit.")
    ] = None,
    price: Annotated[
        float | None, typer.Option(help="Of all runs together. Default: no limit.")
    ] = None,
    store: StorePath = None,
    files: Files = None,
    user: User = None,
) -> None:
    """Limit what all runs of a user may cost; without options, lift the limits."""
    found = open_store(store, files, user)
    if name not in [row["user"] for row in found.usage()]:
        known = [row["user"] for row in found.usage()]
        raise errors.StoreError(
            f"{found!r} knows no user {name!r}. {errors.nearest(name, known)}"
        )
    found.allow(name, cpu_seconds=cpu_seconds, price=price)
