"""What the page reads: lists, curves, tables, drawings, downloads, and errors."""

import dataclasses
import html
import json
import subprocess
import sys
import time

import numpy as np
import pytest

from kythera.report import figures
from kythera.runs import tables
from kythera.runs.store import STALE, Store
from kythera.runs.study import Study
from kythera.web import desk
from kythera.web.memory import Watched

from . import stores
from .clients import Client

RUN = "/api/studies/1/runs/1"


def test_an_empty_store_says_so(client):
    found = client.json("/api/studies")
    assert (found["studies"], found["users"], found["user"]) == ([], [], "ada")
    assert found["read_only"] is True


def test_the_list_has_own_and_shared_studies_only(
    store, tmp_path, toy_result, toy_solution
):
    trials = toy_solution.trials
    with_price = stores.fill(store, "first", toy_result, trials, price=36.0)
    for user in ("bob", "eve"):
        theirs = Store(tmp_path / "runs.db", user=user)
        study = stores.fill(theirs, f"{user}'s", toy_result, trials[:3])
        if user == "bob":
            study.share("ada")
        theirs.close()
    client = Client(store)
    found = client.json("/api/studies")
    client.json("/api/studies/3/runs/1", 404)
    assert client.get("/studies/3").status_code == 404
    client.json("/api/studies/3/runs/1/trials.csv", 404)
    client.json("/api/compare", 404, of=["1.1", "3.1"])
    assert client.json("/api/studies/2/runs/1")["mine"] is False
    assert [s["name"] for s in found["studies"]] == ["bob's", "first"]
    assert [s["mine"] for s in found["studies"]] == [False, True]
    assert [u["user"] for u in found["users"]] == ["ada", "bob"]
    run = found["studies"][1]["runs"][0]
    assert run["state"] == "finished"
    assert run["trials"] == len(trials)
    assert run["events"] == trials[-1].spent
    assert run["gain"]["text"] == str(toy_result.gain)
    cpu = with_price.run(1)["cpu_seconds"]
    assert run["price"] == pytest.approx(36.0 * cpu / 3600)
    assert found["users"][0]["price"] == pytest.approx(run["price"])


def test_figures_are_those_of_the_report(studied, client, toy_result):
    found = client.json(RUN)
    for name, figure in (
        ("loss", figures.loss(toy_result)),
        ("terms", figures.terms(toy_result)),
        ("slack", figures.slack(toy_result)),
    ):
        assert found["figures"][name] == json.loads(json.dumps(figure))
    drawn = client.json(f"{RUN}/paths")["figures"]
    assert drawn == json.loads(json.dumps(figures.paths(toy_result)))


def test_the_header(studied, client, toy_result):
    found = client.json(RUN)
    facts = found["facts"]
    assert facts["gain"]["text"] == str(toy_result.gain)
    assert facts["failed"] == int(np.sum(toy_result.trials["state"] == "failed"))
    assert [row["name"] for row in facts["terms"]] == ["image", "time"]
    assert facts["slack"][0]["best"]["value"] > 0
    assert facts["weights"] == {"time": 0.5}


def test_a_live_run_sends_what_is_new(store, client, toy_result, toy_solution):
    study, trials = stores.begin(store, "live", toy_result), toy_solution.trials
    with study.begin() as run:
        assert client.json(RUN)["begun"] is False
        run.describe(stores.begun(toy_result), limits=json.dumps({"trials": 24}))
        assert client.json(RUN)["begun"] is True
        stores.write(run, trials[:8])
        first = client.json(RUN, after=-1)
        assert (first["last"], first["run"]["state"]) == (7, "running")
        assert first["facts"]["gain"] is None
        assert first["run"]["limits"] == {"trials": 24}
        same = client.json(RUN, after=7)
        assert "figures" not in same
        assert len(json.dumps(same)) < 2000
        stores.write(run, trials[8:])
        later = client.json(RUN, after=7)
        curve = next(
            t for t in later["figures"]["loss"]["data"] if t.get("name") == "trials"
        )
        good = [t for t in trials if t.state == "complete"]
        assert len(curve["x"]) == len(good)
        assert all("fresh" not in t["name"] for t in later["figures"]["loss"]["data"])
        assert later["facts"]["latest"]["value"] == good[-1].evaluation.total.value
        stores.finish(run, toy_result)
    ended = client.json(RUN)
    assert ended["run"]["state"] == "finished"
    assert ended["facts"]["gain"]["text"] == str(toy_result.gain)


