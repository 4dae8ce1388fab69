"""Overlapping showers in a granular block, told apart by GravNet and object condensation.

    python examples/overlapping_showers.py --figure docs/figures/overlapping-showers.json

One to four photons enter a block of 16 x 16 cells in three layers; the cells' width is the
design: with small ones the outer showers leak out at the sides, with large ones showers merge.
A network finds the photons, and their energies, among the hits. `problem()` is a problem like
any other, for `kythera optimise`; the script trains the network at one width, prints how many
photons are found, and by how much energies are off, beside local maxima, and draws an event.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import kythera as ky
from kythera import drawing
from kythera.core import random
from kythera.core.types import Array, Bool, Float, Int, Key, Scalar
from kythera.units import GeV, MeV, cm

CELLS = 16  # along each side
HITS = 64  # the most that an event keeps, those of largest energy
PHOTONS = 4
LOW, HIGH = 2 * GeV, 20 * GeV
WINDOW = 6 * cm  # photons enter within this of the middle, in x and y
THRESHOLD = 30 * MeV  # of a hit
# Of three layers of 7 radiation lengths: share of the energy, its relative fluctuation from
# shower to shower, and the width b of the profile below. Assumed, of the size in a homogeneous
# crystal with a Moliere radius of 2 cm.
SHARES = np.array([0.35, 0.5, 0.15])
FLUCTUATIONS = np.array([0.25, 0.1, 0.4])
WIDTHS = np.array([0.5, 0.9, 1.5]) * cm
STOCHASTIC = 0.03  # sqrt(GeV), of the energy in a cell


class Block(eqx.Module):
    """The cells.

    Args:
        width: of one cell, m.
    """

    width: Scalar


class Photons(eqx.Module):
    """What enters, shape (event, photon).

    Args:
        x: m from the middle of the block.
        y: likewise.
        energy: GeV, 0 for those that are not there.
    """

    x: Float[Array, "event photon"]
    y: Float[Array, "event photon"]
    energy: Float[Array, "event photon"]


class Hits(eqx.Module):
    """The cells of largest energy.

    Args:
        x: of the cell's middle, m, shape (event, hit).
        y: likewise.
        layer: 0, 1 or 2, likewise.
        energy: GeV, likewise; 0 below the threshold.
        owner: the photon that has left most in the cell, 1 to 4, likewise.
    """

    x: Float[Array, "event hit"]
    y: Float[Array, "event hit"]
    layer: Int[Array, "event hit"]
    energy: Float[Array, "event hit"]
    owner: Int[Array, "event hit"]

    @property
    def present(self) -> Bool[Array, "event hit"]:
        """Which of them are hits."""
        return self.energy > 0


class Beam(ky.AbstractSource):
    """One to four photons, uniform in the window and in the logarithm of the energy."""

    primaries: int = eqx.field(static=True, default=1)

    def __call__(self, events: int, *, key: Key) -> Photons:
        """Draw them."""
        u = random.uniform(key, (3, events, PHOTONS))
        many = jax.random.randint(jax.random.fold_in(key, 1), (events, 1), 1, 5)
        energy = LOW * (HIGH / LOW) ** u[2]
        there = jnp.arange(PHOTONS) < many
        return Photons(
            WINDOW * (2 * u[0] - 1),
            WINDOW * (2 * u[1] - 1),
            jnp.where(there, energy, 0.0),
        )


class Cells(ky.AbstractPathwiseSimulator[Block, Photons, Hits]):
    """Energies in the cells, differentiable in their width.

    Across the shower the density is b / (2 pi (r^2 + b^2)^(3/2)), whose integral over a
    rectangle is closed (A. Lednev, Nucl. Instrum. Meth. A 366 (1995) 292).
    """

    references = ("A. Lednev, Nucl. Instrum. Meth. A 366 (1995) 292",)

    def __call__(self, design: Block, x: Photons, *, key: Key) -> Hits:
        """The hits of largest energy, and whose they are."""
        events = x.energy.shape[0]
        first, second = jax.random.split(key)
        z = random.normal(first, (events, PHOTONS, len(SHARES)))
        layers = SHARES * jnp.exp(FLUCTUATIONS * z - FLUCTUATIONS**2 / 2)
        # (event, photon, layer, x, y)
        left = (x.energy[..., None] * layers)[..., None, None] * _shares(design, x)
        left = left.reshape(events, PHOTONS, -1)
        total = jnp.sum(left, 1)
        z = random.normal(second, total.shape)
        seen = total + STOCHASTIC * jnp.sqrt(total) * z
        seen, where = jax.lax.top_k(seen, HITS)
        owner = 1 + jnp.argmax(jnp.take_along_axis(left, where[:, None], 2), 1)
        layer, i, j = jnp.unravel_index(where, (len(SHARES), CELLS, CELLS))
        middle = (CELLS - 1) / 2
        return Hits(
            design.width * (i - middle),
            design.width * (j - middle),
            layer,
            jnp.where(seen > THRESHOLD, seen, 0.0),
            owner,
        )


def _shares(design: Block, x: Photons) -> Float[Array, "event photon layer x y"]:
    """Of a photon's energy in a layer, the part in each cell."""
    edges = design.width * (jnp.arange(CELLS + 1) - CELLS / 2)
    dx = (edges - x.x[..., None])[:, :, None, :, None]
    dy = (edges - x.y[..., None])[:, :, None, None, :]
    b = WIDTHS[:, None, None]
    far = jnp.sqrt(b**2 + dx**2 + dy**2)
    below = jnp.arctan(dx / b) + jnp.arctan(dy / b) + jnp.arctan(dx * dy / (b * far))
    below = below / (2 * jnp.pi)
    return jnp.diff(jnp.diff(below, axis=-1), axis=-2)


