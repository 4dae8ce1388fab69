"""Searches: `kythera optimise | resume`."""

import contextlib
import dataclasses
import json
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kythera import errors
from kythera.cli.base import (
    ABORTED,
    FAILED,
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
    checked_seed,
    open_store,
    open_study,
    prepare_jax,
    say,
)
from kythera.runs import folder, instruments, spec

if TYPE_CHECKING:
    from kythera.core.problem import Problem
    from kythera.report.progress import Progress
    from kythera.runs.executors import AbstractExecutor
    from kythera.runs.result import Result
    from kythera.runs.run_spec import RunSpec
    from kythera.runs.store import Store
    from kythera.runs.study import Study
    from kythera.solution import Solution

FALLBACK = spec.Spec(trials=200)  # where nobody sets a budget
SHOWN = ("events", "trials", "seconds")  # limits that the progress line counts
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
    """Go on with a study that was interrupted; limits that are given replace its own.

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


@dataclasses.dataclass(frozen=True)
class _Plan:
    """A search, checked and ready.

    Args:
        about: what rebuilds it.
        wanted: its settings and those of this place.
        problem, search, engine: made from them.
    """

    about: "RunSpec"
    wanted: spec.Spec
    problem: "Problem"
    search: Any
    engine: Any

    @classmethod
    def of(cls, rebuilt: "RunSpec", wanted: spec.Spec) -> "_Plan":
        """Build all parts."""
        problem = rebuilt.problem()
        if wanted.optimiser is None:
            wanted = wanted.over(spec.Spec(optimiser=_default_optimiser(problem)))
        rebuilt = dataclasses.replace(rebuilt, settings=wanted)
        return cls(rebuilt, wanted, problem, *rebuilt.engines(problem))

    @property
    def context(self) -> dict[str, Any]:
        """What a record says of it."""
        return {
            "reference": self.wanted.instrument or "",
            "settings": self.wanted.set,
            "command": _command(self.wanted),
            "optimiser_option": self.wanted.optimiser or "",
            "estimator_option": self.wanted.estimator or "",
        }

    @property
    def limits(self) -> dict[str, Any]:
        """Those that `optimise` takes."""
        return {f"max_{name}": getattr(self.wanted, name) for name in SHOWN}

    def key(self) -> Any:
        """The root of all random numbers."""
        import jax

        return jax.random.key(self.wanted.seed or 0)


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
        asked = _over_source(asked, begins[0])
    wanted = _with_defaults(asked)
    if kept is None and any(getattr(wanted, name) for name in COUNTED):
        raise errors.InputError(
            "CPU time and price are counted in a store, but none is named. Give --store "
            "runs.db, or limit --events, --trials or --seconds."
        )
    prepare_jax(wanted.device)
    plan = _Plan.of(RunSpec.of(wanted, begins), wanted)
    if kept is not None:
        return _in_store(plan, lambda: _new_study(kept, plan), stop)
    return _in_folder(plan, stop)


def _over_source(asked: spec.Spec, source: "Study") -> spec.Spec:
    """What was asked for, about the instrument of another study."""
    theirs = source.spec.get("settings", {})
    mine = {k: theirs[k] for k in ("instrument", "set") if k in theirs}
    if asked.instrument not in (None, mine.get("instrument")):
        return asked
    return asked.over(spec.from_mapping(mine, f"the study {source.name!r}"))


def _with_defaults(asked: spec.Spec) -> spec.Spec:
    """Over the instrument's own, and ours."""
    if asked.instrument is None:
        raise errors.InputError(
            "A run needs an instrument, but none was named. "
            f"Known: {', '.join(instruments.available())}."
        )
    instrument = instruments.find(asked.instrument)
    where = f"`defaults` of '{instrument.reference.partition(':')[0]}'"
    wanted = asked.over_defaults(spec.from_mapping(instrument.defaults, where))
    if not any(wanted.budget.values()):
        wanted = wanted.over(FALLBACK)
    if wanted.report_rows is not None and wanted.report_rows < 1:
        raise errors.InputError(
            f"`report_rows` must be at least 1, but is {wanted.report_rows}. Leave it "
            "out for the default."
        )
    return dataclasses.replace(wanted, seed=checked_seed(wanted.seed))


