"""The landscape against losses that are known exactly, over many keys."""

import subprocess
import sys

import numpy as np
import pytest

import kythera as ky
from kythera import errors
from kythera.report.landscape import landscape, near

from .surfaces import cloud, noisy, quadratic, result, rotated

EIGENVALUES = np.array([40.0, 10.0, 3.0, 0.5])
BOTTOM = np.full(4, 0.55)
KEYS = 40


def make(seed, count=120, hessian=None, middle=0.5, with_gradient=False, **noise):
    hessian = rotated(EIGENVALUES)[0] if hessian is None else hessian
    n = len(hessian)
    u = cloud(n, count, seed, middle)
    found, gradient = noisy(quadratic(hessian, np.full(n, 0.55)), u, seed + 9, **noise)
    return landscape(
        result(u, found, best=np.full(n, 0.5)),
        gradients=gradient if with_gradient else None,
    )


def expected(pulls):
    """Mean 0 and spread 1, within four standard errors of so many pulls."""
    pulls = np.asarray(pulls)
    count = len(pulls)
    assert np.all(np.abs(pulls.mean(0)) < 4 / np.sqrt(count)), pulls.mean(0)
    assert np.all(np.abs(pulls.std(0) - 1) < 4 / np.sqrt(2 * count)), pulls.std(0)


CASES = {
    "events of their own": {},
    "batches": {"count": 160, "batch": 8, "shared": 0.95},
    "the same events": {"count": 60, "batch": 60, "shared": 0.99},
    "with gradients": {"count": 40, "noise": 0.05, "steep": 0.3, "with_gradient": True},
}


@pytest.mark.parametrize("case", CASES)
def test_pulls_of_the_eigenvalues(case):
    found = [make(seed, **CASES[case]) for seed in range(KEYS)]
    assert all(one.kind == "full" for one in found)
    pulls = []
    for one in found:
        curved = sorted(
            (d.curvature for d in one.directions), key=lambda c: c.value, reverse=True
        )
        assert len(curved) == 4
        pulls.append(
            [(c.value - true) / c.stderr for c, true in zip(curved, EIGENVALUES)]
        )
    expected(pulls)


def test_gradients_tell_the_hessian_better():
    less, more = (
        make(1, count=60, noise=0.1, steep=0.3, with_gradient=with_gradient)
        for with_gradient in (False, True)
    )
    assert less.kind == more.kind == "full"
    errors_of = [
        min(d.curvature.stderr for d in one.directions) for one in (less, more)
    ]
    assert errors_of[1] < errors_of[0] / 3


@pytest.mark.parametrize("case", ["events of their own", "with gradients"])
def test_profiles_cover_the_truth(case):
    """Minimised over three others: H_kk - H_ko H_oo^-1 H_ok is what is left."""
    hessian = rotated(EIGENVALUES)[0]
    left = 1 / np.linalg.inv(hessian)[1, 1]
    pulls = []
    for seed in range(KEYS):
        found = make(seed, **CASES[case] | {"noise": 0.005})
        profile = found.profile("x[1]")
        at = (np.abs(profile.at[0] - BOTTOM[1]) < 0.2) & (profile.stderr > 1e-6)
        far = np.flatnonzero(at)[[0, -1]]
        true = left * (profile.at[0][far] - BOTTOM[1]) ** 2 / 2
        pulls.append((profile.excess[far] - true) / profile.stderr[far])
    pulls = np.concatenate(pulls)
    assert abs(pulls.mean()) < 4 / np.sqrt(KEYS)
    assert 0.58 < np.mean(np.abs(pulls) < 1) < 0.78  # 0.683
    assert 0.9 < np.mean(np.abs(pulls) < 2) < 0.99  # 0.954


def test_a_map_is_lowest_where_both_are_best():
    found = make(1)
    both = found.profile("x[0]", "x[2]")
    assert both.excess.shape == (len(both.at[1]), len(both.at[0]))
    row, column = np.unravel_index(np.argmin(both.excess), both.excess.shape)
    assert both.at[0][column] == pytest.approx(both.best[0])
    assert both.at[1][row] == pytest.approx(both.best[1])
    alone = found.profile("x[0]")
    np.testing.assert_allclose(
        np.interp(both.at[0], alone.at[0], alone.excess),
        both.excess.min(0),
        atol=0.05 * both.excess.max(),
    )


