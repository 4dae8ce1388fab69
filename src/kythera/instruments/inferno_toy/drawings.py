"""Pictures of a summary: what it expects in each bin, and where the bins are."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kythera import drawing
from kythera.core.compilation import jit
from kythera.instruments.inferno_toy.design import Analysis
from kythera.instruments.inferno_toy.simulator import YIELDS

EVENTS = 20_000  # of each sample
DEPTH = 0.3  # third feature where the map is cut


def draw(problem: Any, designs: dict[str, Analysis], key: Any) -> dict[str, dict]:
    """Expected counts of signal and background, and a map of the bins, for reports.

    Args:
        problem: its pipeline is run, as it is given.
        designs: by name.
        key: of the events.

    Returns:
        plotly figures by name.
    """
    figures = {}
    for name, design in designs.items():
        figures[f"counts, {name}"] = _counts(problem, design, key)
        figures[f"bins, {name}"] = _map(problem, design, key)
    return figures


@jit
def _rows(problem: Any, design: Analysis, key: Any) -> Any:
    result = problem.pipeline(design, EVENTS, key=key).result
    return {name: jnp.mean(rows, 0) for name, rows in result.items()}


def _counts(problem: Any, design: Analysis, key: Any) -> dict[str, Any]:
    """Both samples in each bin, ordered by the part of signal."""
    rows = _rows(problem, design, key)
    counts = {k: n * np.asarray(rows[k], float) for k, n in YIELDS.items()}
    part = counts["signal"] / np.maximum(sum(counts.values()), 1e-9)
    order = np.argsort(part)
    traces = [
        drawing.bars(
            [str(i) for i in order],
            counts[sample][order],
            name=sample,
            colour=drawing.PALETTE[i],
        )
        for i, sample in enumerate(("background", "signal"))
    ]
    return drawing.figure(
        *traces,
        y="expected events",
        xaxis={"type": "category", "title": {"text": "bin, ordered by part of signal"}},
        caption="What each bin of the summary expects of 50 signal and 1000 background "
        "events.",
    )


@jit
def _bin_of(problem: Any, design: Analysis, x: Any, key: Any) -> Any:
    logits = {"signal": design.logits(x)}
    rows = problem.pipeline.inference(design, logits, key=key)
    return jnp.argmax(rows["signal"], -1)


def _map(problem: Any, design: Analysis, key: Any) -> dict[str, Any]:
    """Bin that an event belongs to, over the first two features."""
    across, up = np.linspace(-6, 10, 81), np.linspace(-8, 8, 81)
    grid = np.stack(np.meshgrid(across, up), -1).reshape(-1, 2)
    x = np.concatenate([grid, np.full((len(grid), 1), DEPTH)], 1)
    bins = _bin_of(problem, design, jnp.asarray(x, float), jax.random.fold_in(key, 1))
    return drawing.figure(
        drawing.heatmap(np.asarray(bins).reshape(81, 81), across, up, unit="bin"),
        x="x0",
        y="x1",
        equal=True,
        height=420,
        caption=f"Bin of an event at x2 = {DEPTH}. The signal is a unit Gaussian at the "
        "origin, the background a broader one around (2, 0).",
    )
