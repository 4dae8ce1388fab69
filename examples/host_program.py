"""A program as the simulator: where to put the middle plane of three.

    python examples/host_program.py

Any program will do that reads a design and a seed and writes numbers: here a few lines
of Python in a process of its own. It runs outside JAX, so that gradients come from
differences (on the same seeds), or a search without gradients is used.
"""

import json
import subprocess
import sys
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import kythera as ky
from kythera.core.types import Array, Float
from kythera.units import m, mm

# Straight tracks through three planes; the hits, one row for each track, as JSON.
PROGRAM = """
import json, random, sys
given = json.load(sys.stdin)
draw = random.Random(given["seed"]).gauss
print(json.dumps([
    [slope * z + draw(0, given["resolution"]) for z in given["z"]]
    for slope in given["slopes"]
]))
"""


class Planes(eqx.Module):
    """Three planes, of which the middle one can be moved.

    Args:
        middle: its position, m; the others are at 0 and 1 m.
        resolution: of a hit, m.
    """

    middle: Float[Array, ""]
    resolution: Float[Array, ""]

    @property
    def z(self) -> list[Any]:
        """All positions, m."""
        return [0.0, self.middle, 1 * m]


class Slopes(ky.AbstractSource):
    """Tracks from the origin with Gaussian slopes, shape (event,)."""

    primaries: int = eqx.field(static=True, default=1)

    def __call__(self, events: int, *, key: Any) -> Float[Array, " event"]:
        """Draw the slopes."""
        return 0.01 * jax.random.normal(key, (events,))


def run_program(design: Planes, slopes: np.ndarray, seed: int) -> np.ndarray:
    """Run the program once for all tracks of a chunk; equal seeds give equal hits."""
    given = {
        "z": [float(z) for z in design.z],
        "resolution": float(design.resolution),
        "slopes": slopes.tolist(),
        "seed": seed,
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        check=True,  # a failure marks the trial as failed, with its cause
        timeout=60,
    )
    return np.array(json.loads(done.stdout))


class SlopeError(ky.PerEventLoss):
    """Squared error of the slope of a line through the origin, in (resolution / m)^2."""

    def loss(
        self, design: Planes, trace: ky.Trace
    ) -> dict[str, Float[Array, " event"]]:
        """The one term, "slope"."""
        z = jnp.stack([jnp.asarray(v, float) for v in design.z])
        slope = trace.signal @ z / jnp.sum(z**2)
        return {"slope": ((slope - trace.truth) / design.resolution) ** 2}


def problem(events: int = 200) -> ky.Problem[Planes]:
    """The best place is at 1 m: the variance is 1 / (1 + middle^2)."""
    start = Planes(middle=jnp.array(0.3 * m), resolution=jnp.array(1 * mm))
    simulator = ky.HostSimulator(run_program, row=jax.ShapeDtypeStruct((3,), float))
    return ky.Problem(
        space=ky.Space(start, {"middle": ky.Real(0 * m, 1 * m, "m")}),
        pipeline=ky.Pipeline(Slopes(), simulator),
        objective=SlopeError(),
        events=events,
        name="host_program",
    )


if __name__ == "__main__":
    solution = ky.optimise(
        problem(), ky.adam(0.1), max_trials=12, key=jax.random.key(1)
    )
    print(solution)
