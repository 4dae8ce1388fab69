"""The command line: `kythera list | new | sensitivity | optimise | show | report | cite`."""

import contextlib
import json
import os
import shlex
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.exceptions import TyperException

from kythera import __version__, errors

# Threads of OpenBLAS spin while they wait for each other: on a busy machine they made
# searches with small matrices (LBFGSB, CMA-ES) 20 to 130 times slower. It reads this once,
# when NumPy is imported, as the next line does; what the user has set stays.
if not {"OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS", "OMP_NUM_THREADS"} & set(
    os.environ
):
    os.environ["OPENBLAS_NUM_THREADS"] = "1"

from kythera.runs import instruments, spec

if TYPE_CHECKING:
    from kythera.core.problem import Problem
    from kythera.report.progress import Progress

FAILED, REFUSED, ABORTED = 1, 2, 130  # exit codes; 130 as shells have it after Ctrl-C
FALLBACK = spec.Spec(trials=200)  # where nobody sets a budget

app = typer.Typer(
    name="kythera",
    help="End-to-end optimisation of instruments that measure radiation.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

NAME_HELP = "An instrument of `kythera list`, or package.module:problem."
SET_HELP = (
    "A keyword of the instrument, a leaf of its design, or events: planes=6, "
    "'z[0]=5 cm', events=2000. Repeatable."
)
Name = Annotated[str, typer.Argument(help=NAME_HELP)]
File = Annotated[Path, typer.Argument(help="Folder of a result, or its result.json.")]
Set = Annotated[list[str] | None, typer.Option("--set", help=SET_HELP)]
Device = Annotated[str | None, typer.Option(help="cpu, gpu or tpu.")]
Seed = Annotated[int | None, typer.Option(help="Of all random numbers. Default: 1.")]
Engine = Annotated[
    str | None,
    typer.Option(help="Gradient engine: pathwise, score_function, finite_difference."),
]


def _version(asked: bool) -> None:
    if asked:
        print(f"kythera {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True)
    ] = False,
) -> None:
    pass


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
    rows: Annotated[int, typer.Option(help="Parameters that are shown.")] = 40,
) -> None:
    """Rank the parameters by how much they matter at the start."""
    instrument = instruments.find(name)
    given = spec.parse_settings(settings or [])
    _prepare_jax(device)
    import jax

    from kythera.sensitivity import sensitivity as find_sensitivity

    problem = instruments.build(instrument, given)
    engine = spec.make("estimator", estimator) if estimator else None
    found = find_sensitivity(
        problem,
        engine,
        key=jax.random.key(_checked_seed(seed)),
        replicas=replicas,
    )
    print(found.table(rows))