def _begun(kept: "Store", name: str | None) -> Any:
    """The user's study of that name, if there is one."""
    from kythera.runs.study import Study

    mine = [s for s in Study.list(kept) if s.user == kept.user and s.name == name]
    return mine[0] if mine else None


def _new_study(kept: "Store", plan: _Plan) -> "Study":
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
    """Rebuild what a study is about and go on with it."""
    from kythera.runs.environment import differences, environment
    from kythera.runs.run_spec import RunSpec

    rebuilt = RunSpec.read(study.spec)
    here = {k: v for k, v in vars(asked).items() if v is not None}
    given = {k: v for k, v in here.items() if k in (*spec.BUDGETS, "price_per_hour")}
    then = rebuilt.settings
    if any(k in given for k in spec.BUDGETS):
        then = dataclasses.replace(then, **dict.fromkeys(spec.BUDGETS))
    place = {k: here[k] for k in ("executor", "tracker", "out", "device") if k in here}
    wanted = dataclasses.replace(then, **given, **place)
    prepare_jax(wanted.device)
    changed = differences(
        rebuilt.environment, environment(rebuilt.environment["reference"])
    )
    if changed:
        say(f"what follows may differ in its bits: {', '.join(changed)}")
    return _in_store(_Plan.of(rebuilt, wanted), lambda: study, stop, run)


def _in_store(
    plan: _Plan, open_it: Callable[[], "Study"], stop: Stop, run: int = 1
) -> int:
    """Search, keep it, print the table; the exit code."""
    from kythera.runs import trackers
    from kythera.runs.session import search

    wanted = plan.wanted
    if wanted.tracker:
        trackers.make(wanted.tracker)  # refused before a study begins
    with contextlib.ExitStack() as stack:
        workers = stack.enter_context(_executor(wanted.executor))
        study = open_it()
        begun = [row for row in study.runs() if row["number"] == run]
        ids = json.loads(begun[0]["tracker"]) if begun else {}
        tracked = _tracker(plan, stack, study.name, ids)
        stack.enter_context(stop.patient())
        with _progress(plan, stop) as show, _safe(study, show):
            solution = search(
                study,
                plan.problem,
                plan.search,
                plan.engine,
                key=plan.key(),
                run=run,
                executor=workers,
                **plan.limits,
                max_cpu_seconds=wanted.cpu_seconds,
                max_price=wanted.price,
                price_per_hour=wanted.price_per_hour or 0.0,
                callbacks=[show, *tracked],
                report_events=wanted.report_rows,
                in_flight=wanted.in_flight or 0,
                context=plan.context,
                trackers=ids,
            )
        found = study.result(run)
        print(found.table())
        print(f"study   {study.name}, run {run}")
        print(f"store   {study.store.address.render_as_string(hide_password=True)}")
        if wanted.out:
            _write(found, folder.claim(Path(wanted.out)).path)
        for tracker in tracked:
            tracker.end(found)
    return _code(stop, solution)


@contextlib.contextmanager
def _safe(study: "Study", show: "Progress") -> Iterator[None]:
    """What was refused leaves no study; a store that is lost leaves what it holds."""
    try:
        yield
    except (errors.InputError, errors.SpaceError, errors.UnsupportedError):
        if not any(study.count(row["number"]) for row in study.runs()):
            study.delete(name=study.name)
        raise
    except errors.StoreError as error:
        if show.trial is None:  # it never began: another process holds it, say
            raise
        say(f"{error} Then: kythera resume {shlex.quote(study.name)}")
        raise typer.Exit(FAILED) from error