def test_who_takes_a_run_over_is_read_anew(store, client, toy_result, toy_solution):
    study, trials = stores.begin(store, "live", toy_result), toy_solution.trials
    with study.begin() as run:
        run.describe(stores.begun(toy_result))
        stores.write(run, trials[:6])
        client.json(RUN)
    with study.begin() as run:
        run.resume()  # there is no checkpoint: all trials go
        changed = [dataclasses.replace(t, spent=t.spent + 1) for t in trials[:6]]
        stores.write(run, changed)
        found = client.json(RUN)
    assert found["run"]["events"] == changed[-1].spent
    data = found["figures"]["loss"]["data"]
    curve = next(t for t in data if t.get("name") == "trials")
    good = [t.spent for t in changed if t.state == "complete"]
    assert curve["x"] == good


def test_trials_are_read_once(store, toy_result, toy_solution, monkeypatch):
    study = stores.begin(store, "live", toy_result)
    found = desk.Desk(store)
    asked = []
    read = Watched.read
    monkeypatch.setattr(
        Watched,
        "read",
        lambda self, run, after: asked.append(after) or read(self, run, after),
    )
    with study.begin() as run:
        for part in (toy_solution.trials[:9], toy_solution.trials[9:12]):
            stores.write(run, part)
            columns = found.study(1).columns()
            whole = study.columns()
            for name in whole:
                np.testing.assert_array_equal(columns[name], whole[name], err_msg=name)
        found.study(1).columns()
    assert asked == [-1, 8, 11]


def test_a_run_that_fell_silent(store, client, toy_result, toy_solution, monkeypatch):
    study = stores.begin(store, "live", toy_result)
    with study.begin() as run:
        run.describe(stores.begun(toy_result))
        stores.write(run, toy_solution.trials[:4])
        assert client.json(RUN)["run"]["state"] == "running"
        now = time.time() + STALE + 1
        monkeypatch.setattr(store, "now", lambda connection: now)
        assert client.json(RUN)["run"]["state"] == "silent"
        monkeypatch.undo()


def test_seconds_along_the_axis(studied, client, toy_result):
    found = client.json(RUN, axis="seconds")["figures"]["loss"]
    assert found["layout"]["xaxis"]["title"]["text"] == figures.TITLE["seconds"]
    spent = np.cumsum(toy_result.trials["seconds"])
    good = toy_result.trials["state"] == "complete"
    curve = next(t for t in found["data"] if t.get("name") == "trials")
    np.testing.assert_allclose(curve["x"], spent[good], rtol=1e-5)


def test_long_curves_are_thinned(store, client, toy_result):
    study = stores.begin(store, "long", toy_result)
    with study.begin() as run:
        run.describe({**stores.begun(toy_result), "terms": ["image", "time"]})
        many = [
            stores.trial(i, 1 + 1 / (1 + i), 4, {"image": 1.0, "time": 2.0})
            for i in range(5000)
        ]
        for one in many:
            run.add(one)
        run.flush()
        found = client.json(RUN)
    for figure in found["figures"].values():
        for trace in figure["data"]:
            if trace.get("name"):
                assert len(trace["x"]) <= figures.MOST_POINTS
                assert trace["x"][-1] == many[-1].spent


def test_twelve_thousand_parameters(store, client, toy_result):
    result = stores.wide(toy_result, 12_000)
    study = stores.begin(store, "wide", result)
    with study.begin() as run:
        run.describe({**result.record, "finished": True})
        stores.write(run, [stores.trial(i, 1.0, 12_000) for i in range(20)], drawn=999)
        run.finish("finished", "done")
    assert len(json.dumps(client.json(RUN))) < 50_000
    found = client.json(f"{RUN}/parameters")
    assert (found["total"], len(found["rows"])) == (12_000, desk.MOST_ROWS)
    assert found["rows"][0]["name"] == "part77.z[77]"
    few = client.json(f"{RUN}/parameters", find="PART11.z[9")
    assert (few["found"], few["rows"][0]["name"]) == (11, "part11.z[9]")
    assert len(json.dumps(client.json(f"{RUN}/paths"))) < 500_000
    client.json(f"{RUN}/parameters", 422, find="x" * 201)


def test_parameters_have_units_bounds_and_options(studied, client):
    rows = {row["name"]: row for row in client.json(f"{RUN}/parameters")["rows"]}
    assert rows["z"]["unit"] == "cm"
    assert (rows["z"]["start"], rows["z"]["bounds"]) == ("10", ["0", "100"])
    assert rows["material"]["start"] == "iron"
    assert rows["material"]["cube"] is None


