"""What was kept: `kythera studies | show | report | compare | replay | share | delete`."""

import datetime
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from kythera import errors
from kythera.cli.base import (
    FAILED,
    AsJson,
    Files,
    Named,
    Rows,
    Run,
    StorePath,
    User,
    What,
    app,
    open_store,
    open_study,
    prepare_jax,
    read,
)
from kythera.runs.result import Number


@app.command()
def studies(
    store: StorePath = None,
    files: Files = None,
    user: User = None,
    as_json: AsJson = False,
) -> None:
    """List the studies that one may read, and their runs."""
    from kythera.runs.study import Study

    found = [
        _line(study, row)
        for study in Study.list(open_store(store, files, user))
        for row in study.runs() or [{}]
    ]
    if as_json:
        print(json.dumps(found, indent=1))
        return
    wide = max((len(f["study"]) for f in found), default=0)
    for line in found:
        print(
            f"{line['study']:{wide}}  run {line['run']}  {line['state']:9} "
            f"{line['trials']:6,} trials  {line['gain'] or line['reason'] or '':24} "
            f"{line['instrument']}, begun {line['begun']}"
        )


def _line(study: Any, row: dict[str, Any]) -> dict[str, Any]:
    """What a list shows of one run."""
    record = json.loads(row.get("record") or "{}")
    gain = Number.of(record["gain"]) if record else None
    known = gain is not None and gain.value == gain.value
    mine = study.user == study.store.user
    begun = datetime.datetime.fromtimestamp(study.created, datetime.UTC)
    return {
        "study": study.name if mine else f"{study.user}/{study.name}",
        "instrument": study.instrument,
        "run": row.get("number", 0),
        "state": row.get("state", "not begun"),
        "reason": row.get("reason", ""),
        "holder": row.get("holder", ""),
        "trials": study.count(row["number"]) if row else 0,
        "cpu_seconds": row.get("cpu_seconds", 0.0),
        "gain": f"gain {gain}" if known else None,
        "begun": begun.isoformat(timespec="seconds"),
    }


@app.command()
def show(
    what: What,
    run: Run = 1,
    store: StorePath = None,
    files: Files = None,
    user: User = None,
    as_json: AsJson = False,
    rows: Rows = 40,
) -> None:
    """Print a result or a study: the table, or JSON with parameters in their units."""
    found = read(what, store, files, user, run)
    if as_json:
        print(json.dumps(found.summary(), indent=1))
    else:
        seed, date = found.record["seed"], found.record["date"]
        print(f"{found.instrument}, seed {seed}, {date}")
        print(found.table(rows))


@app.command()
def report(
    what: What,
    out: Annotated[
        Path | None,
        typer.Option(help="The page. Default: report.html beside the result."),
    ] = None,
    run: Run = 1,
    store: StorePath = None,
    files: Files = None,
    user: User = None,
) -> None:
    """Write the report of a result or a study: one self-contained HTML page."""
    from kythera.report.page import report as write_report

    found = read(what, store, files, user, run)
    if out is None and found.folder is None:
        raise errors.InputError(
            f"The report of the study {what!r} needs a place. Give --out report.html."
        )
    print(write_report(found, out or (found.folder or Path()) / "report.html"))


@app.command()
def compare(
    what: Annotated[list[str], typer.Argument(metavar="FILE|STUDY...")],
    store: StorePath = None,
    files: Files = None,
    user: User = None,
    as_json: AsJson = False,
) -> None:
    """Compare results or studies: engines, events, losses and gains side by side."""
    rows = []
    for name in what:
        found = read(name, store, files, user, 1)
        losses = {k: Number.of(found.quoted[k]) for k in ("start", "best", "gain")}
        rows.append(
            {
                "name": name,
                "instrument": found.instrument,
                "optimiser": found.record["optimiser"]["option"]
                or found.record["optimiser"]["name"],
                "estimator": found.record["estimator"]["option"]
                or found.record["estimator"]["name"],
                "trials": len(found.trials["number"]),
                "events": found.events,
                "seconds": found.record["seconds"],
                **{k: found.quoted[k] for k in losses},
            }
        )
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    wide = max(len(row["name"]) for row in rows)
    engine = max(len(f"{row['optimiser']} + {row['estimator']}") for row in rows)
    print(
        f"{'':{wide}}  {'engine':{engine}} {'trials':>7} {'events':>14} "
        f"{'start':>18} {'best':>18} {'gain':>18}"
    )
    for row in rows:
        numbers = [str(Number.of(row[k])) for k in ("start", "best", "gain")]
        pair = f"{row['optimiser']} + {row['estimator']}"
        print(
            f"{row['name']:{wide}}  {pair:{engine}} {row['trials']:7,} "
            f"{row['events']:14,} " + " ".join(f"{n:>18}" for n in numbers)
        )
    if len({row["instrument"] for row in rows}) > 1:
        print("These are different instruments: their losses cannot be compared.")


@app.command()
def replay(
    name: Named,
    trial: Annotated[int, typer.Argument(help="Number of the trial, from 0.")],
    run: Run = 1,
    store: StorePath = None,
    files: Files = None,
    user: User = None,
) -> None:
    """Recompute a trial: is it bit-identical? Exit code 1 where it is not."""
    from kythera.runs.replay import replay as recompute
    from kythera.runs.run_spec import RunSpec

    study = open_study(name, store, files, user)
    prepare_jax(RunSpec.read(study.spec).settings.device)
    found = recompute(study, trial, run)
    print(found)
    raise typer.Exit(0 if found.identical else FAILED)


@app.command()
def share(
    name: Named,
    reader: Annotated[str, typer.Argument(metavar="USER")],
    store: StorePath = None,
    files: Files = None,
    user: User = None,
) -> None:
    """Let another user read a study."""
    open_study(name, store, files, user).share(reader)


@app.command()
def delete(
    name: Named,
    again: Annotated[
        str | None, typer.Option("--name", help="Its name once more, to be sure.")
    ] = None,
    store: StorePath = None,
    files: Files = None,
    user: User = None,
) -> None:
    """Delete a study with all that it kept."""
    study = open_study(name, store, files, user)
    if again is None:
        again = typer.prompt(f"Type {study.name!r} to delete it", prompt_suffix=": ")
    study.delete(name=str(again))