def features(design: Block, x: Hits) -> tuple[Array, Array]:
    """Numbers of order one of each hit; whether it is there."""
    log = jnp.log(jnp.maximum(x.energy, THRESHOLD) / GeV)
    one = jnp.ones_like(log)
    layers = jax.nn.one_hot(x.layer, len(SHARES))
    rows = [x.x / WINDOW, x.y / WINDOW, 0.5 * log, design.width / cm * one]
    return jnp.concatenate([jnp.stack(rows, -1), layers], -1), x.present


def truth(design: Block, trace: ky.Trace) -> tuple[Array, Array]:
    """Whose each hit is; how wrong the logarithm of the energy is that it tells."""
    hits, energy = trace.signal, trace.truth.energy
    own = jnp.take_along_axis(energy, hits.owner - 1, 1)
    wrong = trace.reco.payload[..., 0] - jnp.log(jnp.maximum(own, LOW) / GeV)
    return hits.owner, wrong**2


def problem(width: float = 1.2 * cm, events: int = 500) -> ky.Problem[Block]:
    """How wide the cells should be, judged by how well the network tells photons apart."""
    network = ky.GravNet(
        features, 7, payload=1, blocks=2, outputs=24, width=32, depth=2, head=48,
        space=3, message=12, neighbours=12,
    )  # fmt: skip
    return ky.Problem(
        ky.Space(Block(jnp.asarray(width)), {"width": ky.Real(0.5 * cm, 3 * cm, "m")}),
        ky.Pipeline(Beam(), Cells(), network, ky.FindObjects(distance=0.6)),
        ky.CondensationLoss(truth, PHOTONS, normalised="objects"),
        events=events,
        name="overlapping_showers",
    )


def reconstructed(trace: ky.Trace) -> tuple[Array, Array, Array]:
    """Speakers: (event, hit) whether a hit is one, and the energy that it tells, GeV."""
    speaker = trace.result == jnp.arange(HITS)
    return speaker, jnp.exp(trace.reco.payload[..., 0]), trace.result


def maxima(trace: ky.Trace, width: float) -> tuple[Array, Array]:
    """Without a network: cells above their neighbours in the middle layer, and 3 x 3 sums.

    The sum of the 3 x 3 cells in all layers is scaled by its mean share of the energy, which
    `score` finds.
    """
    hits = trace.signal
    dx = jnp.abs(hits.x[:, :, None] - hits.x[:, None]) / width
    dy = jnp.abs(hits.y[:, :, None] - hits.y[:, None]) / width
    near = (dx < 1.5) & (dy < 1.5) & hits.present[:, None]
    middle = hits.present & (hits.layer == 1)
    rival = jnp.where(near & middle[:, None], hits.energy[:, None], 0.0)
    peak = middle & (hits.energy >= jnp.max(rival, -1)) & (hits.energy > 0.1 * GeV)
    return peak, jnp.sum(jnp.where(near, hits.energy[:, None], 0.0), -1)


def score(trace: ky.Trace, found: Array, energy: Array) -> dict[str, np.ndarray]:
    """Photons matched to what was found, by the photon that owns the speaking hit.

    Args:
        trace: of events.
        found: which hits stand for a photon, (event, hit).
        energy: that they tell.

    Returns:
        "found": for each photon whether it has exactly one; "response": told / true, nan
        where it has none; "alone": distance from the nearest other photon, m; "false": for each
        event what is found beyond one for each photon; "there": which photons exist.
    """
    owner, x = np.asarray(trace.signal.owner), jax.tree.map(np.asarray, trace.truth)
    own = np.asarray(found)[..., None] & (owner[..., None] == 1 + np.arange(PHOTONS))
    count = own.sum(1)
    there = x.energy > 0
    told = np.where(own, np.asarray(energy)[..., None], 0.0).max(1)
    apart = np.hypot(x.x[:, :, None] - x.x[:, None], x.y[:, :, None] - x.y[:, None])
    apart = np.where(there[:, None] & ~np.eye(PHOTONS, dtype=bool), apart, np.inf)
    response = np.where(count > 0, told / np.where(there, x.energy, 1.0), np.nan)
    return {
        "there": there,
        "found": count > 0,
        "response": response / np.nanmedian(response[there]),
        "alone": apart.min(-1),
        "false": np.maximum(count - 1, 0).sum(1),
    }


