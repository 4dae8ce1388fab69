"""Workspaces for tests: the one of pyhf's documentation, and random ones."""

import warnings

import numpy as np


def oracle(spec, tolerance=1e-13):
    """pyhf's model and data; its minimiser is told to be exact (by default it is not)."""
    import pyhf

    pyhf.set_backend("numpy", pyhf.optimize.scipy_optimizer(tolerance=tolerance))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of jsonschema
        whole = pyhf.Workspace(spec)
        model = whole.model()
    return model, whole.data(model)


def uncorrelated(signal, background, uncertainty, data):
    """One channel, a signal of free strength, uncorrelated errors of the background."""
    samples = [
        sample("signal", signal, {"name": "mu", "type": "normfactor", "data": None}),
        sample(
            "background",
            background,
            {
                "name": "uncorr_bkguncrt",
                "type": "shapesys",
                "data": list(uncertainty),
            },
        ),
    ]
    return workspace({"singlechannel": samples}, {"singlechannel": data})


def sample(name, data, *modifiers):
    return {"name": name, "data": list(data), "modifiers": list(modifiers)}


def workspace(channels, observed, poi="mu", parameters=()):
    return {
        "channels": [{"name": n, "samples": s} for n, s in channels.items()],
        "observations": [
            {"name": n, "data": [float(v) for v in d]} for n, d in observed.items()
        ],
        "measurements": [
            {"name": "m", "config": {"poi": poi, "parameters": list(parameters)}}
        ],
        "version": "1.0.0",
    }


def random(seed):
    """One to three channels of one to four bins with modifiers of all types."""
    rng = np.random.default_rng(seed)
    channels, observed = {}, {}
    lumi = bool(rng.integers(2))
    for c in range(rng.integers(1, 4)):
        bins = int(rng.integers(1, 5))
        found = [
            sample(
                "signal",
                rng.uniform(2, 12, bins).round(3),
                {"name": "mu", "type": "normfactor", "data": None},
                _norm(rng, "theory"),
            )
        ]
        for b in range(rng.integers(1, 3)):
            nominal = rng.uniform(20, 80, bins).round(3)
            modifiers = [_norm(rng, "scale"), _shape(rng, nominal, "energy")]
            if rng.integers(2):
                modifiers.append(_shape(rng, nominal, f"model{b}"))
            if rng.integers(2):
                modifiers.append(_norm(rng, "energy"))  # shared with the shape
            if rng.integers(2):
                errors = (nominal * rng.uniform(0.02, 0.1, bins)).round(3).tolist()
                name = {"name": f"stat_{c}", "type": "staterror", "data": errors}
                modifiers.append(name)
            else:
                errors = (nominal * rng.uniform(0, 0.15, bins)).round(3)
                errors[0] *= rng.integers(2)  # a bin without error: fixed
                name = {"name": f"uncorrelated_{c}_{b}", "type": "shapesys"}
                modifiers.append(name | {"data": errors.tolist()})
            if lumi:
                modifiers.append({"name": "lumi", "type": "lumi", "data": None})
            found.append(sample(f"background{b}", nominal, *modifiers))
        total = np.sum([s["data"] for s in found], 0)
        channels[f"channel{c}"] = found
        observed[f"channel{c}"] = rng.poisson(total * rng.uniform(0.9, 1.05))
    parameters = [{"name": "theory", "bounds": [[-3.0, 3.0]], "inits": [0.1]}]
    if rng.integers(2):
        parameters.append({"name": "scale", "fixed": True, "inits": [0.3]})
    if lumi:
        inits = {"inits": [1.0], "bounds": [[0.5, 1.5]]}
        parameters.append({"name": "lumi", "auxdata": [1.0], "sigmas": [0.02]} | inits)
    if rng.integers(2):
        # Free in each bin: a control channel of its own measures it.
        free = {"name": "free", "type": "shapefactor", "data": None}
        channels["control"] = [sample("other", [30.0, 50.0], free)]
        channels["xtra"] = [
            sample("other", [10.0, 5.0], free),
            sample(
                "signal", [1.0, 2.0], {"name": "mu", "type": "normfactor", "data": None}
            ),
        ]
        observed |= {"control": [33, 46], "xtra": [12, 7]}
    return workspace(channels, observed, parameters=parameters)


def _norm(rng, name):
    low, high = rng.uniform(0.8, 0.98).__round__(3), rng.uniform(1.02, 1.2).__round__(3)
    return {"name": name, "type": "normsys", "data": {"lo": low, "hi": high}}


def _shape(rng, nominal, name):
    low, high = (nominal * rng.uniform(0.85, 1.15, len(nominal)) for _ in range(2))
    data = {"lo_data": low.round(3).tolist(), "hi_data": high.round(3).tolist()}
    return {"name": name, "type": "histosys", "data": data}
