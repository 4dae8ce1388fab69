"""Any external program as a simulator: what it is given, how it is run, what is believed."""

import contextlib
import json
import os
import shutil
import signal
import string
import subprocess
import tempfile
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np

from kythera import errors
from kythera.core.space import _leaf
from kythera.core.stage import AbstractHostSimulator
from kythera.stages.simulators import files
from kythera.stages.simulators.host import repeated

# What a word of the command may name besides the leaves of the design.
WORDS = ("design", "events", "output", "seed", "rows", "folder")
TAIL = 2000  # characters of the program's last words that are kept in the cause


class ProgramSimulator(AbstractHostSimulator):
    """An external program: files in, files out, one process for each call.

    Each call has a scratch folder of its own, in which the program starts. It finds there

    - `design.json`: {"seed": whole number, "rows": of events, "design": {...}}, the design by
      the names of its fields, hard (a choice is a list with a single 1);
    - `events.npz`, or another format: the arrays that the source drew, by their paths
      ("momentum", "hits.x"), or as "value" where it drew a single array;

    and must write `output.npz` with the arrays of `row` by their paths, one row for each
    event, and end with exit code 0. Everything else is a failed trial with its cause: another
    exit code, a file that is missing or malformed, another number of rows, a number that is
    not finite or does not fit the declared type. Equal seeds must give equal outputs.

    The program may start others: on timeout, on an interrupt and at its end all that is left
    of its process group is killed. Needs Linux or macOS.

    Args:
        command: words, the first one the program; a path in it is made absolute, the other
            words are taken as they are. {design}, {events}, {output} and {folder} are paths,
            {seed} and {rows} whole numbers, and any other name in braces a leaf of the
            design: ("./simulate", "--gap={gap:.6g}", "{seed}"). {{ and }} are braces.
        row: the output of one event, as a tree of `jax.ShapeDtypeStruct` or arrays without
            the leading axis `event`; types count, of plain numbers not.
        events_format: of the events: npz, json, csv, parquet or hdf5.
        output_format: of the output.
        timeout: after how many seconds the program is killed.
        keep: keep the folder of a call that failed, and name it in the cause.
        scratch: where folders are made; by default where temporary files go.
        batch: how many designs the program takes in one call. With more than one,
            `design.json` is {"rows": of events of each, "runs": [{"seed", "design"}, ...]},
            and the rows of the runs stand one after the other in both files. Where such
            a call fails, each of its designs is tried alone.

    Raises:
        InputError: an unknown format, no command, a name in braces that cannot be read.
        UnsupportedError: the library of a format is not installed; no process groups.
    """

    command: tuple[str, ...] = eqx.field(static=True)
    row: Any
    events_format: str = eqx.field(static=True, default="npz")
    output_format: str = eqx.field(static=True, default="npz")
    timeout: float = eqx.field(static=True, default=3600.0)
    keep: bool = eqx.field(static=True, default=False)
    scratch: str | None = eqx.field(static=True, default=None)
    batch: int = eqx.field(static=True, default=1)

    def __init__(
        self,
        command: Iterable[str | os.PathLike],
        row: Any,
        *,
        events_format: str = "npz",
        output_format: str = "npz",
        timeout: float = 3600.0,
        keep: bool = False,
        scratch: str | os.PathLike | None = None,
        batch: int = 1,
    ):
        """See the class."""
        if isinstance(command, str):
            raise errors.InputError(
                f"The command must be a list of words, but is the text {command!r}. Try "
                "`shlex.split`."
            )
        self.command = tuple(os.fspath(word) for word in command)
        self.row = row
        self.events_format, self.output_format = events_format, output_format
        self.timeout, self.keep, self.batch = float(timeout), keep, batch
        self.scratch = None if scratch is None else os.fspath(scratch)

    def __check_init__(self):
        """Refuse what no call could mend."""
        if os.name != "posix":
            raise errors.UnsupportedError(
                "Programs are run in process groups, which this system does not have. Use "
                "Linux or macOS, or call the program in a `HostSimulator`."
            )
        for name in (self.events_format, self.output_format):
            files.check_format(name)
        if not self.timeout > 0:
            raise errors.InputError(
                f"`timeout` must be a positive number of seconds, but is {self.timeout}. "
                "Try 600."
            )
        if int(self.batch) != self.batch or self.batch < 1:
            raise errors.InputError(
                f"`batch` must be a whole number >= 1, but is {self.batch}. Try 1."
            )
        if not self.command:
            raise errors.InputError(
                "The command must name a program, but has no words. Try ('./simulate',)."
            )
        single = [name for name in _names(self.command) if name not in WORDS]
        single += ["seed"] * ("seed" in _names(self.command))
        if self.batch > 1 and single:
            raise errors.InputError(
                f"A command for several designs cannot name {single[0]!r}, which each has "
                "its own. Let the program read it from {design}."
            )

    def shapes(self, events: int) -> Any:
        """The declared row, `events` times."""
        return repeated(self.row, events)

    def run(self, design: Any, x: Any, *, seed: int) -> Any:
        """Run the program for one design."""
        return self.run_batch([design], [x], seeds=[seed])[0]

    def run_batch(self, designs: list, xs: list, *, seeds: list[int]) -> list[Any]:
        """Run the program once for all designs.

        Raises:
            SimulationError: it failed; the message says how, with its last words.
        """
        folder = Path(tempfile.mkdtemp(prefix="kythera-", dir=self.scratch))
        kept = False
        try:
            return self._called(folder, designs, xs, seeds)
        except errors.SimulationError as error:
            kept = self.keep
            if not kept:
                raise
            raise errors.SimulationError(
                f"{error} Its folder is kept: {folder}"
            ) from error
        finally:
            if not kept:
                shutil.rmtree(folder, ignore_errors=True)

    def _called(
        self, folder: Path, designs: list, xs: list, seeds: list[int]
    ) -> list[Any]:
        events = folder / f"events.{self.events_format}"
        output = folder / f"output.{self.output_format}"
        drawn = [files.named(x) for x in xs]
        rows = len(next(iter(drawn[0].values())))
        joined = {k: np.concatenate([one[k] for one in drawn]) for k in drawn[0]}
        files.write(events, joined, self.events_format)
        runs = [
            {"seed": seed, "design": files.plain(design)}
            for seed, design in zip(seeds, designs, strict=True)
        ]
        given = (
            {"rows": rows, "runs": runs} if self.batch > 1 else runs[0] | {"rows": rows}
        )
        (folder / "design.json").write_text(json.dumps(given))
        values = {
            "design": folder / "design.json",
            "events": events,
            "output": output,
            "folder": folder,
            "seed": seeds[0],
            "rows": rows,
        }
        words = _Words(values, designs[0])
        _run([words.format(word) for word in self.command], folder, self.timeout)
        return self._believed(output, rows, len(designs))

    def _believed(self, output: Path, rows: int, runs: int) -> list[Any]:
        """The program's arrays, checked, for each of the runs."""
        want = self.shapes(rows * runs)
        declared = files.named(want)
        shapes = {name: s.shape[1:] for name, s in declared.items()}
        found = files.read(output, shapes, self.output_format)
        arrays = [_checked(name, found[name], s) for name, s in declared.items()]
        tree = jax.tree.structure(want)
        return [
            jax.tree.unflatten(tree, [v[i * rows : (i + 1) * rows] for v in arrays])
            for i in range(runs)
        ]


