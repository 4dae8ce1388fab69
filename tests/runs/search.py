"""A search in a process of its own, to be killed: search.py STORE FILES NAME OPTIMISER TRIALS.

It goes on where the last one was, and says "done" when it has finished.
"""

import sys
import time

import jax

import kythera as ky
from kythera import testing
from kythera.runs.store import Store
from kythera.runs.study import Study

PAUSE = 0.02  # seconds after each trial
OPTIMISERS = {
    "adam": lambda: ky.adam(0.02),
    "lbfgsb": lambda: ky.LBFGSB(),
    "evolution": lambda: ky.Evolution(population=4),
    "random": lambda: ky.RandomSearch(4),
    "starts": lambda: ky.MultiStart(ky.adam(0.02), 3),
}


def problem(optimiser: str) -> ky.Problem:
    """On a quadratic L-BFGS-B has ended before anybody can kill it."""
    return testing.rosenbrock(10) if optimiser == "lbfgsb" else testing.noisy_sphere()


def search(optimiser: str, trials: int, recorder=None, resume=None) -> ky.Solution:
    """The same for every process, and slow enough to be killed."""
    return ky.optimise(
        problem(optimiser),
        OPTIMISERS[optimiser](),
        key=jax.random.key(11),
        max_trials=trials,
        report_events=16,
        recorder=recorder,
        resume=resume,
        callbacks=[lambda trial: time.sleep(PAUSE if recorder else 0)],
    )


def main(url: str, files: str, name: str, optimiser: str, trials: int) -> None:
    """Begin or go on."""
    store = Store(url, files=files, user="ada")
    with Study.of(store, name, problem(optimiser)).begin() as run:
        found = search(optimiser, trials, run, run.resume())
        run.finish("finished", found.reason)
    store.close()
    sys.stdout.write("done\n")


if __name__ == "__main__":
    main(*sys.argv[1:5], int(sys.argv[5]))
