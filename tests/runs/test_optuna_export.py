"""A result as a study of Optuna holds every trial, and nothing is overwritten."""

import numpy as np
import optuna
import pytest
import sqlalchemy as sa

from kythera import errors
from kythera.runs.result import Result
from kythera.runs.store import Store
from kythera.runs.trackers.optuna import _trials, export


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """A database for many studies: to make one takes a second."""
    return f"sqlite:///{tmp_path_factory.mktemp('optuna')}/optuna.db"


def part(result: Result, trials: int, record: dict | None = None, **columns) -> Result:
    """The first trials of a result, with other columns or entries of the record."""
    found = {k: v[:trials] for k, v in (result.trials | columns).items()}
    return Result(result.record | (record or {}), found, {})


@pytest.mark.parametrize("terms", [False, True])
def test_a_result_reads_back_equal(toy_result, url, terms):
    toy_result = part(toy_result, 10)
    export(toy_result, url, f"toy {terms}", terms=terms)
    study = optuna.load_study(study_name=f"toy {terms}", storage=url)
    columns = toy_result.trials
    assert len(study.trials) == len(columns["number"]) == 10
    assert study.metric_names == (["image", "time"] if terms else ["total"])
    failures = 0
    for i, trial in enumerate(study.trials):
        z, _, *material = columns["values"][i]
        assert trial.params == {
            "z (cm)": pytest.approx(100 * z, rel=1e-12),
            "panels": 1 + min(int(columns["u"][i][1] * 5), 4),  # as it was built
            "material": ("iron", "lead")[int(np.argmax(material))],
        }
        assert trial.user_attrs["events"] == columns["events"][i]
        if trial.state == optuna.trial.TrialState.FAIL:
            failures += 1
            assert trial.user_attrs["cause"] == toy_result.causes[i]
            continue
        wanted = columns["terms"][i] if terms else columns["total"][[i]]
        assert trial.values == wanted.tolist()
        assert trial.user_attrs["stderr"] == columns["stderr"][i]
        assert trial.user_attrs["terms.image"] == columns["terms"][i, 0]
        assert trial.user_attrs["slack.height"] == columns["slack"][i, 0]
        assert trial.system_attrs["constraints"] == [-columns["slack"][i, 0]]
    assert failures == np.sum(columns["state"] == "failed") > 0
    domains = study.trials[0].distributions
    assert domains["z (cm)"] == optuna.distributions.FloatDistribution(0, 100)
    assert domains["panels"] == optuna.distributions.IntDistribution(1, 5)
    assert study.user_attrs["gain"] == toy_result.gain.value


def test_a_broken_constraint_makes_no_best_trial(toy_result, url):
    total, slack = toy_result.trials["total"][:6], toy_result.trials["slack"].copy()
    lowest = int(np.argmin(total))
    kept = export(part(toy_result, 6), url, "kept")
    assert kept.best_trial.number == lowest
    slack[lowest] = -1.0
    broken = export(part(toy_result, 6, slack=slack), url, "broken")
    assert broken.best_trial.number != lowest


def test_logarithms_arrays_of_choices_and_lengths(toy_result, url):
    group = {"unit": "", "options": []}
    space = {
        "names": ["e", "m[0]=a", "m[0]=b", "m[1]=a", "m[1]=b", "length"],
        "units": ["MeV", "", "", "", "", "cm"],
        "lower": [0.001, 0, 0, 0, 0, 1],
        "upper": [1.0, 1, 1, 1, 1, 3],
        "kinds": ["real", *["choice"] * 4, "integer"],
        "groups": [
            group | {"path": "e", "kind": "real", "size": 1, "log": True},
            group | {"path": "m", "kind": "choice", "size": 4, "log": False},
            group | {"path": "length", "kind": "integer", "size": 1, "log": False},
        ],
    }
    values = np.array([[0.01, 0.8, 0.2, 0.1, 0.9, 2.0]])
    u = np.array([[1 / 3, 0.8, 0.2, 0.1, 0.9, 0.6]])
    result = part(toy_result, 1, {"space": space}, values=values, u=u)
    (trial,) = export(result, url, "kinds").trials
    assert trial.params == {
        "e (MeV)": pytest.approx(10.0),
        "m[0]": "a",
        "m[1]": "b",
        "length (cm)": pytest.approx(200.0),
    }
    domain = optuna.distributions.FloatDistribution(1.0, 1000.0, log=True)
    assert trial.distributions["e (MeV)"] == domain


def test_of_many_parameters_the_first_are_kept_and_it_says_so(toy_result, url):
    size = 12_000
    space = {
        "names": [f"x[{i}]" for i in range(size)],
        "units": [""] * size,
        "lower": [0.0] * size,
        "upper": [1.0] * size,
        "kinds": ["real"] * size,
        "groups": [{"path": "x", "kind": "real", "size": size, "log": False}],
    }
    values = np.linspace(0, 1, size)[None]
    one = part(toy_result, 1, {"space": space}, values=values, u=values)
    study = export(one, url, "many")
    assert study.user_attrs["parameters"] == "the first 100 of 12,000"
    assert list(study.trials[0].params) == [f"x[{i}]" for i in range(100)]


def test_a_study_is_never_overwritten(toy_result, url):
    first = export(part(toy_result, 2), url, "once")
    with pytest.raises(errors.StoreError, match="already. Give another name"):
        export(part(toy_result, 1), url, "once")
    assert len(first.trials) == 2


def test_half_an_export_is_taken_back(toy_result, url, monkeypatch):
    def cut(*args):
        yield from list(_trials(*args))[:1]
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("kythera.runs.trackers.optuna._trials", cut)
        with pytest.raises(KeyboardInterrupt):
            export(part(toy_result, 2), url, "half")
    assert len(export(part(toy_result, 2), url, "half").trials) == 2


def test_databases_that_optuna_must_not_have(toy_result, tmp_path):
    path = str(tmp_path / "runs.db")
    store = Store(path, user="ada")
    with pytest.raises(errors.StoreError, match="belongs to another program"):
        export(toy_result, path, "toy")
    with store.reading() as connection:
        assert "studies" not in sa.inspect(connection).get_table_names()
    store.close()
    with pytest.raises(errors.StoreError, match="cannot be used by Optuna") as caught:
        export(toy_result, "postgresql://ada:secret@127.0.0.1:1/no", "toy")
    assert "secret" not in str(caught.value)
