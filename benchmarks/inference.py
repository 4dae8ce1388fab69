"""CLs of a medium HistFactory workspace: time and value beside pyhf.

    python benchmarks/inference.py [--bins 10] [--repeats 5]

Three channels, four samples, norms, shapes and errors of single bins. Times are CPU
seconds of this process (the machine may be shared); their ratio counts. pyhf runs with NumPy, as
it comes and with its minimiser told to be exact.
"""

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from kythera.physics.statistics import hypotheses
from kythera.physics.statistics.workspace import read


def workspace(bins: int) -> dict[str, Any]:
    """A signal on three backgrounds, two of which move in shape; errors bin by bin."""
    rng = np.random.default_rng(1)
    x = (np.arange(bins) + 0.5) / bins
    shapes = {
        "signal": 15 * np.exp(-(((x - 0.6) / 0.15) ** 2)),
        "first": 80 * np.exp(-2 * x),
        "second": np.full(bins, 20.0),
        "third": 30 * x,
    }
    channels, observed = [], []
    for c in range(3):
        samples = []
        for name, shape in shapes.items():
            nominal = shape * rng.uniform(0.8, 1.2) + 1
            modifiers = [_norm(f"norm_{name}", rng.uniform(0.03, 0.1))]
            if name == "signal":
                modifiers.append({"name": "mu", "type": "normfactor", "data": None})
            else:
                tilt = {f"tilt_{k}": 0.1 * np.sin((k + 2) * x + c) for k in range(4)}
                modifiers += [_shape(k, nominal, v) for k, v in tilt.items()]
                error = (0.05 * nominal).tolist()
                stat = {"name": f"stat_{c}", "type": "staterror", "data": error}
                modifiers.append(stat)
            samples.append(
                {"name": name, "data": nominal.tolist(), "modifiers": modifiers}
            )
        total = np.sum([s["data"] for s in samples[1:]], 0)
        channels.append({"name": f"channel{c}", "samples": samples})
        counts = rng.poisson(total).astype(float).tolist()
        observed.append({"name": f"channel{c}", "data": counts})
    config = {"poi": "mu", "parameters": []}
    return {
        "channels": channels,
        "observations": observed,
        "measurements": [{"name": "m", "config": config}],
        "version": "1.0.0",
    }


def _norm(name: str, width: float) -> dict[str, Any]:
    return {"name": name, "type": "normsys", "data": {"lo": 1 - width, "hi": 1 + width}}


def _shape(name: str, nominal: np.ndarray, part: np.ndarray) -> dict[str, Any]:
    ends = {"lo_data": nominal * (1 - part), "hi_data": nominal * (1 + part)}
    data = {k: v.tolist() for k, v in ends.items()}
    return {"name": name, "type": "histosys", "data": data}


def seconds(call: Callable[[], Any], repeats: int = 1) -> tuple[float, Any]:
    """Median CPU seconds of one call, and what it gives."""
    times, value = [], None
    for _ in range(repeats):
        begin = time.process_time()
        value = jax.block_until_ready(call())
        times.append(time.process_time() - begin)
    return statistics.median(times), value


def oracle(spec: dict[str, Any], tolerance: float | None) -> Callable[[], float]:
    """CLs by pyhf."""
    import pyhf

    pyhf.set_backend("numpy", pyhf.optimize.scipy_optimizer(tolerance=tolerance))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        whole = pyhf.Workspace(spec)
        model = whole.model()
    data = whole.data(model)
    return lambda: float(pyhf.infer.hypotest(1.0, data, model))  # type: ignore


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bins", type=int, default=10, help="of each channel")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    spec = workspace(arguments.bins)
    model = read(spec)
    limit = eqx.filter_jit(lambda m: hypotheses.upper_limit(m, m.data).cls)

    @eqx.filter_jit
    def sloped(m: Any) -> Any:
        def cls(nominal: Any) -> Any:
            moved = eqx.tree_at(lambda t: t.nominal, m, nominal)
            return hypotheses.expected_limit(moved)

        return jax.value_and_grad(cls)(m.nominal)

    first, _ = seconds(lambda: limit(model))
    steady, cls = seconds(lambda: limit(model), arguments.repeats)
    slope_first, _ = seconds(lambda: sloped(model))
    slope, _ = seconds(lambda: sloped(model), arguments.repeats)
    print(f"{len(model.names)} parameters, {len(model.observed)} bins")
    print(f"kythera: CLs {float(jnp.asarray(cls)):.9f}")
    print(f"  first call {first:.2f} s, then {steady:.4f} s")
    print(
        f"  expected CLs and its gradient in all yields: {slope_first:.2f} s, {slope:.4f} s"
    )
    for name, tolerance in (("as it comes", None), ("exact", 1e-13)):
        theirs, value = seconds(oracle(spec, tolerance))
        print(f"pyhf {name}: CLs {value:.9f}, {theirs:.2f} s")
        print(f"  ratio: {theirs / steady:.0f} (first call: {theirs / first:.2f})")


if __name__ == "__main__":
    main()
