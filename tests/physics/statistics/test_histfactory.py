"""Workspaces read and evaluated as pyhf does, and what is no workspace."""

import copy
import json

import equinox as eqx
import numpy as np
import pytest

from kythera import errors
from kythera.physics.statistics.workspace import read

from . import workspaces


@eqx.filter_jit
def evaluated(model, parameters):
    expected = model.expected(parameters)
    return expected, model.logpdf(parameters), model.nll(parameters, expected)


def compare(seed):
    """Names, data, expectations, log-likelihood at a random point."""
    spec = workspaces.random(seed)
    theirs, data = workspaces.oracle(spec)
    model = read(spec)
    assert list(model.names) == theirs.config.par_names
    np.testing.assert_allclose(model.start, theirs.config.suggested_init())
    bounds = np.array(theirs.config.suggested_bounds(), float)
    fixed = np.array(theirs.config.suggested_fixed())
    np.testing.assert_array_equal(model.low == model.up, fixed)
    np.testing.assert_allclose(model.low[~fixed], bounds[~fixed, 0])
    np.testing.assert_allclose(model.up[~fixed], bounds[~fixed, 1])
    assert model.poi == theirs.config.poi_index
    rng = np.random.default_rng(seed)
    at = np.array(theirs.config.suggested_init()) + rng.normal(size=len(fixed)) / 5
    at = np.clip(at, 0.2, None)
    expected, logpdf, none = evaluated(model, at)
    np.testing.assert_allclose(model.data, data, rtol=1e-12)
    np.testing.assert_allclose(expected, theirs.expected_data(at), rtol=1e-11)
    assert logpdf == pytest.approx(float(theirs.logpdf(at, data)[0]), abs=1e-8)
    assert none == pytest.approx(0, abs=1e-10)


def test_values_of_pyhf(x64):
    compare(0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 20))
def test_values_of_pyhf_on_many_workspaces(x64, seed):
    compare(seed)


def test_a_file_and_its_second_measurement(tmp_path):
    spec = workspaces.random(3)
    other = copy.deepcopy(spec["measurements"][0])
    other |= {"name": "other"}
    other["config"]["poi"] = "theory"
    spec["measurements"].append(other)
    path = tmp_path / "workspace.json"
    path.write_text(json.dumps(spec))
    first, second = read(path), read(path, "other")
    assert first.names[first.poi] == "mu"
    assert second.names[second.poi] == "theory"
    other["config"]["poi"] = ""
    path.write_text(json.dumps(spec))
    assert read(str(path), "other").poi is None


def test_no_counts_and_less_than_none(x64):
    """A bin that may be empty has a finite likelihood; less than nothing has none."""
    spec = workspaces.uncorrelated([12, 11], [50, 52], [3, 0], [51, 0])
    model = read(spec)
    assert model.low[2] == model.up[2] == 1  # no error: no parameter
    nll = eqx.filter_jit(lambda p: model.nll(p))
    mean = 50 * 0.9 + 12
    main = mean - 51 - 51 * np.log(mean / 51) + 52 + 11
    tau = (50 / 3) ** 2
    aux = 0.9 * tau - tau - tau * np.log(0.9)
    assert nll(np.array([1.0, 0.9, 1.0])) == pytest.approx(main + aux, abs=1e-9)
    assert np.isinf(nll(np.array([-9.0, 1.0, 1.0])))


def changed(*path, value):
    """The two-bin workspace with one entry set."""
    spec = workspaces.uncorrelated([12, 11], [50, 52], [3, 7], [51, 48])
    at = spec
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = value
    return spec


def without(*path):
    """The two-bin workspace with one entry less."""
    spec = workspaces.uncorrelated([12, 11], [50, 52], [3, 7], [51, 48])
    at = spec
    for step in path[:-1]:
        at = at[step]
    del at[path[-1]]
    return spec


