"""Results of searches that never ran: trials of a known loss, with known noise."""

import numpy as np

import kythera as ky


def quadratic(hessian, bottom, lowest=3.0):
    """A loss, and its gradient: lowest + d . H d / 2, d being the way from the bottom."""
    hessian, bottom = np.asarray(hessian, float), np.asarray(bottom, float)

    def loss(u):
        d = u - bottom
        return lowest + np.einsum("ti,ij,tj->t", d, hessian, d) / 2, d @ hessian

    return loss


def rotated(eigenvalues, seed=3):
    """A Hessian with these eigenvalues, and its eigenvectors as columns."""
    n = len(eigenvalues)
    vectors = np.linalg.qr(np.random.default_rng(seed).normal(size=(n, n)))[0]
    return vectors * np.asarray(eigenvalues) @ vectors.T, vectors


def cloud(n, count, seed, middle=0.5, width=0.15):
    """Points of the cube around one."""
    draw = np.random.default_rng(seed)
    return np.clip(middle + width * draw.normal(size=(count, n)), 0, 1)


def noisy(loss, u, seed, noise=0.02, steep=None, batch=0, shared=0.0):
    """Values, errors, samples and gradients of a loss at points.

    Trials of a batch have a part `shared` of their variance in common.
    """
    draw, count = np.random.default_rng(seed), len(u)
    sample = np.arange(count) // batch if batch else np.arange(count)
    stderr = noise * (0.5 + draw.random(count))
    common = draw.normal(size=sample.max() + 1)[sample]
    luck = np.sqrt(1 - shared) * draw.normal(size=count) + np.sqrt(shared) * common
    value, gradient = loss(u)
    found = {"total": value + stderr * luck, "stderr": stderr, "sample": sample}
    if steep is not None:
        gradient = gradient + steep * draw.normal(size=u.shape)
        return found, gradient
    return found, None


def result(
    u, found, best=None, gain=(1.0, 0.05), bounds=(0.0, 1.0), unit="m", **record
):
    """A result with these trials; `gain=None` for a run that is not finished."""
    count, n = u.shape
    best = np.asarray(np.mean(u, 0) if best is None else best, float)
    low, high = (np.broadcast_to(np.asarray(b, float), n) for b in bounds)
    native = low + u * (high - low)
    number = {"value": None, "stderr": None}
    if gain is not None:
        number = {"value": gain[0], "stderr": gain[1]}
    loss = {"value": None if gain is None else 3.0, "stderr": gain and 0.01}
    soft = {"start": loss, "best": loss, "gain": number, "events": 0}
    group = {"path": "x", "kind": "real", "size": n, "unit": unit, "log": False}
    whole = {
        "finished": gain is not None,
        "date": "2030-01-01T00:00:00+00:00",
        "kythera": "0",
        "jax": "0",
        "python": "3",
        "command": "",
        "reason": "" if gain is None else "all trials are done",
        "seconds": 1.0,
        "seed": 1,
        "budget": {},
        "instrument": {
            **{"name": "made", "reference": "made", "settings": {}, "weights": {}},
            "rows": 4,
        },
        "optimiser": {"name": "Adam", "settings": {}, "option": "adam"},
        "estimator": {"name": "Pathwise", "settings": {}, "option": ""},
        "events": {"search": 4 * count, "report": 8, "evaluation": 4},
        "space": {
            "names": [f"x[{i}]" for i in range(n)],
            "units": [unit] * n,
            "lower": low.tolist(),
            "upper": high.tolist(),
            "kinds": ["real"] * n,
            "groups": [group | {"options": []}],
        },
        "start": {"cube": u[0].tolist(), "values": native[0].tolist()},
        "best": {"cube": best.tolist(), "values": (low + best * (high - low)).tolist()},
        "soft": soft | {"terms": {}, "slack": {}},
        "hard": None,
        "gain": number,
        "terms": ["loss"],
        "slack": [],
        "causes": {},
        "drawing_failed": "",
        "references": [],
    }
    trials = {
        "number": np.arange(count),
        "sample": np.arange(count),
        "u": u,
        "values": native,
        "total": np.zeros(count),
        "stderr": np.ones(count),
        "terms": np.asarray(found["total"])[:, None],
        "terms_stderr": np.asarray(found["stderr"])[:, None],
        "slack": np.zeros((count, 0)),
        "slack_stderr": np.zeros((count, 0)),
        "events": np.full(count, 4),
        "spent": 4 * (np.arange(count) + 1),
        "seconds": np.full(count, 0.5),
        "state": np.full(count, "complete", "U8"),
    }
    return ky.Result(whole | record, trials | found, {})