def _in_folder(plan: _Plan, stop: Stop) -> int:
    """Search, print the table, write result and report; the exit code."""
    from kythera.optimise import optimise as search
    from kythera.runs.describe import describe

    wanted = plan.wanted
    claimed = (
        folder.claim(Path(wanted.out))
        if wanted.out
        else folder.claim_next(Path("results"), plan.problem.name)
    )
    try:
        with contextlib.ExitStack() as stack:
            workers = stack.enter_context(_executor(wanted.executor))
            tracked = _tracker(plan, stack, "", {})
            stack.enter_context(stop.patient())
            with _progress(plan, stop) as show:
                solution = search(
                    plan.problem,
                    plan.search,
                    plan.engine,
                    key=plan.key(),
                    **plan.limits,
                    callbacks=[show, *tracked],
                    report_events=wanted.report_rows,
                    in_flight=wanted.in_flight or 0,
                    map=map if workers is None else workers,
                )
            found = describe(solution, **plan.context, budget=wanted.budget)
            print(found.table())
            page = _write(found, claimed.path)
            for tracker in tracked:
                tracker.end(found, report=page)
    except BaseException:
        claimed.release()
        raise
    return _code(stop, solution)


def _write(found: "Result", path: Path) -> Path:
    """Result and report into a folder; the page."""
    from kythera.report.page import report
    from kythera.runs.result import write

    write(found, path)
    if found.record["drawing_failed"]:
        say(f"no drawings of the instrument: {found.record['drawing_failed']}")
    page = report(found, path / "report.html")
    print(f"result  {path}")
    print(f"report  {page}", flush=True)
    return page


def _code(stop: Stop, solution: "Solution") -> int:
    return ABORTED if stop.asked else FAILED if solution.failure else 0


@contextlib.contextmanager
def _executor(text: str | None) -> Iterator["AbstractExecutor | None"]:
    """The executor that was asked for; None for this process."""
    if text is None:
        yield None
        return
    from kythera.runs import executors

    with executors.make(text) as workers:
        yield workers


@contextlib.contextmanager
def _progress(plan: _Plan, stop: Stop) -> Iterator["Progress"]:
    from kythera.report import progress

    shown = progress.Progress(
        progress.console(),
        {name: getattr(plan.wanted, name) for name in SHOWN},
        plan.engine.price(plan.problem),
        plan.problem.space.start,
        lambda: stop.asked,
    )
    with shown:
        yield shown


def _tracker(
    plan: _Plan, stack: contextlib.ExitStack, name: str, ids: dict[str, str]
) -> list[Any]:
    """The tracker that was asked for, begun; its id goes into `ids`."""
    from kythera.runs import trackers
    from kythera.runs.describe import begin

    text = plan.wanted.tracker
    if text is None:
        return []
    kind = text.partition(":")[0]
    tracker = stack.enter_context(trackers.make(text, id=ids.get(kind, "")))
    parts = plan.problem, plan.search, plan.engine, plan.key()
    record = begin(*parts, **plan.context, budget=plan.wanted.budget)
    tracker.begin(record, name=name)
    ids[kind] = tracker.id
    return [tracker]


def _default_optimiser(problem: "Problem") -> str:
    """Adam where a gradient is cheap, evolution elsewhere."""
    from kythera.estimators.finite_difference import FiniteDifference
    from kythera.optimise import gradient_estimator

    dear = isinstance(gradient_estimator(problem), FiniteDifference)
    return "evolution" if dear else "adam"


def _command(wanted: spec.Spec) -> str:
    """The line that repeats a run."""
    options = {
        "optimiser": "optimiser",
        "estimator": "estimator",
        **{name: name for name in (*SHOWN, "cpu_seconds")},
        "price": "max_price",
        "price_per_hour": "price_per_hour",
        "report_rows": "report_rows",
        "in_flight": "in_flight",
        "device": "device",
        "seed": "seed",
        "start": "start",
    }
    words = ["kythera", "optimise", wanted.instrument or ""]
    for key, option in options.items():
        value = getattr(wanted, key)
        if value is not None:
            words += [f"--{option.replace('_', '-')}", spec.written(value)]
    for path in wanted.freeze or ():
        words += ["--freeze", path]
    for name, value in wanted.set.items():
        words += ["--set", f"{name}={spec.written(value)}"]
    return shlex.join(words)