def test_how_far_a_direction_goes():
    _, vectors = rotated(EIGENVALUES)
    found = make(2, count=400, noise=0.002)
    stiff, loose = found.directions[0], found.directions[-1]
    assert abs(stiff.vector @ vectors[:, 0]) > 0.999
    assert abs(loose.vector @ vectors[:, 3]) > 0.999
    far = np.sqrt(2 * found.delta / EIGENVALUES)
    assert stiff.reach == pytest.approx((far[0], far[0]), rel=0.02)
    assert found.delta == 0.05
    assert "gain" in found.delta_is
    moved = found.steps(stiff)
    largest = np.argmax(np.abs(vectors[:, 0]))
    name, low, high, unit = moved[0]
    assert (name, unit) == (f"x[{largest}]", "m")
    width = 2 * far[0] * abs(vectors[largest, 0])
    assert abs(high - low) == pytest.approx(width, rel=0.02)


def rosenbrock(u):
    """(1 - x)^2 + 20 (y - x^2)^2 with x, y from 0 to 2; the bottom is at 1, 1."""
    x, y = 2 * u.T
    value = (1 - x) ** 2 + 20 * (y - x**2) ** 2
    dx = -2 * (1 - x) - 80 * x * (y - x**2)
    return value, 2 * np.stack([dx, 40 * (y - x**2)], -1)


@pytest.mark.parametrize("with_gradient", [False, True])
def test_the_valley_of_rosenbrock_is_loose(with_gradient):
    u = cloud(2, 500, 5, width=0.06)
    found, gradient = noisy(rosenbrock, u, 6, noise=0.02, steep=0.1)
    one = landscape(
        result(u, found, best=[0.49, 0.48], bounds=(0.0, 2.0)),
        gradients=gradient if with_gradient else None,
        delta=0.02,
    )
    assert one.surface is not None
    assert one.surface.fits
    assert len(one.surface.used) < 500  # no quadratic surface describes all of it
    stiff, loose = one.directions
    assert abs(loose.vector @ [1, 2]) / np.sqrt(5) > 0.98
    assert abs(stiff.vector @ [2, -1]) / np.sqrt(5) > 0.98
    assert stiff.curvature.value > 20 * loose.curvature.value
    assert max(loose.reach) > max(stiff.reach)
    assert one.best["x[0]"] == pytest.approx(1, abs=0.1)
    assert one.loss.value == pytest.approx(0, abs=0.02)


def test_a_flat_direction_is_called_loose():
    found = make(3, hessian=np.diag([20.0, 5.0, 0.0]))
    stiff, middle, loose = found.directions
    assert loose.is_flat
    assert not stiff.is_flat
    assert not middle.is_flat
    assert abs(loose.vector[2]) > 0.9
    assert "loose (no curvature seen)" in found.table()
    assert np.isinf(found.profile("x[2]").within(found.delta)).all()
    assert np.isfinite(found.profile("x[0]").within(found.delta)).all()


@pytest.mark.parametrize("count", [1, 3, 6])
def test_too_few_trials_give_no_surface(count):
    found = make(4, count=count)
    assert found.kind == "none"
    assert found.directions == ()
    assert found.axes == []
    assert f"{count} usable trials" in found.table()
    with pytest.raises(errors.InputError, match="No surface"):
        found.profile("x[0]")


def test_few_trials_give_the_directions_that_were_tried():
    hessian, vectors = rotated([30.0, 10.0, 5.0, 2.0, 1.0, 0.5])
    along = np.random.default_rng(1).normal(size=(25, 2)) * 0.2
    u = np.clip(0.55 + along @ vectors[:, :2].T, 0, 1)
    found, _ = noisy(quadratic(hessian, np.full(6, 0.55)), u, 2, noise=0.01)
    one = landscape(result(u, found, best=np.full(6, 0.55)))
    assert one.kind == "low-rank"
    assert "along the 2 directions" in one.table()
    assert one.axes == ["spread 1", "spread 2"]
    stiff, loose = one.directions
    assert abs(stiff.vector @ vectors[:, 0]) > 0.98
    for got, true in zip((stiff, loose), (30, 10)):
        assert abs(got.curvature.value - true) < 5 * got.curvature.stderr