class _Words(string.Formatter):
    """Fills the words of a command: names that are reserved, else leaves of the design."""

    def __init__(self, values: dict[str, Any], design: Any):
        self.values, self.design = values, design

    def get_field(self, field_name: str, args: Any, kwargs: Any) -> tuple[Any, str]:
        """The value of one name in braces."""
        if field_name in self.values:
            return self.values[field_name], field_name
        leaf = np.asarray(_leaf(self.design, field_name))
        if leaf.size != 1:
            raise errors.InputError(
                "A word of a command takes one number, but {"
                + f"{field_name}}} has the shape {leaf.shape}. Name one entry, or let the "
                "program read {design}."
            )
        return leaf.item(), field_name


def _names(command: tuple[str, ...]) -> list[str]:
    """The names in braces, in order."""
    try:
        found = [
            name
            for word in command
            for _, name, _, _ in string.Formatter().parse(word)
            if name is not None
        ]
    except ValueError as error:
        raise errors.InputError(
            f"Braces in a command must enclose names, but: {error}. Write {{{{ and }}}} for "
            "braces that the program should see."
        ) from error
    if "" in found:
        raise errors.InputError(
            "Braces in a command must enclose a name, but one pair is empty. Known: "
            f"{', '.join(WORDS)}, and the leaves of the design."
        )
    return found


