"""Searches: `kythera optimise | resume`."""

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kythera import errors
from kythera.cli.base import (
    NAME_HELP,
    Device,
    Engine,
    Files,
    Named,
    Run,
    Seed,
    Set,
    Stop,
    StorePath,
    User,
    app,
    open_store,
    open_study,
    prepare_jax,
    say,
)
from kythera.cli.plan import Plan, over_source, with_defaults
from kythera.cli.running import in_folder, in_store
from kythera.runs import spec
from kythera.runs.run_spec import PLACE

if TYPE_CHECKING:
    from kythera.runs.store import Store
    from kythera.runs.study import Study

COUNTED = ("cpu_seconds", "price")  # limits that only a store counts

Events = Annotated[
    float | None, typer.Option(help="Primaries that the search may simulate.")
]
Trials = Annotated[int | None, typer.Option(help="Designs that it may look at.")]
Seconds = Annotated[
    float | None, typer.Option(help="Time after which it asks for no new design.")
]
CpuSeconds = Annotated[
    float | None, typer.Option(help="CPU time of this process and all workers.")
]
Price = Annotated[
    float | None, typer.Option("--max-price", help="With --price-per-hour.")
]
Hourly = Annotated[float | None, typer.Option(help="Price of one CPU for an hour.")]
Executor = Annotated[
    str | None,
    typer.Option(
        help="Where designs are evaluated: local, dask:workers=2, "
        "dask:address=tcp://host:8786, slurm:jobs=4,cores=1, htcondor:..., pbs:..., "
        "kubernetes:..."
    ),
]
TrackerText = Annotated[
    str | None,
    typer.Option(
        "--tracker", help="Show it in mlflow, wandb, comet or tensorboard as well."
    ),
]


