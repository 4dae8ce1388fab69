"""Settings from text and from files."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kythera import errors, units
from kythera.runs import spec


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5", 5),
        ("-4", -4),
        ("2e6", 2e6),
        (".5", 0.5),
        ("5 cm", 5 * units.cm),
        ("5cm", 5 * units.cm),
        ("3 * mm", 3 * units.mm),
        ("[0.1, 0.2] m", [0.1, 0.2]),
        ("[1 cm, 2 mm]", [1 * units.cm, 2 * units.mm]),
        ("[[1, 2], [3, 4]] cm", [[0.01, 0.02], [0.03, 0.04]]),
        ("true", True),
        ("False", False),
        ("none", None),
        ("lead", "lead"),
        ("results/3", "results/3"),
    ],
)
def test_values(text, value):
    found = spec.parse_value("x", text)
    assert found == pytest.approx(value) if isinstance(value, float) else found == value
    assert type(found) is type(value)


def test_an_unknown_unit_is_refused():
    with pytest.raises(errors.InputError, match=r"'x'.*'centimeter'"):
        spec.parse_value("x", "5 centimeter")


@settings(deadline=None)
@given(
    st.recursive(
        st.floats(-1e12, 1e12, allow_nan=False) | st.integers(-(10**9), 10**9),
        lambda inner: st.lists(inner, min_size=1, max_size=4),
        max_leaves=8,
    )
)
def test_what_is_written_is_read(value):
    def close(a, b):
        if isinstance(a, list):
            return len(a) == len(b) and all(map(close, a, b))
        return math.isclose(a, b, rel_tol=1e-11, abs_tol=1e-300)

    assert close(value, spec.parse_value("x", spec.written(value)))


@pytest.mark.parametrize("pair", ["z", "=3", " = 3"])
def test_settings_need_name_and_value(pair):
    with pytest.raises(errors.InputError, match="NAME=VALUE"):
        spec.parse_settings([pair])


def test_a_setting_comes_once():
    with pytest.raises(errors.InputError, match="twice"):
        spec.parse_settings(["z=1", "z=2"])


def test_toml(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text(
        """
        instrument = "telescope"
        events = 2e6
        trials = 40
        seed = 3
        [optimiser]
        name = "adam"
        step.z = 0.01
        clip = 5
        [set]
        planes = 6
        upper.z = "[1, 2] cm"
        """
    )
    found = spec.from_toml(file)
    assert found.instrument == "telescope"
    assert found.events == 2e6
    assert (found.trials, found.seed) == (40, 3)
    assert found.optimiser == "adam:step.z=0.01,clip=5"
    assert found.set == {"planes": 6, "upper.z": [0.01, 0.02]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("events = ", "must be TOML"),
        ("evnts = 3", "'events'"),
        ('events = "many"', "a number"),
        ("trials = 2.5", "a whole number"),
        ("trials = true", "a whole number"),
        ("seed = nan", "a whole number"),
        ("[optimiser]\nstep = 0.1", "needs a `name`"),
        ("set = 3", "a table"),
        ("\xff", "must be TOML"),
    ],
)
def test_bad_toml(tmp_path, text, message):
    file = tmp_path / "run.toml"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(errors.InputError, match=message):
        spec.from_toml(file)


def test_what_is_typed_wins():
    base = spec.Spec(events=1e6, optimiser="sgd", seed=2, set={"a": 1, "b": 2})
    found = spec.Spec(events=5.0, set={"b": 3}).over(base)
    assert found == spec.Spec(events=5.0, optimiser="sgd", seed=2, set={"a": 1, "b": 3})


def test_a_limit_replaces_all_limits_of_the_defaults():
    defaults = spec.Spec(events=1e6, seconds=60, optimiser="adam")
    assert spec.Spec(trials=3).over_defaults(defaults) == spec.Spec(
        trials=3, optimiser="adam"
    )
    assert spec.Spec(seed=3).over_defaults(defaults).budget == {
        "events": 1e6,
        "trials": None,
        "seconds": 60,
        "cpu_seconds": None,
        "price": None,
    }


def test_every_name_of_the_list_makes_a_part():
    assert {"adam", "evolution", "lbfgsb", "random_search"} <= set(
        spec.parts("optimiser")
    )
    assert {"direct", "pathwise"} <= set(spec.parts("estimator"))
    assert type(spec.make("optimiser", "random")).__name__ == "RandomSearch"
    assert type(spec.make("optimiser", "L-BFGS-B")).__name__ == "LBFGSB"
    assert type(spec.make("estimator", "Score-Function")).__name__ == "ScoreFunction"


def test_settings_of_a_part():
    assert spec.make("optimiser", "adam:step=0.05, clip=2").clip == 2
    assert spec.make("optimiser", "adam:step.z=0.1,step.*=0.2").step == {
        "z": 0.1,
        "*": 0.2,
    }
    inner = spec.make("optimiser", "multi_start:optimiser=(adam:step=0.1,clip=3)")
    assert (inner.optimiser.step, inner.optimiser.clip) == (0.1, 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("adma", "Did you mean 'adam'"),
        ("gradient", "no optimiser"),
        ("adam:stp=0.1", "Did you mean 'step'"),
        ("adam:0.1", "NAME=VALUE"),
        ("adam:step=-1", "> 0"),
        ("adam:step=nan", "finite"),
        ("adam:clip=far", "a number"),
        ("evolution:population=2.5", "a whole number"),
        ("sgd", "'step'"),
        ("", "no optimiser"),
    ],
)
def test_bad_parts(text, message):
    with pytest.raises(errors.InputError, match=message):
        spec.make("optimiser", text)
