"""The command line. `kythera --help` lists the commands."""

import os
import sys

# Threads of OpenBLAS spin while they wait for each other: on a busy machine they made
# searches with small matrices (LBFGSB, CMA-ES) 20 to 130 times slower. It reads this once,
# when NumPy is imported, as the next lines do; what the user has set stays.
if not {"OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS", "OMP_NUM_THREADS"} & set(
    os.environ
):
    os.environ["OPENBLAS_NUM_THREADS"] = "1"

import typer
from typer.exceptions import TyperException

from kythera import errors

# Importing a module of commands is what adds them.
from kythera.cli import export, geant4, instruments, optimise, serve, store, studies
from kythera.cli.base import ABORTED, REFUSED, app, at_the_end, plain_warnings, say

__all__ = [
    "export",
    "geant4",
    "instruments",
    "main",
    "optimise",
    "serve",
    "store",
    "studies",
]


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; a user's mistake ends in one message and exit code 2."""
    code = _run(arguments)
    stopping = sys.modules.get("kythera.stopping")  # where there was a search
    if stopping is not None and stopping.Interrupt.left:
        sys.stdout.flush()
        os._exit(code)  # all is written, and what was left would be waited for
    return code


def _run(arguments: list[str] | None) -> int:
    try:
        with plain_warnings(), at_the_end:
            code = app(args=arguments, prog_name="kythera", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except errors.KytheraError as error:
        say(str(error))
        return REFUSED
    except TyperException as error:
        say(error.format_message())
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return ABORTED
    except BrokenPipeError:  # `kythera show | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