@app.command()
def optimise(
    name: Annotated[str | None, typer.Argument(help=NAME_HELP)] = None,
    optimiser: Annotated[
        str | None,
        typer.Option(help="adam, sgd, lbfgsb, evolution, random, ...: adam:step=0.05."),
    ] = None,
    estimator: Engine = None,
    events: Events = None,
    trials: Trials = None,
    seconds: Seconds = None,
    cpu_seconds: CpuSeconds = None,
    max_price: Price = None,
    price_per_hour: Hourly = None,
    report_rows: Annotated[
        int | None,
        typer.Option(help="Rows of the final measurement. Default: 8 evaluations."),
    ] = None,
    seed: Seed = None,
    device: Device = None,
    settings: Set = None,
    file: Annotated[
        Path | None,
        typer.Option("--spec", help="TOML with these options; the command line wins."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the result. Default: results/NAME-1, -2, ..."),
    ] = None,
    store: StorePath = None,
    files: Files = None,
    user: User = None,
    study: Annotated[
        str | None,
        typer.Option("--name", help="Of the study in the store. Default: NAME-1, -2."),
    ] = None,
    go_on: Annotated[
        bool, typer.Option("--resume", help="Go on where the study has begun before.")
    ] = False,
    start: Annotated[
        str | None,
        typer.Option(
            help="STUDY or STUDY:TRIAL of the store, to start from its design."
        ),
    ] = None,
    freeze: Annotated[
        list[str] | None,
        typer.Option(help="A leaf of the design that stays as it is. Repeatable."),
    ] = None,
    executor: Executor = None,
    in_flight: Annotated[
        int | None,
        typer.Option(
            help="Designs under way at any time, told as they come back. Default: batches."
        ),
    ] = None,
    tracker: TrackerText = None,
) -> None:
    """Optimise an instrument; write the result and its report, or keep it in a store.

    Ctrl-C (or SIGTERM) stops after the running trial and keeps what was computed, with
    exit code 130; once more aborts at once. Code 1: the final measurement failed.
    """
    typed = spec.Spec(
        instrument=name,
        optimiser=optimiser,
        estimator=estimator,
        events=events,
        trials=trials,
        seconds=seconds,
        cpu_seconds=cpu_seconds,
        price=max_price,
        price_per_hour=price_per_hour,
        report_rows=report_rows,
        seed=seed,
        device=device,
        out=None if out is None else str(out),
        store=store,
        files=files,
        name=study,
        start=start,
        freeze=freeze or None,
        executor=executor,
        in_flight=in_flight,
        tracker=tracker,
        set=spec.parse_settings(settings or []),
    )
    asked = typed.over(spec.from_toml(file)) if file else typed
    kept = (
        open_store(asked.store, asked.files, user, create=True) if asked.store else None
    )
    with Stop() as stop:
        if kept is not None and go_on and _begun(kept, asked.name):
            code = _go_on(_begun(kept, asked.name), asked, stop)
        else:
            code = _begin(asked, kept, stop)
    raise typer.Exit(code)


@app.command()
def resume(
    name: Named,
    events: Events = None,
    trials: Trials = None,
    seconds: Seconds = None,
    cpu_seconds: CpuSeconds = None,
    max_price: Price = None,
    price_per_hour: Hourly = None,
    device: Device = None,
    run: Run = 1,
    store: StorePath = None,
    files: Files = None,
    user: User = None,
    executor: Executor = None,
    tracker: TrackerText = None,
) -> None:
    """Go on with a study that was interrupted, within the limits that it had last.

    A limit that is given replaces the one of that name; the others stay.

    The trials are, bit for bit, those of a search that was never interrupted. Exit codes
    are those of `optimise`.
    """
    asked = spec.Spec(
        events=events,
        trials=trials,
        seconds=seconds,
        cpu_seconds=cpu_seconds,
        price=max_price,
        price_per_hour=price_per_hour,
        device=device,
        executor=executor,
        tracker=tracker,
    )
    study = open_study(name, store, files, user)
    with Stop() as stop:
        code = _go_on(study, asked, stop, run)
    raise typer.Exit(code)


def _begin(asked: spec.Spec, kept: "Store | None", stop: Stop) -> int:
    """Check everything, claim the place, run, write; the exit code."""
    from kythera.runs.run_spec import RunSpec, find_start

    begins = None
    if asked.start is not None:
        if kept is None:
            raise errors.InputError(
                f"--start {asked.start} names a study, but no store. Give --store."
            )
        begins = find_start(kept, asked.start)
        asked = over_source(asked, begins[0])
    wanted = with_defaults(asked)
    if kept is None and any(getattr(wanted, name) for name in COUNTED):
        raise errors.InputError(
            "CPU time and price are counted in a store, but none is named. Give --store "
            "runs.db, or limit --events, --trials or --seconds."
        )
    prepare_jax(wanted.device)
    plan = Plan.of(RunSpec.of(wanted, begins), wanted)
    if kept is not None:
        return in_store(plan, lambda: _new_study(kept, plan), stop, fresh=True)
    return in_folder(plan, stop)


def _check_same(name: str, then: spec.Spec, asked: spec.Spec) -> None:
    """Refuse to go on with a study as something else."""
    theirs, ours = dict(vars(then)), dict(vars(asked))
    changed = {f"set {k}": (then.set.get(k), v) for k, v in ours.pop("set").items()}
    free = (*PLACE, *spec.BUDGETS, "price_per_hour", "start")
    changed |= {k: (theirs[k], v) for k, v in ours.items() if k not in free}
    for key, (before, now) in changed.items():
        if now is not None and now != before:
            raise errors.InputError(
                f"The study {name!r} has {key} = {before}, but {now} was asked for. Leave "
                "it out to go on, or give another --name."
            )


def _begun(kept: "Store", name: str | None) -> Any:
    """The user's study of that name, if there is one."""
    from kythera.runs.study import Study

    mine = [s for s in Study.list(kept) if s.user == kept.user and s.name == name]
    return mine[0] if mine else None


def _new_study(kept: "Store", plan: Plan) -> "Study":
    """Begin a study, of the name that was asked for or the first one that is free."""
    from kythera.runs.describe import describe_space
    from kythera.runs.study import Study

    name, number = plan.wanted.name, 0
    while name is None:
        number += 1
        free = f"{plan.problem.name}-{number}"
        name = None if _begun(kept, free) else free
    return Study.create(
        kept,
        name,
        instrument=plan.problem.name,
        spec=plan.about.plain(),
        space=describe_space(plan.problem.space),
    )


def _go_on(study: "Study", asked: spec.Spec, stop: Stop, run: int = 1) -> int:
    """Rebuild what a study is about and go on with it, within its last limits."""
    from kythera.runs.environment import differences, environment
    from kythera.runs.run_spec import RunSpec

    rebuilt = RunSpec.read(study.spec)
    here = {k: v for k, v in vars(asked).items() if v is not None}
    given = {k: v for k, v in here.items() if k in (*spec.BUDGETS, "price_per_hour")}
    then = rebuilt.settings
    _check_same(study.name, then, asked)
    for row in study.runs():
        if row["number"] == run:
            last = json.loads(row["limits"]) | {"price_per_hour": row["price_per_hour"]}
            then = dataclasses.replace(then, **last)
    place = {k: here[k] for k in ("executor", "tracker", "out", "device") if k in here}
    wanted = dataclasses.replace(then, **given, **place)
    prepare_jax(wanted.device)
    changed = differences(
        rebuilt.environment, environment(rebuilt.environment["reference"])
    )
    if changed:
        say(f"what follows may differ in its bits: {', '.join(changed)}")
    return in_store(Plan.of(rebuilt, wanted), lambda: study, stop, run)
