"""What all commands share: options, exit codes, the device, the store, signals."""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kythera import __version__, errors
from kythera.runs import spec

if TYPE_CHECKING:
    from kythera.runs.result import Result
    from kythera.runs.store import Store
    from kythera.runs.study import Study

FAILED, REFUSED, ABORTED = 1, 2, 130  # exit codes; 130 as shells have it after Ctrl-C

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
What = Annotated[
    str,
    typer.Argument(
        metavar="FILE|STUDY",
        help="Folder of a result or its result.json; with --store, the name of a study.",
    ),
]
Named = Annotated[
    str, typer.Argument(metavar="STUDY", help="Its name, or USER/NAME of a shared one.")
]
StorePath = Annotated[
    str | None,
    typer.Option(
        envvar="KYTHERA_STORE",
        help="Database of studies: the path of a file, or a PostgreSQL URL.",
    ),
]
Files = Annotated[
    str | None,
    typer.Option(
        envvar="KYTHERA_FILES",
        help="Folder for checkpoints and artifacts. Default: beside the SQLite file.",
    ),
]
User = Annotated[
    str | None,
    typer.Option(envvar="KYTHERA_USER", help="Whose studies. Default: the login name."),
]
Run = Annotated[int, typer.Option(help="Number of the study's run, from 1.")]
AsJson = Annotated[bool, typer.Option("--json", help="As JSON, for scripts.")]
Rows = Annotated[int, typer.Option(help="Parameters that are shown.")]
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


at_the_end = contextlib.ExitStack()  # what `main` closes, however a command ends


def open_store(
    store: str | None, files: str | None, user: str | None, **options: Any
) -> "Store":
    """The store that a command means, to be closed when the command ends.

    Args:
        store: path or URL.
        files: folder for checkpoints and artifacts.
        user: whose studies are meant.
        options: further ones of `Store`; unlike there, none is made unless asked for.

    Raises:
        InputError: none is named.
        StoreError: it cannot be used.
    """
    from kythera.runs.store import Store

    if store is None:
        raise errors.InputError(
            "Studies are kept in a store, but none is named. Give --store runs.db, or set "
            "KYTHERA_STORE."
        )
    options.setdefault("create", False)
    found = Store(store, files=files, user=user, **options)
    at_the_end.callback(found.close)
    return found


def open_study(
    name: str, store: str | None, files: str | None, user: str | None
) -> "Study":
    """A study by its name."""
    from kythera.runs.study import Study

    return Study.open(open_store(store, files, user), name)


def read(
    what: str, store: str | None, files: str | None, user: str | None, run: int
) -> "Result":
    """A result: a folder that is there, else a study of the store."""
    from kythera.runs.result import load

    if store is None or Path(what).exists():
        return load(what)
    return open_study(what, store, files, user).result(run)


def checked_seed(seed: int | None) -> int:
    """The seed, 1 where none is given.

    Raises:
        InputError: it is no key's.
    """
    if seed is None:
        return 1
    if not 0 <= seed < 2**32:
        raise errors.InputError(
            f"A seed must be a whole number in [0, 2^32), but is {seed}. Try 1."
        )
    return seed


def _cache_folder() -> Path:
    """Where a user's caches go on this system."""
    if sys.platform == "win32":
        root = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        root = Path.home() / "Library" / "Caches"
    else:
        root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "kythera" / "jax"


def prepare_jax(device: str | None) -> None:
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


class Stop:
    """What SIGINT (Ctrl-C) and SIGTERM do.

    Outside `patient` they abort at once. Inside, the first one only asks: the search ends
    after the running trial, and what was computed is written; the second one aborts.
    """

    def __init__(self) -> None:
        self.asked = False
        self._patient = self._aborted = False

    def __enter__(self) -> "Stop":
        self._old = signal.signal(signal.SIGINT, self._ask)
        signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            say("aborted")
        signal.signal(signal.SIGINT, self._old)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    @contextlib.contextmanager
    def patient(self) -> Iterator[None]:
        """While something is at hand that must not be lost."""
        if self._aborted:  # where no exception can leave, in a destructor, say
            raise KeyboardInterrupt
        self._patient = True
        try:
            yield
        finally:
            self._patient = False

    def _ask(self, *_: Any) -> None:
        if self.asked or not self._patient:
            self._aborted = True
            raise KeyboardInterrupt
        self.asked = True
        if not sys.stderr.isatty():  # a terminal has the live line
            os.write(2, b"kythera: stopping after this trial; once more to abort\n")


def say(line: str) -> None:
    """To the error stream, so that results can be piped."""
    print(f"kythera: {line}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def plain_warnings() -> Iterator[None]:
    """Warnings as one line each, without the source line that raised them."""
    import warnings

    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: say(f"warning: {message}")
        yield
