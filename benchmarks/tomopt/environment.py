#!/usr/bin/env python3
"""Make the separate environment in which TomOpt is measured.

TomOpt 0.1.0 pins an old NumPy, so it cannot share an environment with kythera.
This script needs the standard library only::

    python benchmarks/tomopt/environment.py [FOLDER]      # default .cache/tomopt-venv

PyTorch comes first and by exact version: a plain ``torch``, drawn in as a
dependency, may resolve to a build of several gigabytes with CUDA libraries.
``mypy_extensions`` is imported by TomOpt but not among its requirements.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DEFAULT = ROOT / ".cache" / "tomopt-venv"
STEPS = (("torch==2.13.0",), ("tomopt==0.1.0", "mypy_extensions"))
PROBE = "import torch, tomopt.volume, tomopt.optimisation; print(torch.__version__)"


def python_of(folder: Path) -> Path:
    """Return the interpreter of the environment in `folder`."""
    if sys.platform == "win32":
        return folder / "Scripts" / "python.exe"
    return folder / "bin" / "python"


def works(folder: Path) -> bool:
    """Whether the environment exists and can import what is measured."""
    python = python_of(folder)
    if not python.exists():
        return False
    probe = subprocess.run([python, "-c", PROBE], capture_output=True, check=False)
    return probe.returncode == 0


def make(folder: Path = DEFAULT) -> Path:
    """Make the environment unless it works already; return its interpreter."""
    python = python_of(folder)
    if works(folder):
        return python
    folder.parent.mkdir(parents=True, exist_ok=True)
    venv.create(folder, with_pip=True, clear=True)
    for requirements in STEPS:
        subprocess.run(
            [python, "-m", "pip", "install", "-q", *requirements], check=True
        )
    subprocess.run([python, "-c", PROBE], stdout=subprocess.DEVNULL, check=True)
    return python


def main() -> None:
    """Make the environment and print its interpreter."""
    parser = argparse.ArgumentParser(description="Make the environment of TomOpt.")
    parser.add_argument("folder", nargs="?", type=Path, default=DEFAULT)
    try:
        print(make(parser.parse_args().folder.resolve()))
    except subprocess.CalledProcessError as failure:
        sys.exit(f"The environment could not be made: {failure}")


if __name__ == "__main__":
    main()