def table(scores: dict[str, dict[str, np.ndarray]]) -> str:
    """In Markdown: by the distance of the nearest other photon."""
    lines = [
        "| nearest other photon | photons | " + " | ".join(scores) + " |",
        "|---|---|" + "---|" * len(scores),
    ]
    edges = [0.0, 1.5, 3.0, 5.0, 100.0]
    for low, high in zip(edges, edges[1:]):
        cells = []
        for s in scores.values():
            here = s["there"] & (s["alone"] >= low * cm)
            here &= (s["alone"] < high * cm) | (high == 100.0)
            some = here & s["found"]
            r = s["response"][some]
            spread = (np.quantile(r, 0.84) - np.quantile(r, 0.16)) / 2
            part = some.sum() / here.sum()
            error = np.sqrt(part * (1 - part) / here.sum())
            cells.append(f"{100 * part:.1f} +- {100 * error:.1f}%, {100 * spread:.1f}%")
        label = f"{low} to {high} cm" if high < 100 else f"{low} cm and more, or none"
        lines.append(f"| {label} | {here.sum()} | " + " | ".join(cells) + " |")
    wrong = [f"{s['false'].mean():.3f}" for s in scores.values()]
    lines.append("| false ones in an event | | " + " | ".join(wrong) + " |")
    return "\n".join(lines)


def draw(trace: ky.Trace, event: int) -> dict[str, Any]:
    """One event, from above: whose the hits are, and whose the network says they are."""
    hits = jax.tree.map(lambda v: np.asarray(v)[event], trace.signal)
    x = jax.tree.map(lambda v: np.asarray(v)[event], trace.truth)
    result = np.asarray(trace.result)[event]
    tops = drawing.points(
        x.x[x.energy > 0] / cm, x.y[x.energy > 0] / cm, name="photons",
        colour=drawing.BLACK, size=12, symbol="cross",
    )  # fmt: skip
    panels = {}
    for name, group in (("truth", hits.owner), ("found", result)):
        traces = []
        for value in np.unique(group[hits.present]):
            own = hits.present & (group == value)
            photon = value if name == "truth" else hits.owner[value]
            shift = 0.15 * cm * (hits.layer[own] - 1)
            traces.append(
                drawing.points(
                    (hits.x[own] + shift) / cm,
                    (hits.y[own] + shift) / cm,
                    colour=drawing.GREY if value < 0 else drawing.colour(int(photon)),
                    size=(4 + 8 * np.sqrt(hits.energy[own] / GeV)).tolist(),
                )
            )
        panels[name] = drawing.figure(
            *traces, tops, x="x (cm)", y="y (cm)", equal=True, height=480
        )
    caption = (
        "One event from above, a disc for each hit (its size tells the energy, the three "
        "layers are shifted against each other), grey for noise; crosses where photons entered."
    )
    return drawing.side_by_side(panels, caption=caption)


def trained(case: ky.Problem[Block], steps: int, events: int, seed: int) -> ky.Problem:
    """The problem with a network that was trained at its start."""
    engine = ky.Retrain(ky.Direct(), events=events, steps=steps // 10, batch=128)
    u = jnp.asarray(case.space.start)[None]
    state = engine.init(case, key=jax.random.key(seed))
    found, _ = engine.measured(case, state, u, key=jax.random.key(seed + 1), map=map)
    return found


def main() -> None:
    """Train, score, draw."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--width", type=float, default=1.2, help="of a cell, cm")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--training", type=int, default=20_000, help="events")
    parser.add_argument("--events", type=int, default=4000, help="fresh, to score")
    parser.add_argument("--figure", type=Path)
    args = parser.parse_args()
    case = problem(args.width * cm)
    began = time.process_time()
    learnt = trained(case, args.steps, args.training, 1)
    print(f"trained in {time.process_time() - began:.0f} CPU s")
    trace = learnt.pipeline(case.space.template, args.events, key=jax.random.key(5))
    speaker, told, _ = reconstructed(trace)
    scores = {
        "GravNet: found, resolution": score(trace, speaker, told),
        "local maxima": score(trace, *maxima(trace, args.width * cm)),
    }
    print(table(scores))
    if args.figure:
        s = scores["GravNet: found, resolution"]
        full = (s["there"].sum(1) == PHOTONS) & (s["alone"].min(1) < 3 * cm)
        args.figure.write_text(json.dumps(draw(trace, int(np.argmax(full)))) + "\n")


if __name__ == "__main__":
    main()
