#!/usr/bin/env python3
"""Measure TomOpt 0.1.0 on one scene: CPU time, loss and event distributions.

Run it in the environment that ``environment.py`` makes, in a process of its own::

    .cache/tomopt-venv/bin/python benchmarks/tomopt/measure.py --out tomopt.json

One thread; CPU seconds (``time.process_time``), never wall time. The scene is that of
TomOpt's own quality test (lead block in beryllium) with sigmoid panels; it is written
out in full under ``configuration``, so that another program can repeat it. Only
TomOpt's public interface is called. Its cost in the Jacobian of the hit uncertainties,
which grows with the square of the batch, is timed from outside and given separately.

``reference_step_*.json``, beside this file, were made with ``--only agreement``, one
with ``--seeds 10``, one with ``--step 0.3 --batch 100 --seeds 8``.
"""

# ruff: noqa: E402 - the number of threads must be set before the imports
# TomOpt lives in another environment.
# pyright: reportMissingImports=false

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_name] = "1"

import argparse
import importlib.metadata
import json
import math
import platform
import re
import resource
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tomopt.inference.scattering as scattering
import torch
from tomopt.core import X0
from tomopt.inference import PanelX0Inferrer, ScatterBatch
from tomopt.muon import MuonBatch, MuonGenerator2016
from tomopt.optimisation import MuonResampler, PanelVolumeWrapper, VoxelX0Loss
from tomopt.volume import PanelDetectorLayer, PassiveLayer, SigmoidDetectorPanel, Volume

torch.set_num_threads(1)
torch.set_num_interop_threads(1)

SIZE = 0.1  # voxel edge [m]
LAYER_TOPS = (0.8, 0.7, 0.6, 0.5, 0.4, 0.3)  # [m]
PANEL_Z = tuple(round(z - 0.05 * i, 2) for z in (1.0, 0.2) for i in range(4))  # [m]
SPAN, CENTRE = 1.0, 0.5  # [m], the same in x and y
SMOOTH, RESOLUTION, EFFICIENCY = 0.5, 1e4, 0.9  # -, 1/m, -
MOMENTUM = 5.0  # [GeV]
TARGET_BUDGET, COST_COEF = 8.0, 0.15  # eight panels of 1 m2: the budget is just met
# Too small to move a panel: each repeat measures the same design.
RATES = {"xy_pos_opt": 1e-6, "z_pos_opt": 1e-6, "xy_span_opt": 1e-6}
QUANTILES = (0.25, 0.5, 0.683, 0.9)


class Stopwatch:
    """Sums CPU seconds by name; parts may be nested."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Add the CPU time spent in the block to `name`."""
        start = time.process_time()
        try:
            yield
        finally:
            self.seconds[name] += time.process_time() - start


@contextmanager
def timed_jacobian(watch: Stopwatch) -> Iterator[None]:
    """Within the block, time every call of the hit-uncertainty Jacobian."""
    original = scattering.jacobian

    def timed(*args: Any, **kwargs: Any) -> torch.Tensor:
        with watch.part("jacobian"):
            return original(*args, **kwargs)

    scattering.jacobian = timed
    try:
        yield
    finally:
        scattering.jacobian = original


def voxel_x0(*, z: torch.Tensor, lw: torch.Tensor, size: float) -> torch.Tensor:
    """X0 [m] of the 10 x 10 voxels of the layer whose top is at `z`."""
    x0 = torch.full((10, 10), X0["beryllium"])
    if 0.39 < float(z) < 0.51:
        x0[5:, 5:] = X0["lead"]
    return x0


def make_volume(step: float) -> Volume:
    """Eight sigmoid panels around six voxel layers, in training mode."""
    area = torch.tensor([1.0, 1.0])

    def panel(z: float) -> SigmoidDetectorPanel:
        return SigmoidDetectorPanel(
            smooth=SMOOTH,
            res=RESOLUTION,
            eff=EFFICIENCY,
            init_xyz=(CENTRE, CENTRE, z),
            init_xy_span=(SPAN, SPAN),
        )

    def detector(pos: str, z: float, heights: tuple[float, ...]) -> PanelDetectorLayer:
        panels = [panel(h) for h in heights]
        return PanelDetectorLayer(pos, lw=area, z=z, size=2 * SIZE, panels=panels)

    layers = [detector("above", 1.0, PANEL_Z[:4])]
    for top in LAYER_TOPS:
        layers.append(PassiveLayer(lw=area, z=top, size=SIZE, step_sz=step))
    layers.append(detector("below", 0.2, PANEL_Z[4:]))
    volume = Volume(torch.nn.ModuleList(layers))
    volume.load_rad_length(voxel_x0)
    volume.train()
    return volume


