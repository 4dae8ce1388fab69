"""The commands of a working copy: `python3 dev.py demo`, `python3 dev.py test`.

Only the standard library of Python 3.11 is needed: the first command makes `.venv`
and installs everything there, at the versions of `constraints.txt`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
STAMP = VENV / "kythera-stamp.json"
LOG = VENV / "install.log"
OLDEST = (3, 11)
LEVELS = ("run", "dev")  # what a demo needs; what a developer needs
# What builds on PyTorch is installed where the tests must not skip it: PyTorch itself first,
# by pip, which takes the processor's build where there is one; later requests keep that.
REQUIRED = "KYTHERA_REQUIRE_PROGRAMS"
TORCH = ("torch==2.13.0",)
ON_TORCH = ("botorch==0.18.1", "stable-baselines3==2.9.2")


class Stop(Exception):
    """A failure that one line explains."""


def say(line: str) -> None:
    """Say what happens, apart from what the tools print."""
    print(f"dev: {line}", file=sys.stderr, flush=True)


def tool(name: str) -> str:
    """The path of a program of `.venv`."""
    return str(BIN / (f"{name}.exe" if os.name == "nt" else name))


def environment() -> dict[str, str]:
    """The caller's environment, with JAX's compiled programs kept in `.cache/jax`."""
    env = dict(os.environ)
    env.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "jax"))
    # JAX keeps by default only what took a second to compile; here nothing does.
    env.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    env.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
    # OpenBLAS' threads spin while they wait for each other: on a busy machine, such as
    # one with two test processes, small matrices take 20 to 130 times as long.
    if not {"OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS", "OMP_NUM_THREADS"} & set(env):
        env["OPENBLAS_NUM_THREADS"] = "1"
    env.setdefault("NO_MKDOCS_2_WARNING", "1")
    env.pop("VIRTUAL_ENV", None)
    env.pop("PYTHONHOME", None)
    return env


def call(*command: str) -> int:
    """Run a program in the foreground; its exit status is ours."""
    process = subprocess.Popen(command, cwd=ROOT, env=environment())
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue  # the program has the same interrupt, and ends as it sees fit


def quietly(command: list[str], failure: str) -> None:
    """Run an installer; on failure show its last lines and say what to do."""
    done = subprocess.run(
        command, cwd=ROOT, env=environment(), text=True, errors="replace",
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    if VENV.is_dir():
        with LOG.open("a", encoding="utf-8") as log:
            log.write(f"$ {' '.join(command)}\n{done.stdout}\n")
    if done.returncode == 0:
        return
    lost = "connection broken|name resolution|dns error|timed out|sending request"
    if re.search(lost, done.stdout, re.IGNORECASE):
        raise Stop(f"cannot reach the package index: is there a network? Log: {LOG}")
    tail = [line.strip()[:160] for line in done.stdout.splitlines() if line.strip()]
    raise Stop("\n     ".join([failure, *tail[-3:], f"The whole log: {LOG}"]))


def fingerprint() -> str:
    """What the installed packages depend on, as a hash."""
    digest = hashlib.sha256()
    for name in ("pyproject.toml", "constraints.txt"):
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


def stamp() -> dict[str, str]:
    """What the last completed installation left."""
    try:
        found = json.loads(STAMP.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def python_works() -> bool:
    """Whether `.venv` has a Python that runs, is recent enough, and was made here."""
    if stamp().get("place", str(VENV)) != str(VENV):
        return False  # its programs start with the path of another folder
    test = f"import sys, pip; assert sys.version_info >= {OLDEST}; print(sys.prefix)"
    try:
        done = subprocess.run(
            [tool("python"), "-c", test], capture_output=True, text=True
        )
    except OSError:
        return False
    prefix = Path(done.stdout.strip()).resolve()
    return done.returncode == 0 and prefix == VENV.resolve()


def make_venv() -> None:
    """Make `.venv` anew from the Python that runs this script."""
    if VENV.exists():
        say("the Python in .venv does not work (moved or too old): making it anew")
        shutil.rmtree(VENV)
    # Inside an activated environment the base interpreter is meant.
    python = getattr(sys, "_base_executable", None) or sys.executable
    quietly(
        [python, "-m", "venv", str(VENV)],
        "cannot make .venv: Python's venv module is missing or broken "
        "(on Debian and Ubuntu: apt-get install python3-venv).",
    )


def ensure(level: str) -> None:
    """Make `.venv` hold what a level of commands needs; a no-op when it does."""
    have, works = stamp(), python_works()
    want = {"hash": fingerprint(), "level": level, "place": str(VENV)}
    if works and have.get("level") == "dev":
        level = want["level"] = "dev"  # never take tools away
    if level == "dev" and (os.environ.get(REQUIRED) or (works and "torch" in have)):
        want["torch"] = TORCH[0]
    if works and have == want:
        return
    say(f"setting up .venv ({'with' if level == 'dev' else 'without'} the tools)")
    if not works:
        make_venv()
    STAMP.unlink(missing_ok=True)  # an interrupted installation is not a finished one
    LOG.unlink(missing_ok=True)
    failure = "cannot install what pyproject.toml and constraints.txt ask for:"
    limits = ["-c", "constraints.txt"]
    quietly(
        [tool("python"), "-m", "pip", "install", "-q", "uv", *limits,
         "--disable-pip-version-check"],
        failure,
    )  # fmt: skip
    if "torch" in want:
        quietly(
            [tool("python"), "-m", "pip", "install", "-q", *TORCH,
             "--disable-pip-version-check"],
            failure,
        )  # fmt: skip
    what = ".[dev]" if level == "dev" else "."
    more = (*TORCH, *ON_TORCH) if "torch" in want else ()
    quietly(
        [tool("uv"), "pip", "install", "-q", "--python", tool("python"),
         "-e", what, *more, *limits],
        failure,
    )  # fmt: skip
    STAMP.write_text(json.dumps(want), encoding="utf-8")


def free_folder(name: str) -> str:
    """`results/<name>`, or the first numbered one that is not taken."""
    folder, number = Path("results") / name, 1
    while (ROOT / folder).exists():
        number += 1
        folder = Path("results") / f"{name}-{number}"
    return str(folder)


def demo(arguments: list[str]) -> int:
    """Optimise the muon portal on its defaults."""
    ensure("run")
    (ROOT / "results").mkdir(exist_ok=True)
    out = [] if "--out" in arguments else ["--out", free_folder("demo")]
    return call(tool("kythera"), "optimise", "muon_portal", *out, *arguments)


def test(arguments: list[str]) -> int:
    """Run the fast tests."""
    ensure("dev")
    # Most of their time goes into programs that are compiled and run once.
    os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    return call(tool("pytest"), "-n", "2", "-m", "not slow", *arguments)


def slow(arguments: list[str]) -> int:
    """Run the tests that take minutes."""
    ensure("dev")
    # what shares a file shares a cluster or an image
    return call(
        tool("pytest"), "-n", "2", "--dist", "loadfile", "-m", "slow", *arguments
    )


def lint(arguments: list[str]) -> int:
    """Check format, lint, types, layers and the version; change nothing."""
    ensure("dev")
    results = [
        call(tool("ruff"), "check", "--quiet", *arguments),
        call(tool("ruff"), "format", "--check", "--quiet"),
        call(tool("pyright")),
        call(tool("lint-imports"), "--no-logo"),
        check_version([]),
    ]
    return max(map(abs, results))


def docs(arguments: list[str]) -> int:
    """Build the documentation site into `site/`."""
    ensure("dev")
    return call(tool("mkdocs"), "build", "--strict", *arguments)


def lock(arguments: list[str]) -> int:
    """Renew `constraints.txt`: the newest versions that fit `pyproject.toml`."""
    ensure("dev")
    return call(
        tool("uv"), "pip", "compile", "--quiet", "--universal", "--upgrade",
        "--no-header", "--no-annotate", "--no-emit-index-url",
        # not `kubernetes`: dask-kubernetes and comet-ml want different python-box
        "--extra", "dev", "--extra", "geant4",
        "pyproject.toml", "-o", "constraints.txt", *arguments,
    )  # fmt: skip


def setup(arguments: list[str]) -> int:
    """Only set up `.venv`, tools included."""
    ensure("dev")
    say(f"ready: {BIN.relative_to(ROOT)}")
    return 0


def check_version(arguments: list[str]) -> int:
    """Check that the version is the same everywhere."""
    found = {}
    for name, pattern in (
        ("pyproject.toml", r'^version = "(.+)"$'),
        ("CITATION.cff", r"^version: (.+)$"),
        ("src/kythera/__init__.py", r'^__version__ = "(.+)"$'),
    ):
        match = re.search(pattern, (ROOT / name).read_text("utf-8"), re.MULTILINE)
        found[name] = match.group(1) if match else "none"
    if len(set(found.values())) > 1:
        raise Stop(f"one version, please: {found}")
    return 0


COMMANDS = {
    "demo": demo,
    "test": test,
    "slow": slow,
    "lint": lint,
    "docs": docs,
    "lock": lock,
    "setup": setup,
    "check-version": check_version,
}


def main() -> int:
    """Read the command line; turn a failure into one line and a status."""
    parser = argparse.ArgumentParser(
        prog="dev.py",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Commands of a working copy. Further arguments go to the tool.",
        epilog="\n".join(
            f"  {name:14}{(command.__doc__ or '').splitlines()[0]}"
            for name, command in COMMANDS.items()
        ),
    )
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND")
    known, arguments = parser.parse_known_args(sys.argv[1:2])
    arguments += sys.argv[2:]
    if sys.version_info < OLDEST:
        version = ".".join(map(str, sys.version_info[:3]))
        say(
            f"kythera needs Python 3.11 or newer, and this is {version}. "
            "Run this script with a newer one, such as `python3.12 dev.py ...`."
        )
        return 2
    try:
        return COMMANDS[known.command](arguments)
    except Stop as failure:
        say(str(failure))
        return 1
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    except OSError as failure:
        say(f"cannot go on: {failure}")
        return 1


if __name__ == "__main__":
    sys.exit(main())