def test_drawings_from_start_to_best(studied, client, toy_result):
    found = client.json(f"{RUN}/drawings")
    count = len(toy_result.trials["number"])
    assert [place["number"] for place in found["drawn"]] == [
        *range(0, count, stores.DRAWN),
        count,
    ]
    assert found["drawn"][-1]["state"] == "best"
    for place in found["drawn"][:-1]:
        assert place["state"] == toy_result.trials["state"][place["number"]]
    assert found["figures"] == json.loads(json.dumps(toy_result.figures))
    z = [
        client.json(f"{RUN}/drawings/{i}")["figures"]["side"]["data"][0]["x"][0]
        for i in (0, count)
    ]
    assert z == pytest.approx(
        [toy_result.trials["values"][0, 0], toy_result.best[0]], rel=1e-5
    )
    client.json(f"{RUN}/drawings/{count + 1}", 404)


def test_the_front_is_what_nobody_beats(studied, client, toy_result):
    found = client.json(f"{RUN}/front")["figure"]
    points = next(t for t in found["data"] if t["name"] == "beaten by none")
    trials = toy_result.trials
    good = (trials["state"] == "complete") & (trials["slack"][:, 0] >= 0)
    a, b = trials["terms"][good].T
    right = {
        (float(f"{x:.6g}"), float(f"{y:.6g}"))
        for x, y in zip(a, b)
        if not np.any((a <= x) & (b <= y) & ((a < x) | (b < y)))
    }
    assert set(zip(points["x"], points["y"])) == right
    turned = client.json(f"{RUN}/front", x="time", y="image")["figure"]
    assert turned["layout"]["xaxis"]["title"]["text"] == "time"
    assert "nothing" in client.json(f"{RUN}/front", 400, x="nothing")["error"]


def test_failures_that_differ_in_numbers_are_one(toy_result):
    causes = {str(i): f"z[{i}] is {i * 1.5e-3:g} m" for i in range(20)}
    record = toy_result.record | {"causes": causes | {"30": "no memory"}}
    found = desk.failures(dataclasses.replace(toy_result, record=record))
    assert [(c["count"], c["trials"][0]) for c in found["causes"]] == [(20, 0), (1, 30)]
    assert found["failed"] == 21


def test_runs_side_by_side(studied, client, toy_result, toy_solution):
    stores.fill(studied, "second", toy_result, toy_solution.trials[:9])
    found = client.json("/api/compare", of=["1.1", "2.1", "1.1"])
    assert [run["label"] for run in found["runs"]] == ["first", "second"]
    runs = {"first": toy_result, "second": Study.open(studied, "second").result()}
    assert found["figure"] == json.loads(json.dumps(figures.compare(runs)))
    other = dataclasses.replace(
        toy_result,
        record=toy_result.record
        | {"instrument": toy_result.record["instrument"] | {"name": "x"}},
    )
    stores.fill(studied, "third", other, toy_solution.trials[:9])
    unlike = client.json("/api/compare", of=["1.1", "3.1"])
    assert (unlike["figure"], len(unlike["runs"])) == (None, 2)
    assert "one instrument only" in unlike["why"]
    for wrong in ("1", "1.0", "x.1", "1.1;2.1", "1" * 30):
        client.json("/api/compare", 422, of=wrong)
    client.json("/api/compare", 422)
    client.json("/api/compare", 422, of=[f"1.{i}" for i in range(1, 11)])


def test_metrics(store, client, toy_result):
    study = stores.begin(store, "live", toy_result)
    with study.begin() as run:
        for i in range(5):
            run.log({"loss of the net": 1 / (1 + i)}, step=i)
        run.flush()
        found = client.json(f"{RUN}/metrics")["figures"]
    assert found["loss of the net"]["data"][0]["y"] == [1.0, 0.5, 0.333333, 0.25, 0.2]


def test_downloads(studied, client, toy_result):
    """Trials are the files that `kythera export` writes."""
    for kind in ("csv", "json", "parquet"):
        answer = client.get(f"{RUN}/trials.{kind}")
        assert answer.content == tables.encode(
            Study.open(studied, "first").result(), f".{kind}"
        )
        named = answer.headers["content-disposition"]
        assert named == f'attachment; filename="first-1.{kind}"'
    report = client.get(f"{RUN}/report.html")
    assert "<h1>toy</h1>" in report.text
    # Its scripts stand in the page: opened here, they would run as this server's own.
    assert report.headers["content-disposition"].startswith("attachment; ")
    assert report.headers["content-security-policy"] == "sandbox"
    client.json(f"{RUN}/trials.exe", 404)