class Bench:
    """The scene, its muon source, its loss and one optimiser for each kind."""

    def __init__(self, step: float) -> None:
        self.volume = make_volume(step)
        self.source = MuonGenerator2016.from_volume(self.volume, fixed_mom=MOMENTUM)
        self.loss = VoxelX0Loss(target_budget=TARGET_BUDGET, cost_coef=COST_COEF)
        self.wrapper = PanelVolumeWrapper(
            self.volume,
            loss_func=self.loss,
            mu_generator=self.source,
            **{name: partial(torch.optim.SGD, lr=lr) for name, lr in RATES.items()},
        )

    @property
    def parameters(self) -> int:
        """The number of free parameters."""
        return sum(p.numel() for p in self.volume.parameters())

    def muons(self, n: int) -> MuonBatch:
        """Draw `n` muons, all of which meet the volume if they fly straight."""
        drawn = MuonResampler.resample(self.source(n), self.volume, self.source)
        return MuonBatch(drawn, init_z=self.volume.h)

    def optimise_once(self, n: int, batch: int, watch: Stopwatch) -> dict[str, float]:
        """One whole step: muons, hits, tracks, X0 map, loss, gradients, update."""
        inferrer = PanelX0Inferrer(self.volume)
        with timed_jacobian(watch), watch.part("step"):
            for _ in range(n // batch):
                with watch.part("generation"):
                    muons = self.muons(batch)
                with watch.part("forward"):
                    self.volume(muons)
                with watch.part("tracks"):
                    inferrer.add_scatters(ScatterBatch(muons, self.volume))
            with watch.part("prediction"):  # the Jacobian is in here
                prediction = inferrer.get_prediction()
                loss = self.loss(prediction, self.volume)
            with watch.part("backward"):
                for optimiser in self.wrapper.opts.values():
                    optimiser.zero_grad()
                loss.backward()
            with watch.part("update"):
                for optimiser in self.wrapper.opts.values():
                    optimiser.step()
                for layer in self.volume.get_detectors():
                    layer.conform_detector()
        return {
            "loss": loss.item(),
            "mean_predicted_x0_m": prediction.detach().mean().item(),
        }


def seed_all(seed: int) -> None:
    """TomOpt draws from the two global generators."""
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002


def summary(samples: list[float]) -> dict[str, Any]:
    """Median, minimum and the samples themselves, in CPU seconds."""
    return {
        "median_s": round(statistics.median(samples), 5),
        "min_s": round(min(samples), 5),
        "samples_s": [round(s, 5) for s in samples],
    }


def repeat(task: Callable[[], None], repeats: int) -> dict[str, Any]:
    """CPU time of `task`, after one call that is not counted."""
    task()
    samples = []
    for _ in range(repeats):
        start = time.process_time()
        task()
        samples.append(time.process_time() - start)
    return summary(samples)


def time_forward(n: int, repeats: int, step: float) -> dict[str, Any]:
    """Propagation and hits of one batch of `n` muons that are drawn beforehand."""
    bench = Bench(step)
    seed_all(1)
    drawn = bench.source(n)
    drawn = MuonResampler.resample(drawn, bench.volume, bench.source)

    def forward() -> None:
        bench.volume(MuonBatch(drawn.clone(), init_z=bench.volume.h))

    return {"muons": n, "batch": n, **repeat(forward, repeats)}


def time_generation(n: int, repeats: int, step: float) -> dict[str, Any]:
    """Drawing `n` muons, resampling included."""
    bench = Bench(step)
    seed_all(1)
    return {"muons": n, **repeat(lambda: bench.muons(n) and None, repeats)}


def time_step(n: int, batch: int, repeats: int, step: float) -> dict[str, Any]:
    """One optimisation step, with and without the quadratic Jacobian."""
    bench = Bench(step)
    seed_all(1)
    bench.optimise_once(batch, batch, Stopwatch())
    runs, values = [], []
    for _ in range(repeats):
        watch = Stopwatch()
        values.append(bench.optimise_once(n, batch, watch))
        runs.append(watch.seconds)
    parts = {
        name: round(statistics.median(run[name] for run in runs), 5)
        for name in runs[0]
        if name != "step"
    }
    return {
        "muons": n,
        "batch": batch,
        "step": summary([run["step"] for run in runs]),
        "step_without_jacobian": summary(
            [run["step"] - run["jacobian"] for run in runs]
        ),
        "parts_median_s": parts,
        "values": values,
    }


def timing(arguments: argparse.Namespace) -> dict[str, Any]:
    """All timings, in CPU seconds on one thread."""
    step, repeats = arguments.step, arguments.repeats
    result: dict[str, Any] = {"unit": "CPU seconds, one thread"}
    for name, task in (("generation", time_generation), ("forward", time_forward)):
        result[name] = [task(n, max(repeats, 5), step) for n in arguments.muons]
    result["optimisation_step"] = [
        time_step(n, arguments.batch, repeats, step) for n in arguments.muons
    ]
    result["peak_rss_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return result


def direction(muons: MuonBatch) -> torch.Tensor:
    """Unit vectors of flight, z downwards."""
    theta, phi = muons.theta.double(), muons.phi.double()
    sine = theta.sin()
    return torch.stack([sine * phi.cos(), sine * phi.sin(), theta.cos()], dim=-1)


def angle(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """Angle between vectors, exact for small angles too."""
    return torch.atan2(torch.cross(p, q, dim=-1).norm(dim=-1), (p * q).sum(-1))


def spread(name: str, values: torch.Tensor) -> dict[str, float]:
    """Root mean square, mean and quantiles of a sample."""
    x = values.detach().double().flatten().numpy()
    result = {f"{name}_rms": float(np.sqrt(np.mean(x**2))), f"{name}_mean": x.mean()}
    for q, value in zip(QUANTILES, np.quantile(x, QUANTILES), strict=True):
        result[f"{name}_q{q}"] = float(value)
    return result


def observe(bench: Bench, n: int, batch: int) -> tuple[dict[str, float], torch.Tensor]:
    """One sample of `n` muons: what a second program should find again."""
    volume, inferrer = bench.volume, PanelX0Inferrer(bench.volume)
    rows: dict[str, list[torch.Tensor]] = defaultdict(list)
    for _ in range(n // batch):
        muons = bench.muons(batch)
        before = direction(muons)
        rows["source_theta"].append(muons.theta.clone())
        volume(muons)
        rows["angle_true"].append(1e3 * angle(before, direction(muons)))
        scatters = ScatterBatch(muons, volume)
        inferrer.add_scatters(scatters)
        rows["angle_reco"].append(1e3 * scatters.theta_msc)
        rows["angle_reco_unc"].append(1e3 * scatters.theta_msc_unc)
        rows["poca"].append(scatters.poca_xyz.detach())
        rows["poca_unc"].append(scatters.poca_xyz_unc.detach())
        rows["inside"].append(scatters.get_scatter_mask().detach())
        rows["hit_efficiency"].append(scatters.hit_effs.detach().squeeze(-1))
    prediction = inferrer.get_prediction()
    bench.loss(prediction, volume)
    column = {name: torch.cat(parts) for name, parts in rows.items()}
    return figures(bench, inferrer, prediction, column), prediction.detach()


def figures(
    bench: Bench,
    inferrer: PanelX0Inferrer,
    prediction: torch.Tensor,
    column: dict[str, torch.Tensor],
) -> dict[str, float]:
    """Numbers that describe one sample; angles in mrad, lengths in m."""
    volume = bench.volume
    lead = volume.get_rad_cube() < 0.1
    x0 = prediction.detach()
    result = {
        "loss_error": bench.loss.sub_losses["error"].item(),
        "loss_cost": bench.loss.sub_losses["cost"].item(),
        "predicted_x0_mean": x0.mean().item(),
        "predicted_x0_lead": x0[lead].mean().item(),
        "predicted_x0_beryllium": x0[~lead].mean().item(),
        "muons_used": float(inferrer.n_mu),
        "muon_efficiency_mean": inferrer.muon_efficiency.detach().mean().item(),
        "muon_efficiency_std": inferrer.muon_efficiency.detach().std().item(),
        "poca_inside_fraction": column["inside"].double().mean().item(),
        "source_theta_mean_rad": column["source_theta"].mean().item(),
    }
    result["loss"] = result["loss_error"] + result["loss_cost"]
    for name in ("angle_true", "angle_reco", "angle_reco_unc"):
        result |= spread(f"{name}_mrad", column[name])
    for i, value in enumerate(column["hit_efficiency"].mean(0).tolist()):
        result[f"hit_efficiency_panel{i}"] = value
    z = column["poca"][:, 2]
    for q, value in zip(QUANTILES, np.quantile(z, QUANTILES), strict=True):
        result[f"poca_z_q{q}"] = float(value)
    for name, axis in (("x", 0), ("z", 2)):
        result[f"poca_{name}_unc_median"] = column["poca_unc"][:, axis].median().item()
    edges = [-math.inf, *(0.2 + SIZE * i for i in range(7)), math.inf]
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        share = ((z >= low) & (z < high)).double().mean().item()
        result[f"poca_z_in_{low:.1f}_{high:.1f}"] = share
    return result


def agreement(arguments: argparse.Namespace) -> dict[str, Any]:
    """Mean and standard error over seeds of everything in `figures`."""
    samples, maps = [], []
    n = max(arguments.muons)
    for seed in range(1, arguments.seeds + 1):
        seed_all(seed)
        sample, prediction = observe(Bench(arguments.step), n, arguments.batch)
        samples.append(sample)
        maps.append(prediction.double().numpy())
        print(f"seed {seed}: loss {sample['loss']:.5f}", file=sys.stderr, flush=True)
    table = {}
    for name in samples[0]:
        values = np.array([s[name] for s in samples])
        table[name] = {"mean": values.mean(), "stderr": stderr(values)}
    cube = np.array(maps)
    return {
        "muons": n,
        "batch": arguments.batch,
        "seeds": arguments.seeds,
        "step_m": arguments.step,
        "stderr": "of the mean over seeds",
        "figures": table,
        "loss_samples": [s["loss"] for s in samples],
        "predicted_x0_m": np.round(cube.mean(0), 5).tolist(),
        "predicted_x0_stderr_m": np.round(stderr(cube), 5).tolist(),
    }


def stderr(values: np.ndarray) -> Any:
    """Standard error of the mean along the first axis (zero for one sample)."""
    if len(values) < 2:
        return np.zeros(values.shape[1:])
    return values.std(0, ddof=1) / math.sqrt(len(values))


def configuration(step: float) -> dict[str, Any]:
    """The scene in full, read back from TomOpt's own objects."""
    bench = Bench(step)
    volume = bench.volume
    panels = [
        {
            "group": layer.pos,
            "x_m": panel.xy[0].item(),
            "y_m": panel.xy[1].item(),
            "z_m": panel.z.item(),
            "span_m": panel.xy_span.tolist(),
            "smooth": panel.smooth.item(),
            "resolution_per_m": panel.resolution.item(),
            "efficiency": panel.efficiency.item(),
            "cost_per_m2": panel.m2_cost.item(),
        }
        for layer in volume.get_detectors()
        for panel in layer.panels
    ]
    return {
        "panels": panels,
        "parameters": bench.parameters,
        "panel_z_bounds_m": {"above": [0.8, 1.0], "below": [0.0, 0.2]},
        "passive_z_m": [float(z) for z in volume.get_passive_z_range()],
        "voxel_m": SIZE,
        "voxel_x0_m": volume.get_rad_cube().tolist(),
        "voxel_order": "[z][x][y], lowest layer first",
        "scattering_step_m": step,
        "start_z_m": volume.h.item(),
        "muons": {
            "model": type(bench.source).__name__,
            "momentum_gev": MOMENTUM,
            "x_range_m": list(bench.source.x_range),
            "y_range_m": list(bench.source.y_range),
            "theta_range_rad": [0.0, math.radians(70)],
            "phi": "uniform in 0..2 pi",
            "kept": "straight path inside x, y of the volume at the top of a layer",
        },
        "loss": {"target_budget": TARGET_BUDGET, "cost_coef": COST_COEF},
        "optimisers": {"kind": "SGD", "learning_rates": RATES},
    }


def tidy(value: Any) -> Any:
    """The same, with every number cut to seven digits (single precision)."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, dict):
        return {name: tidy(item) for name, item in value.items()}
    if isinstance(value, list):
        return [tidy(item) for item in value]
    return float(f"{value:.7g}") if isinstance(value, float) else value


def as_json(result: dict[str, Any]) -> str:
    """JSON with each row of numbers on one line."""
    text = json.dumps(tidy(result), indent=1)
    row = re.compile(r"\[\s+([-+.,\deE\s]+?)\s+\]")
    return row.sub(lambda match: f"[{' '.join(match[1].split())}]", text)


def versions() -> dict[str, str]:
    """What was run."""
    names = ("tomopt", "torch", "numpy")
    found = {name: importlib.metadata.version(name) for name in names}
    return {"python": platform.python_version(), **found}


def main() -> None:
    """Measure what was asked for and write JSON."""
    parser = argparse.ArgumentParser(description="Measure TomOpt on one scene.")
    parser.add_argument("--only", choices=["timing", "agreement"])
    parser.add_argument("--muons", type=int, nargs="+", default=[1000, 10000])
    parser.add_argument("--batch", type=int, default=250, help="muons in a batch")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=8, help="samples for agreement")
    parser.add_argument(
        "--step",
        type=float,
        default=0.01,
        help="scattering step [m]; 0.3: one scatter in each layer",
    )
    parser.add_argument("--out", type=Path, help="file; the default is stdout")
    arguments = parser.parse_args()
    if any(n % arguments.batch for n in arguments.muons):
        parser.error("--muons must be multiples of --batch")
    result: dict[str, Any] = {
        "program": "TomOpt",
        "versions": versions(),
        "configuration": configuration(arguments.step),
    }
    if arguments.only != "agreement":
        result["timing"] = timing(arguments)
    if arguments.only != "timing":
        result["agreement"] = agreement(arguments)
    text = as_json(result)
    if arguments.out:
        arguments.out.write_text(text + "\n")
    else:
        print(text)


if __name__ == "__main__":
    main()
