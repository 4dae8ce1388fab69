"""Submit descriptions of HTCondor, read; and programs that stand in for its own.

The stand-ins do what condor_submit, condor_rm and condor_q do, on this machine, at once.
Where a file "busy" lies in their folder, no job is taken.
Run as a program: condor.py submit|rm|q FOLDER ARGUMENT....
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path


def read(text: str) -> tuple[dict[str, str], list[str]]:
    """The entries of a submit description by lower-case name, and the job's arguments.

    Raises:
        AssertionError: a line that is no entry, comment or `Queue`.
    """
    entries: dict[str, str] = {}
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert lines[-1].lower() == "queue", lines
    for line in lines[:-1]:
        name, equals, value = line.partition("=")
        assert equals, line
        assert re.fullmatch(r"[+\w.]+", name.strip()), line
        entries[name.strip().lower()] = value.strip()
    return entries, unquoted(entries.pop("arguments"))


def unquoted(arguments: str) -> list[str]:
    """Arguments in the newer syntax: doubled quotes, groups between single ones."""
    assert arguments[0] == arguments[-1] == '"', arguments
    inner = arguments[1:-1]
    assert '"' not in inner.replace('""', ""), arguments
    words, word, quoted, i = [], None, False, 0
    inner = inner.replace('""', '"')
    while i < len(inner):
        letter = inner[i]
        if quoted and inner[i : i + 2] == "''":
            word, i = (word or "") + "'", i + 1
        elif letter == "'":
            quoted, word = not quoted, word or ""
        elif letter == " " and not quoted:
            words, word = [*words, word] if word is not None else words, None
        else:
            word = (word or "") + letter
        i += 1
    assert not quoted, arguments
    return words if word is None else [*words, word]


def install(folder: Path) -> None:
    """Write the stand-ins."""
    for name in ("submit", "rm", "q"):
        program = folder / f"condor_{name}"
        program.write_text(
            f'#!/bin/sh\nexec "{sys.executable}" "{__file__}" {name} "{folder}" "$@"\n'
        )
        program.chmod(0o755)


def submit(folder: Path, file: str) -> None:
    """Start the job, keep its description and its process' number, say its cluster."""
    if (folder / "busy").exists():
        sys.exit("ERROR: Failed to connect to local queue manager")
    text = Path(file).read_text(encoding="utf-8")
    entries, arguments = read(text)
    number = 1 + len(list(folder.glob("*.sub")))
    (folder / f"{number}.sub").write_text(text, encoding="utf-8")
    with (folder / f"{number}.err").open("wb") as log:
        job = subprocess.Popen(
            [entries["executable"], *arguments],
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    (folder / f"{number}.pid").write_text(str(job.pid), encoding="utf-8")
    sys.stdout.write(f"1 job(s) submitted to cluster {number}.\n")


def rm(folder: Path, job: str) -> None:
    """End the job CLUSTER.PROCESS."""
    cluster, _, process = job.partition(".")
    assert process == "0", job
    os.killpg(int((folder / f"{cluster}.pid").read_text()), signal.SIGTERM)


def q(folder: Path, *arguments: str) -> None:
    """Print the jobs in the two formats that are asked for."""
    option, cluster, cluster_id, again, process, process_id = arguments
    assert (option, again) == ("-format", "-format")
    assert (cluster_id, process_id) == ("ClusterId", "ProcId")
    line = cluster + process.replace("\\n", "\n")
    numbers = {int(file.read_text()): file.stem for file in folder.glob("*.pid")}
    sys.stdout.writelines(line % (int(numbers[pid]), 0) for pid in alive(folder))


def alive(folder: Path) -> list[int]:
    """The processes of jobs that have not ended."""
    found = []
    for file in folder.glob("*.pid"):
        with contextlib.suppress(FileNotFoundError):
            stat = Path(f"/proc/{file.read_text()}/stat").read_text()
            if stat.rpartition(") ")[2][0] not in "ZX":  # ended; nobody waited for it
                found.append(int(file.read_text()))
    return found


if __name__ == "__main__":
    {"submit": submit, "rm": rm, "q": q}[sys.argv[1]](Path(sys.argv[2]), *sys.argv[3:])