def test_the_luckiest_trial_is_not_the_best():
    """200 trials at five designs that are equally good, but for noise."""
    designs = np.array([[0.5], [0.52], [0.55], [0.58], [0.6]])
    u = np.repeat(np.concatenate([designs, [[0.2], [0.9]]]), 40, 0)
    found, _ = noisy(quadratic([[2.0]], [0.55]), u, 1, noise=0.1)
    one = landscape(result(u, found, best=[0.55]))
    luckiest = found["total"].min()
    assert luckiest < 3 - 0.2
    assert abs(one.loss.value - 3) < 4 * one.loss.stderr
    assert one.loss.stderr < 0.03
    close = one.near(k=3)
    assert close.fitted.all()
    assert {0, 40, 80, 120, 160} <= set(close.number.tolist())
    assert not set(close.number.tolist()) & set(range(200, 280))
    assert len(one.near(k=0.5).number) < len(close.number)


def test_without_a_surface_fresh_events_are_the_reference():
    u = np.array([[0.1], [0.5], [0.9]])
    found = {"total": np.array([9.0, 3.05, 2.9]), "stderr": np.full(3, 0.1)}
    close = near(result(u, found), k=2)
    assert close.number.tolist() == [2, 1]
    assert not close.fitted.any()
    np.testing.assert_allclose(close.stderr, np.hypot(0.1, 0.01))
    unfinished = near(result(u, found, gain=None))
    assert unfinished.number.size == 0


def test_failed_and_infeasible_trials_are_left_out():
    u = cloud(2, 80, 1)
    found, _ = noisy(quadratic(np.diag([20.0, 5.0]), [0.55] * 2), u, 2)
    state = np.full(80, "complete", "U8")
    state[:5] = "failed"
    found["total"][:5] = np.inf
    found["stderr"][:5] = np.nan
    broken = u[:, 0] > 0.6
    found["total"][broken] = -50.0
    found["slack"] = 0.6 - u[:, :1]
    found["slack"][:5] = np.nan
    found["slack_stderr"] = np.zeros((80, 1))
    one = landscape(
        result(u, found | {"state": state}, best=[0.5, 0.55], slack=["room"])
    )
    assert one.surface is not None
    bad = set(np.flatnonzero(broken).tolist()) | set(range(5))
    assert not bad & set(one.surface.used.tolist())
    assert not bad & set(one.near().number.tolist())
    assert abs(one.loss.value - 3) < 0.1
    assert "5 failed trials" in one.notes[0]
    assert f"{len(bad - set(range(5)))} that break" in one.notes[0]


def test_a_constraint_that_cuts_through_is_said():
    u = cloud(2, 200, 1)
    found, _ = noisy(quadratic(np.diag([20.0, 5.0]), [0.55] * 2), u, 2)
    found["slack"] = (1.1 - u.sum(1))[:, None]
    found["slack_stderr"] = np.zeros((200, 1))
    one = landscape(result(u, found, best=[0.5, 0.5], slack=["room"]))
    assert any("'room' cuts through" in note for note in one.notes)


def test_a_bound_holds_a_parameter():
    """The loss falls towards x[0] = 1, where the cube ends; slope 4 per range."""
    draw = np.random.default_rng(1)
    u = np.stack([1 - np.abs(0.1 * draw.normal(size=200)), draw.random(200)], -1)
    found, _ = noisy(quadratic(np.diag([4.0, 8.0]), [2.0, 0.5]), u, 3)
    one = landscape(result(u, found, best=[1.0, 0.5]))
    bound = next(d for d in one.directions if d.kind == "bound")
    assert bound.vector.tolist() == [-1, 0]
    assert abs(bound.slope.value - 4) < 4 * bound.slope.stderr
    assert bound.reach[0] == 0
    assert bound.reach[1] == pytest.approx(0.05 / 4, rel=0.2)
    assert "at its bound" in one.table()
    assert "at least" not in one.said(bound)
    wide = landscape(result(u, found, best=[1.0, 0.5]), delta=5.0)
    ends = [d for d in wide.directions if d.kind == "bound"]
    assert ends[0].cut == (False, True)
    assert wide.said(ends[0]).endswith("at least")


def test_gradients_tell_what_holds_a_parameter():
    """A gradient search that sat in a corner saw no other point, but its slopes."""
    u = np.tile([0.0, 1.0], (40, 1))
    u[:5] += [[0.3, -0.3], [0.2, -0.2], [0.15, -0.1], [0.1, -0.1], [0.05, 0]]
    loss = quadratic(np.diag([2.0, 2.0]), [-1.0, 1.5])
    found, gradient = noisy(loss, u, 4, steep=0.1)
    one = landscape(result(u, found, best=[0.0, 1.0]), gradients=gradient)
    slopes = {tuple(d.vector): d.slope for d in one.directions}
    for vector, true in (((1, 0), 2.0), ((0, -1), 1.0)):
        assert abs(slopes[vector].value - true) < 4 * slopes[vector].stderr
        assert slopes[vector].stderr < 0.05
    assert "at its bound" in one.table()