SAMPLE = ("channels", 0, "samples", 1)
MODIFIER = (*SAMPLE, "modifiers", 0)
SETTINGS = ("measurements", 0, "config", "parameters")
SHAPE = {"name": "a", "type": "histosys"}
NORM = {"name": "n", "type": "normsys"}
MU = {"name": "mu"}
OBSERVED = {"name": "singlechannel", "data": [51.0, 48.0]}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (changed(*MODIFIER, "type", value="shapesis"), "Did you mean 'shapesys'"),
        (changed(*SAMPLE, "data", value=[50, -2]), r"\[-2\.\] in bins 1. Merge"),
        (changed(*SAMPLE, "data", value=[50]), "2 bins, but .* has 1. Rebin"),
        (changed("channels", 0, "samples", value=[]), "at least one sample"),
        (changed("channels", value=[]), "no channels"),
        (changed(*MODIFIER, "data", value=[3]), "each of 2 bins"),
        (changed(*MODIFIER, "data", value=[3, -1]), ">= 0 .* absolute"),
        (changed("observations", 0, "name", value="x"), "'singlechannel' has none"),
        (changed("observations", 0, "data", value=[1]), "has 1. Rebin"),
        (changed("measurements", 0, "config", "poi", value="nu"), "'nu' is not"),
        (
            changed("measurements", 0, "config", "poi", value="uncorr_bkguncrt"),
            "one value for each bin",
        ),
        (changed(*SETTINGS, value=[{"name": "mu", "fixed": True}]), "'mu' is fixed"),
        (changed(*SETTINGS, value=[{"name": "mu", "inits": [11]}]), "starts at"),
        (
            changed(*SETTINGS, value=[{"name": "mu", "bounds": [[3, 1]]}]),
            "lower, upper",
        ),
        (changed(*SETTINGS, value=[{"name": "mu", "sigmas": [1]}]), r"\['sigmas'\]"),
        (changed(*SETTINGS, value=[{"name": "mu"}] * 2), "came twice"),
        (changed(*MODIFIER, value=SHAPE | {"data": {"hi_data": [1, 2]}}), "Give both"),
        (
            changed(*MODIFIER, value={"name": "lumi", "type": "lumi", "data": None}),
            "has no .*'auxdata', 'bounds', 'inits', 'sigmas'",
        ),
        (
            changed(
                *MODIFIER,
                value={"name": "n", "type": "normsys", "data": {"lo": -0.1, "hi": 1.1}},
            ),
            "factors > 0",
        ),
        (
            changed(
                *SAMPLE,
                "modifiers",
                value=[
                    {"name": "mu", "type": "normsys", "data": {"lo": 0.9, "hi": 1.1}}
                ],
            ),
            "share one parameter",
        ),
        ("no/such/file.json", "cannot be read"),
        (3, "cannot be read"),
        ([1], "cannot be read"),
        (changed("channels", value="abc"), "'channels' of a workspace must be a list"),
        (changed("channels", 0, value=1), "must be a list of objects"),
        (without("channels", 0, "name"), "Each of the channels must have 'name'"),
        (
            without(*SAMPLE, "data"),
            "Sample 'background' of .*'singlechannel' must have 'data'",
        ),
        (changed(*SAMPLE, "data", value=["a", "b"]), "'background' .*without quotes"),
        (changed(*SAMPLE, "data", value=None), "'background' .*but is None"),
        (changed(*SAMPLE, "data", value=[[50, 52]]), "2 bins|has 2"),
        (changed(*SAMPLE, "data", value=[50, [52]]), "lists of equal length"),
        (changed(*SAMPLE, "name", value="signal"), r"\['signal'\] came twice"),
        (without(*MODIFIER, "type"), "Each modifier of sample 'background' .* 'type'"),
        (without(*MODIFIER, "name"), "Each modifier of sample 'background' .* 'name'"),
        (changed(*MODIFIER, "data", value=None), "each of 2 bins"),
        (changed(*MODIFIER, "data", value=[3, float("inf")]), "finite .*'uncorr_bkg"),
        (changed(*MODIFIER, "data", value=["3", "7"]), "'uncorr_bkg.*without quotes"),
        (
            changed(*MODIFIER, value=NORM | {"data": {"lo": "x", "hi": 1}}),
            "'lo' of .*'n'",
        ),
        (
            changed(*MODIFIER, value=NORM | {"data": {"lo": 1, "hi": float("inf")}}),
            "'n' of sample 'background' in 'singlechannel' has .* hi = inf",
        ),
        (
            changed("observations", value=2 * [OBSERVED]),
            r"The observations .*\['singlechannel'\] came twice",
        ),
        (changed("observations", 0, "data", value=["51", "48"]), "without quotes"),
        (
            changed("measurements", value=2 * [{"name": "m"}]),
            "measurements .*came twice",
        ),
        (changed("measurements", 0, "config", value=3), "an object"),
        (changed("measurements", 0, "config", "poi", value=3), "'poi' of `config`"),
        (changed(*SETTINGS, value=[{"name": "mv"}]), "'mv' is none.*mean 'mu'"),
        (changed(*SETTINGS, value=[{"inits": [1]}]), "must have 'name'"),
        (changed(*SETTINGS, value=[MU | {"fixed": [True, False]}]), "each of 1 values"),
        (changed(*SETTINGS, value=[MU | {"fixed": "no"}]), "true or false"),
        (changed(*SETTINGS, value=[MU | {"inits": ["1"]}]), "'inits' of .*'mu'"),
        (changed(*SETTINGS, value=[MU | {"bounds": [0, 9]}]), "lower, upper"),
        (changed(*SETTINGS, value=[MU | {"bounds": [[0, 5, 9]]}]), "lower, upper"),
    ],
)
def test_bad_workspaces(spec, message):
    with pytest.raises(errors.InputError, match=message):
        read(spec)


def test_bins_in_which_nothing_is_expected():
    spec = workspaces.uncorrelated([0, 11, 0], [0, 52, 0], [3, 7, 1], [1, 48, 0])
    with pytest.raises(errors.InputError, match="bins 0, 2 of channel 'singlechannel'"):
        read(spec)
