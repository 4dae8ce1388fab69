"""Scores without their bias, where the bias is known exactly."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kythera as ky
from kythera import errors
from kythera.core.types import Array


class Place(eqx.Module):
    at: Array


class Noise(ky.AbstractSource):
    primaries: int = eqx.field(static=True, default=1)

    def __call__(self, events, *, key):
        return jax.random.normal(key, (events,))


class Shift(ky.AbstractPathwiseSimulator):
    def __call__(self, design, x, *, key):
        return design.at + x


class SquareOfMean(ky.AbstractObjective):
    """(mean of z)^2, too large by the variance of the mean, 1 / events."""

    def tally(self, design, trace):
        return trace.signal

    def score(self, design, tally):
        return ky.Score({"square": tally**2, "mean": tally}, {"left": 1 - tally**2})


def problem(events=100):
    space = ky.Space(Place(jnp.array(0.3)), {"at": ky.Real(-1, 1)})
    return ky.Problem(
        space, ky.Pipeline(Noise(), Shift()), SquareOfMean(), events=events
    )


def test_the_bias_of_a_square_is_taken_off(getkey):
    case, design = problem(40), Place(jnp.array(0.05))
    keys = jax.random.split(getkey(), 300)
    many = [ky.jackknife(case, design, key=k, groups=20) for k in keys]
    plain = np.array([one.plain["square"] for one in many])
    value = np.array([one.value["square"].value for one in many])
    error = value.std() / np.sqrt(300)
    assert 4 * error < 0.6 / 40  # so that the bias is seen
    assert abs(plain.mean() - 0.05**2 - 1 / 40) < 4 * error
    assert abs(value.mean() - 0.05**2) < 4 * error
    stderr = np.mean([one.value["square"].stderr for one in many])
    assert stderr == pytest.approx(value.std(), rel=0.2)


def test_means_have_no_bias_and_groups_of_one_event_are_the_textbook_s(getkey):
    key = getkey()
    found = ky.jackknife(problem(), Place(jnp.array(-0.5)), key=key, groups=100)
    assert found.events == 100
    assert found.bias["mean"] == pytest.approx(0, abs=1e-5)
    # For a square: the sample variance over the number of events, exactly.
    variance = 100 * found.value["mean"].stderr ** 2
    assert found.bias["square"] == pytest.approx(variance / 100, rel=1e-3)
    assert found.bias["left"] == pytest.approx(-found.bias["square"], abs=1e-5)
    assert found.value["mean"].value == pytest.approx(-0.5, abs=0.5)
    assert "square" in str(found)
    assert "100 events" in str(found)


def test_host_stages_and_what_is_refused(getkey):
    host = ky.from_function(
        lambda a, seed: np.random.default_rng(seed).normal() + a,
        {"a": ky.Real(0, 2)},
        events=10,
    )
    found = ky.jackknife(host, key=getkey(), groups=5)
    assert found.events == 10
    assert all(v == pytest.approx(0, abs=1e-5) for v in found.bias.values())
    with pytest.raises(errors.InputError, match="groups.*>= 2"):
        ky.jackknife(problem(), key=getkey(), groups=1)
    with pytest.raises(errors.SpaceError, match="at"):
        ky.jackknife(problem(), Place(jnp.array(3.0)), key=getkey())