def test_a_search_that_had_not_arrived():
    u = cloud(2, 100, 1, middle=0.4, width=0.05)
    found, _ = noisy(quadratic(np.diag([40.0, 40.0]), [0.9, 0.4]), u, 2, noise=0.005)
    one = landscape(result(u, found))
    assert any("still falls where the trials end" in note for note in one.notes)
    assert any(d.kind == "edge" for d in one.directions)


def test_a_saddle_is_called_one():
    one = make(1, hessian=np.diag([20.0, -10.0]), noise=0.005)
    held = [d.kind for d in one.directions]
    assert "edge" in held or any("saddle" in note for note in one.notes)


def test_values_without_errors():
    """A loss that is exact, or one row for each trial."""
    u = cloud(3, 40, 1)
    value, _ = quadratic(np.diag([9.0, 4.0, 1.0]), [0.55] * 3)(u)
    for stderr in (np.zeros(40), np.full(40, np.nan)):
        one = landscape(result(u, {"total": value, "stderr": stderr}, gain=None))
        assert [d.curvature.value for d in one.directions] == pytest.approx([9, 4, 1])
        assert one.loss.value == pytest.approx(3)
        assert one.loss.stderr < 1e-6


def test_twelve_thousand_parameters():
    """The most sensitive ones are looked at, in seconds, and it is said."""
    n, draw = 12_000, np.random.default_rng(1)
    u = np.full((120, n), 0.5)
    u += 1e-4 * draw.normal(size=u.shape)
    u[:, [7, 7000]] += 0.1 * draw.normal(size=(120, 2))

    def loss(u):
        d = u[:, [7, 7000]] - 0.5
        gradient = np.zeros_like(u)
        gradient[:, [7, 7000]] = d * [30, 3]
        return 3 + d**2 @ [15, 1.5], gradient

    found, gradient = noisy(loss, u, 2, noise=0.01, steep=0.0)
    one = landscape(result(u, found, best=np.full(n, 0.5)), gradients=gradient)
    assert any("200 that changed the loss most" in note for note in one.notes)
    stiff = one.directions[0]
    assert abs(stiff.vector[7]) > 0.99
    assert stiff.curvature.value == pytest.approx(30, rel=0.1)


def test_whole_numbers_choices_and_failures(toy_result):
    found = landscape(toy_result)
    assert any("Choices are kept" in note for note in found.notes)
    assert any("failed trials" in note for note in found.notes)
    assert not any("material" in name for name in found.chart.names)
    numbers = set(found.near().number.tolist())
    assert not numbers & set(toy_result.causes)
    assert str(found)


def test_of_a_solution_a_folder_and_a_study(toy_solution, tmp_path):
    folder = ky.save(toy_solution, tmp_path / "toy")

    class Study:
        def result(self):
            return ky.load(folder)

        def trials(self):
            return toy_solution.trials

    tables = {str(ky.landscape(what)) for what in (toy_solution, folder, Study())}
    assert len(tables) == 1
    with pytest.raises(errors.InputError, match="of type int"):
        ky.landscape(3)


def test_a_solution_brings_its_gradients():
    import jax

    from kythera.instruments import telescope

    solution = ky.optimise(
        telescope.problem(events=200),
        ky.adam(0.05),
        max_trials=40,
        key=jax.random.key(1),
    )
    found = landscape(solution)  # at the best layout the slope is 1 for each range
    assert len(found.directions) == 4
    for direction in found.directions:
        assert direction.kind == "bound"
        assert abs(direction.slope.value - 1) < 5 * direction.slope.stderr


def test_what_cannot_be_is_refused():
    made = result(cloud(2, 10, 1), {"total": np.ones(10), "stderr": np.ones(10)})
    with pytest.raises(errors.InputError, match=r"\(10, 2\)"):
        landscape(made, gradients=np.zeros((10, 3)))
    with pytest.raises(errors.InputError, match="`delta`"):
        landscape(made, delta=0.0)
    found = make(1)
    with pytest.raises(errors.InputError, match=r"x\[0\]"):
        found.profile("x[9]")
    with pytest.raises(errors.InputError, match="two different"):
        found.profile("x[0]", "x[0]")


def test_no_jax_is_imported():
    code = (
        "import sys, kythera.report.landscape, kythera.report.page, kythera.report.plot;"
        "sys.exit('jax' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