def test_a_download_has_a_plain_file_name(store, client, toy_result, toy_solution):
    stores.fill(store, stores.EVIL, toy_result, toy_solution.trials[:3])
    named = client.get(f"{RUN}/trials.csv").headers["content-disposition"]
    assert named == 'attachment; filename="a_b_quoted_b_name_na_ve_root_script_-1.csv"'


def test_a_live_run_can_be_downloaded(store, client, toy_result, toy_solution):
    study = stores.begin(store, "live", toy_result)
    with study.begin() as run:
        run.describe(stores.begun(toy_result))
        stores.write(run, toy_solution.trials[:4])
        assert client.get(f"{RUN}/report.html").status_code == 200
        assert len(client.json(f"{RUN}/trials.json")["trials"]) == 4
        client.json(f"{RUN}/landscape")


def test_names_are_text_wherever_they_stand(store, client, toy_result, toy_solution):
    stores.fill(store, stores.EVIL, toy_result, toy_solution.trials[:3])
    page = client.get("/studies/1").text
    assert "<b>" not in page
    assert page.count("</script>") == 1
    assert "{{root}}" in page  # a name, not a place of the template
    assert client.json("/api/studies")["studies"][0]["name"] == stores.EVIL


def test_unknown_addresses_say_what_to_do(studied, client):
    for path in ("/studies/7", "/studies/x", f"/studies/{2**40}", "/nothing/at/all"):
        answer = client.get(path)
        assert answer.status_code == 404
        assert "All studies</a>" in answer.text
        assert f'href="{"../" * (path.count("/") - 1)}' in answer.text
    said = html.unescape(client.get("/studies/7").text)
    assert "There is no study 7 that 'ada' may read" in said
    assert "no run 9" in client.json("/api/studies/1/runs/9", 404)["error"]
    for query in ({"after": -2}, {"after": "x"}, {"axis": "money"}, {"after": 2**40}):
        client.json(RUN, 422, **query)
    for name in ("../app.py", "..%2fapp.py", "page.html", "%00"):
        assert client.get(f"/static/{name}").status_code == 404


def test_the_same_again_is_not_sent(studied, client):
    for path in ("/api/studies", RUN, "/static/plotly.min.js", "/static/page.css"):
        first = client.get(path)
        again = client.get(path, headers={"if-none-match": first.headers["etag"]})
        assert (first.status_code, again.status_code) == (200, 304), path
        assert not again.content


def test_a_store_that_is_lost_comes_back(studied, client, tmp_path):
    file, away = tmp_path / "runs.db", tmp_path / "away.db"
    client.json(RUN)
    studied.close()
    file.rename(away)
    for path in ("/api/studies", RUN):
        assert "is gone" in client.json(path, 503)["error"]
    assert not file.exists()  # nothing was made in its place
    away.rename(file)
    client.json(RUN)
    file.unlink()
    for rest in tmp_path.glob("runs.db-*"):
        rest.unlink()
    other = Store(file, user="ada")
    Study.create(other, "another", instrument="toy", spec={}, space={"names": []})
    other.close()
    assert [s["name"] for s in client.json("/api/studies")["studies"]] == ["another"]


def test_no_password_is_shown(studied, monkeypatch):
    secret = studied.address.set(
        drivername="postgresql+psycopg", username="u", password="geheim", host="db"
    )
    client = Client(studied)
    monkeypatch.setattr(studied, "address", secret)
    monkeypatch.setattr(studied, "is_sqlite", False)
    found = client.get("/api/studies").text
    assert "geheim" not in found
    assert "u:***@db" in found


def test_the_server_never_imports_jax(studied, tmp_path):
    """What an instrument draws was stored with the trial."""
    studied.close()
    program = """
import asyncio, sys
import httpx
from kythera.web.app import make_app

async def main():
    transport = httpx.ASGITransport(make_app(sys.argv[1], user="ada"))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        run = "/api/studies/1/runs/1"
        parts = ("", "/parameters", "/paths", "/front", "/drawings", "/drawings/0",
                 "/failures", "/landscape", "/trials.csv", "/report.html")
        for path in ("/", "/api/studies", "/studies/1", *(run + part for part in parts),
                     "/api/compare?of=1.1"):
            assert (await client.get(path)).status_code == 200, path

asyncio.run(main())
print(sorted(m for m in sys.modules if m.split(".")[0] in ("jax", "jaxlib", "equinox")))
"""
    command = [sys.executable, "-c", program, str(tmp_path / "runs.db")]
    found = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert found.stdout == "[]\n", found.stderr