@app.command()
def optimise(
    name: Annotated[str | None, typer.Argument(help=NAME_HELP)] = None,
    optimiser: Annotated[
        str | None,
        typer.Option(help="adam, sgd, lbfgsb, evolution, random, ...: adam:step=0.05."),
    ] = None,
    estimator: Engine = None,
    events: Annotated[
        float | None, typer.Option(help="Primaries that the search may simulate.")
    ] = None,
    trials: Annotated[
        int | None, typer.Option(help="Designs that it may look at.")
    ] = None,
    seconds: Annotated[
        float | None, typer.Option(help="Time after which it asks for no new design.")
    ] = None,
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
) -> None:
    """Optimise an instrument; write the result and its report.

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
        report_rows=report_rows,
        seed=seed,
        device=device,
        out=None if out is None else str(out),
        set=spec.parse_settings(settings or []),
    )
    asked = typed.over(spec.from_toml(file)) if file else typed
    if asked.instrument is None:
        raise errors.InputError(
            "A run needs an instrument, but none was named. "
            f"Known: {', '.join(instruments.available())}."
        )
    with _Stop() as stop:
        code = _optimise(asked, stop)
    raise typer.Exit(code)


def _optimise(asked: spec.Spec, stop: "_Stop") -> int:
    """Check everything, claim the folder, run, write; the exit code."""
    from kythera.report import progress
    from kythera.runs import folder

    instrument = instruments.find(asked.instrument or "")
    where = f"`defaults` of '{instrument.reference.partition(':')[0]}'"
    wanted = asked.over_defaults(spec.from_mapping(instrument.defaults, where))
    if not any(wanted.budget.values()):
        wanted = wanted.over(FALLBACK)
    if wanted.report_rows is not None and wanted.report_rows < 1:
        raise errors.InputError(
            f"`report_rows` must be at least 1, but is {wanted.report_rows}. Leave it "
            "out for the default."
        )
    seed = _checked_seed(wanted.seed)
    _prepare_jax(wanted.device)
    problem = instruments.build(instrument, wanted.set)
    wanted = wanted.over(spec.Spec(optimiser=_default_optimiser(problem), seed=seed))
    search, engine = _engines(problem, wanted)
    claimed = (
        folder.claim(Path(wanted.out))
        if wanted.out
        else folder.claim_next(Path("results"), problem.name)
    )
    show = progress.Progress(
        progress.console(),
        wanted.budget,
        engine.price(problem),
        problem.space.start,
        lambda: stop.asked,
    )
    try:
        with stop.patient():
            failure = _run(problem, search, engine, wanted, show, claimed.path)
    except BaseException:
        claimed.release()
        raise
    return ABORTED if stop.asked else FAILED if failure else 0


def _engines(problem: "Problem", wanted: spec.Spec) -> tuple[Any, Any]:
    """Optimiser and estimator as they were asked for."""
    from kythera.optimise import default_estimator

    search = spec.make("optimiser", wanted.optimiser or "")
    if wanted.estimator:
        return search, spec.make("estimator", wanted.estimator)
    return search, default_estimator(problem, search)


def _run(
    problem: "Problem",
    search: Any,
    engine: Any,
    wanted: spec.Spec,
    show: "Progress",
    path: Path,
) -> str:
    """Optimise, print the table, write result and report; why the last one failed."""
    import jax

    from kythera.optimise import optimise as run
    from kythera.report.page import report as write_report
    from kythera.runs.describe import describe
    from kythera.runs.result import write

    with show:
        solution = run(
            problem,
            search,
            engine,
            key=jax.random.key(wanted.seed or 0),
            max_events=wanted.events,
            max_trials=wanted.trials,
            max_seconds=wanted.seconds,
            callbacks=[show],
            report_events=wanted.report_rows,
        )
    found = describe(
        solution,
        reference=wanted.instrument or "",
        settings=wanted.set,
        command=_command(wanted),
        budget=wanted.budget,
        optimiser=wanted.optimiser or "",
        estimator=wanted.estimator or "",
    )
    print(found.table())
    write(found, path)
    if found.record["drawing_failed"]:
        _say(f"no drawings of the instrument: {found.record['drawing_failed']}")
    print(f"result  {path}")
    print(f"report  {write_report(found, path / 'report.html')}", flush=True)
    return solution.failure


@app.command()
def show(
    file: File,
    as_json: Annotated[
        bool, typer.Option("--json", help="As JSON, parameters in their units.")
    ] = False,
    rows: Annotated[int, typer.Option(help="Parameters that are shown.")] = 40,
) -> None:
    """Print a result: the table, or JSON."""
    from kythera.runs.result import load

    found = load(file)
    if as_json:
        print(json.dumps(found.summary(), indent=1))
    else:
        seed, date = found.record["seed"], found.record["date"]
        print(f"{found.instrument}, seed {seed}, {date}")
        print(found.table(rows))


@app.command()
def report(
    file: File,
    out: Annotated[
        Path | None,
        typer.Option(help="The page. Default: report.html beside the result."),
    ] = None,
) -> None:
    """Write the report of a result: one self-contained HTML page."""
    from kythera.report.page import report as write_report
    from kythera.runs.result import load

    found = load(file)
    assert found.folder is not None
    print(write_report(found, out or found.folder / "report.html"))


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
    _prepare_jax(None)
    return instruments.build(instrument, {}).references()


def _default_optimiser(problem: "Problem") -> str:
    """Adam where a gradient is cheap, evolution elsewhere."""
    from kythera.estimators.finite_difference import FiniteDifference
    from kythera.optimise import gradient_estimator

    dear = isinstance(gradient_estimator(problem), FiniteDifference)
    return "evolution" if dear else "adam"


def _checked_seed(seed: int | None) -> int:
    if seed is None:
        return 1
    if not 0 <= seed < 2**32:
        raise errors.InputError(
            f"A seed must be a whole number in [0, 2^32), but is {seed}. Try 1."
        )
    return seed


def _command(wanted: spec.Spec) -> str:
    """The line that repeats a run."""
    words = ["kythera", "optimise", wanted.instrument or ""]
    for key in (
        "optimiser",
        "estimator",
        *spec.BUDGETS,
        "report_rows",
        "device",
        "seed",
    ):
        value = getattr(wanted, key)
        if value is not None:
            words += [f"--{key.replace('_', '-')}", spec.written(value)]
    for name, value in wanted.set.items():
        words += ["--set", f"{name}={spec.written(value)}"]
    return shlex.join(words)


def _cache_folder() -> Path:
    """Where a user's caches go on this system."""
    if sys.platform == "win32":
        root = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        root = Path.home() / "Library" / "Caches"
    else:
        root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "kythera" / "jax"


