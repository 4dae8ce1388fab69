"""A search that runs: in a store or into a folder."""

import contextlib
import json
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from kythera import errors
from kythera.cli.base import ABORTED, FAILED, Stop, say
from kythera.cli.plan import SHOWN, Plan
from kythera.runs import folder
from kythera.runs.store import plain_address

if TYPE_CHECKING:
    from kythera.report.progress import Progress
    from kythera.runs.executors import AbstractExecutor
    from kythera.runs.result import Result
    from kythera.runs.study import Study
    from kythera.solution import Solution


def in_store(
    plan: Plan,
    open_it: Callable[[], "Study"],
    stop: Stop,
    run: int = 1,
    *,
    fresh: bool = False,
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
        with _progress(plan, stop) as show, _safe(study, show, fresh):
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
        print(f"store   {plain_address(study.store.address)}")
        out = Path(wanted.out) if wanted.out else None
        page = _write(found, folder.claim(out).path) if out else None
        for tracker in tracked:
            tracker.end(found, report=page)
    return _code(stop, solution)


@contextlib.contextmanager
def _safe(study: "Study", show: "Progress", fresh: bool) -> Iterator[None]:
    """What was refused leaves no study; a store that is lost leaves what it holds."""
    try:
        yield
    except errors.KytheraError as error:
        if show.trial is None:  # refused, or another process holds it
            if fresh and not any(study.count(row["number"]) for row in study.runs()):
                study.delete(name=study.name)
            raise
        broken = isinstance(error, errors.SimulationError)
        then = "" if broken else f" Then: kythera resume {shlex.quote(study.name)}"
        say(f"{error}{then}")
        raise typer.Exit(FAILED) from error


def in_folder(plan: Plan, stop: Stop) -> int:
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
def _progress(plan: Plan, stop: Stop) -> Iterator["Progress"]:
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
    plan: Plan, stack: contextlib.ExitStack, name: str, ids: dict[str, str]
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
