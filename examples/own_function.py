"""A function of your own as a problem: how thick a shield should be, and of what.

    python examples/own_function.py

The function draws random numbers of its own and knows nothing of kythera. It has a
choice and jumps, so that the search is one without gradients.
"""

import jax
import numpy as np

import kythera as ky
from kythera.units import cm

# Mean free path of the photons (m) and price of a metre: made up for this example.
MATERIALS = {"lead": (1.5 * cm, 6.0), "iron": (3.0 * cm, 4.0), "water": (15 * cm, 0.5)}


def shield(thickness: float, material: str, seed: int) -> dict[str, float]:
    """Share of 200 photons that get through a wall, and the price of the wall."""
    length, price = MATERIALS[material]
    depth = np.random.default_rng(seed).exponential(length, size=200)
    return {"dose": float(np.mean(depth > thickness)), "cost": price * thickness}


def problem() -> ky.Problem:
    """For the command line too: `kythera optimise own_function:problem`."""
    return ky.from_function(
        shield,
        {
            "thickness": ky.Real(1 * cm, 60 * cm, "cm"),
            "material": ky.Choice(tuple(MATERIALS)),
        },
        terms=("dose", "cost"),
        events=50,  # calls in one evaluation
    )


if __name__ == "__main__":
    solution = ky.optimise(
        problem(), ky.Evolution(), max_trials=200, key=jax.random.key(1)
    )
    print(solution)