def _prepare_jax(device: str | None) -> None:
    """Choose the device, and keep compiled programs for the next run.

    JAX's own variables win: JAX_COMPILATION_CACHE_DIR names another folder, and
    JAX_ENABLE_COMPILATION_CACHE=false keeps nothing.
    """
    if device is not None and device not in spec.DEVICES:
        raise errors.InputError(
            f"There is no device {device!r}. {errors.nearest(device, spec.DEVICES)}"
        )
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        with contextlib.suppress(OSError, RuntimeError):  # no home, or not writable
            folder = _cache_folder()
            folder.mkdir(parents=True, exist_ok=True)
            os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
    # By default JAX keeps only what took a second to compile, which is little of this.
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
    if device is None:
        return
    import jax

    try:
        jax.config.update("jax_default_device", jax.devices(device)[0])
    except RuntimeError as error:
        raise errors.InputError(
            f"JAX sees no {device}, only: {', '.join(map(str, jax.devices()))}. "
            "Install JAX for it, or leave out --device."
        ) from error


class _Stop:
    """What SIGINT (Ctrl-C) and SIGTERM do.

    Outside `patient` they abort at once. Inside, the first one only asks: the search ends
    after the running trial, and what was computed is written; the second one aborts.
    """

    def __init__(self) -> None:
        self.asked = False
        self._patient = False

    def __enter__(self) -> "_Stop":
        self._old = signal.signal(signal.SIGINT, self._ask)
        signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            _say("aborted")
        signal.signal(signal.SIGINT, self._old)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    @contextlib.contextmanager
    def patient(self) -> Iterator[None]:
        """While something is at hand that must not be lost."""
        self._patient = True
        try:
            yield
        finally:
            self._patient = False

    def _ask(self, *_: Any) -> None:
        if self.asked or not self._patient:
            raise KeyboardInterrupt
        self.asked = True
        if not sys.stderr.isatty():  # a terminal has the live line
            os.write(2, b"kythera: stopping after this trial; once more to abort\n")


def _say(line: str) -> None:
    print(f"kythera: {line}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _plain_warnings() -> Iterator[None]:
    """Warnings as one line each, without the source line that raised them."""
    import warnings

    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: _say(f"warning: {message}")
        yield


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; a user's mistake ends in one message and exit code 2."""
    try:
        with _plain_warnings():
            code = app(args=arguments, prog_name="kythera", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except errors.KytheraError as error:
        _say(str(error))
        return REFUSED
    except TyperException as error:
        _say(error.format_message())
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return ABORTED
    except BrokenPipeError:  # `kythera show | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


if __name__ == "__main__":
    sys.exit(main())