def _checked(
    name: str, array: np.ndarray, declared: jax.ShapeDtypeStruct
) -> np.ndarray:
    """An array of the output in its declared type, if nothing is lost.

    Raises:
        SimulationError: another shape, no numbers, or not finite.
    """
    if array.shape != declared.shape:
        raise errors.SimulationError(
            f"The program's {name!r} must have the shape {declared.shape}, one row for "
            f"each event, but has {array.shape}."
        )
    if array.dtype.kind not in "biuf":
        raise errors.SimulationError(
            f"The program's {name!r} must hold real numbers, but its type is {array.dtype}."
        )
    with np.errstate(all="ignore"):
        cast = array.astype(declared.dtype)
    bad = ~np.isfinite(array) | ~np.isfinite(cast)
    if not np.issubdtype(declared.dtype, np.floating):
        bad |= cast != array
    if np.any(bad):
        where = tuple(int(i) for i in np.argwhere(bad)[0])
        raise errors.SimulationError(
            f"The program's {name!r} must be finite and fit {declared.dtype}, but "
            f"{int(np.sum(bad))} of {array.size} numbers do not; the first, in row "
            f"{where[0]}, is {array[where]}."
        )
    return cast


def _run(words: list[str], folder: Path, timeout: float) -> None:
    """Run a program in a folder, in a process group of its own, and wait for it.

    Raises:
        SimulationError: it cannot be started, took too long, or failed.
    """
    if os.sep in words[0]:  # it is started elsewhere
        words = [os.path.abspath(words[0]), *words[1:]]
    with _started(words, folder) as process:
        late = threading.Event()

        def kill() -> None:
            late.set()
            _kill(process)

        # Waiting with a timeout would look every 50 ms only.
        timer = threading.Timer(timeout, kill)
        timer.daemon = True
        timer.start()
        try:
            code = process.wait()
        finally:
            timer.cancel()
    name = os.path.basename(words[0])
    if late.is_set():
        how = f"end within {timeout:g} s, but did not and was killed"
    elif code:
        how = f"end with exit code 0, but {_ended(code)}"
    else:
        return
    raise errors.SimulationError(
        f"The program {name!r} must {how}. {_last_words(folder)}"
    )


@contextlib.contextmanager
def _started(words: list[str], folder: Path) -> Iterator[subprocess.Popen]:
    with (
        (folder / "stdout.txt").open("wb") as out,
        (folder / "stderr.txt").open("wb") as err,
    ):
        try:
            process = subprocess.Popen(
                words,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
        except OSError as error:
            raise errors.SimulationError(
                f"The program {words[0]!r} must be one that can be run, but: "
                f"{error.strerror}. Give its path, or install it where this runs."
            ) from error
        try:
            yield process
        finally:
            _kill(process)
            process.wait()


def _kill(process: subprocess.Popen) -> None:
    """Kill what is left of the process group, also after its leader has ended."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _ended(code: int) -> str:
    if code > 0:
        return f"ended with {code}"
    with contextlib.suppress(ValueError):
        return f"was ended by {signal.Signals(-code).name}"
    return f"was ended by signal {-code}"


def _last_words(folder: Path) -> str:
    """The end of the program's standard error, or of its output where that is empty."""
    for stream, file in (("error", "stderr.txt"), ("output", "stdout.txt")):
        path = folder / file
        with path.open("rb") as opened:
            opened.seek(max(0, path.stat().st_size - TAIL))
            text = opened.read().decode(errors="replace").strip()
        if text:
            return f"Its standard {stream} ended with: {text}"
    return "It said nothing."
