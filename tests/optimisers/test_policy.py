"""The policy: what it draws, what it learns, designs with absent parts; environments."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import kythera as ky
from kythera import errors, testing
from kythera.optimisers import ppo
from kythera.optimisers.policy import _ranks
from kythera.stages.simulators.host import from_function

from .cases import KEY, START, answer, bounded, recommended, search
from .test_mixed import Layers


def _layers_loss(u):
    """Best with one layer of lead of thickness 0.6, the other left out."""
    first, second = u[1:4], u[5:8]
    loss = (first[0] != 1) + (second[2] != 1) + 4 * (u[0] - 0.3) ** 2
    return float(loss + 0.1 * abs(u[18] - 0.75))


def test_first_designs_are_normal_about_the_start():
    optimiser = ky.Policy(sigma=0.1)
    state = optimiser.init(testing.sphere(), np.full(4, 0.5), key=KEY)
    us, state = optimiser.ask(state, key=KEY)
    assert scipy.stats.kstest((us.ravel() - 0.5) / 0.1, "norm").pvalue > 1e-4
    np.testing.assert_allclose(us, state.raw, atol=1e-7)


def test_options_are_drawn_with_equal_chances_and_parts_may_be_absent():
    optimiser = ky.Policy(by_parts=True, batch=2000)
    state = optimiser.init(Layers(), np.asarray(Layers.space.start), key=KEY)
    us, _ = optimiser.ask(state, key=KEY)
    counts = us[:, 1:4].sum(0)
    assert counts.sum() == 2000
    assert scipy.stats.chisquare(counts).pvalue > 1e-4
    gone = us[:, 3] == 1
    start = np.asarray(Layers.space.start)
    np.testing.assert_allclose(us[gone, 0], start[0], atol=1e-6)
    assert np.std(us[~gone, 0]) > 0.1
    # "absent" of one fibre says nothing of the others
    assert np.std(us[us[:, 13] == 1, 10]) > 0.1


def test_a_likelihood_is_that_of_the_draws():
    """Chances of steps: what the builder draws with, by a formula of its own."""
    optimiser = ky.Policy(by_parts=True, batch=2000)
    state = optimiser.init(Layers(), np.asarray(Layers.space.start), key=KEY)
    us, state = optimiser.ask(state, key=KEY)
    judge = jax.jit(jax.vmap(ppo._judged, (None, None, 0)))
    log_p, value, entropy = judge(
        jax.tree.map(jnp.asarray, state.builder), state.learned.nets, state.raw
    )
    assert log_p.shape == value.shape == entropy.shape == (2000, 7)
    gone = us[:, 3] == 1
    mean, sigma = np.asarray(Layers.space.start)[0], 0.2
    # up to the constant of the normal density, which no ratio sees
    normal = (
        scipy.stats.norm.logpdf(state.raw[:, 0], mean, sigma) + np.log(2 * np.pi) / 2
    )
    wanted = np.log(1 / 3) + np.where(gone, 0, normal)
    np.testing.assert_allclose(log_p[:, 0], wanted, atol=1e-4)
    np.testing.assert_allclose(entropy[:, 0], np.log(3), rtol=1e-5)
    np.testing.assert_allclose(value, 0, atol=1e-6)


def test_it_learns_which_parts_to_leave_out():
    optimiser = ky.Policy(by_parts=True)
    state = optimiser.init(Layers(), np.asarray(Layers.space.start), key=KEY)
    for i in range(50):
        us, state = optimiser.ask(state, key=jax.random.fold_in(KEY, i))
        state = optimiser.tell(state, us, [answer(_layers_loss(u)) for u in us])
    u = optimiser.recommend(state)[0]
    assert _layers_loss(u) < 0.05
    assert u[18] in (0.5, 0.75, 1.0)


def test_nothing_is_learnt_before_a_batch_is_whole():
    optimiser = ky.Policy()
    state = optimiser.init(testing.sphere(), START, key=KEY)
    us, asked = optimiser.ask(state, key=KEY)
    losses = [answer(testing.exact_loss(testing.sphere(), u)) for u in us]
    whole = optimiser.tell(asked, us, losses)
    part = optimiser.tell(asked, us[:29], losses[:29])
    np.testing.assert_array_equal(optimiser.recommend(part), optimiser.recommend(state))
    rest, _ = optimiser.ask(part, key=KEY)
    assert rest.shape == (3, 4)
    both = optimiser.tell(part, us[29:], losses[29:])
    np.testing.assert_array_equal(optimiser.recommend(whole), optimiser.recommend(both))
    assert not np.array_equal(optimiser.recommend(whole), optimiser.recommend(state))


def test_rewards_are_ranks():
    found = _ranks(np.array([3.0, 1.0, 1.0, 1e9]))
    assert found[1] == found[2] > found[0] > found[3]
    assert found.mean() == pytest.approx(0)
    assert found.std() == pytest.approx(1)
    assert _ranks(np.ones(4)).tolist() == [0, 0, 0, 0]


def test_constraints_are_met():
    problem = bounded(testing.sphere())
    optimiser = ky.Policy()
    loss, slack = recommended(optimiser, problem, search(optimiser, problem, 1200))
    assert slack > -0.03
    assert loss < 3.2


@pytest.mark.parametrize(
    "settings", [{"batch": 2}, {"sigma": 0.0}, {"step": 0.0}, {"sample": "new"}]
)
def test_values_out_of_range_are_refused(settings):
    with pytest.raises(errors.InputError):
        ky.Policy(**settings)


def _toy(gap: float, count: int, kind: str) -> float:
    if gap > 0.98:
        return float("nan")
    return (gap - 0.3) ** 2 + (count - 2) ** 2 / 4 + (kind != "iron")


def _problem():
    domains = {
        "gap": ky.Real(0, 1),
        "count": ky.Integer(0, 4),
        "kind": ky.Choice(("lead", "iron")),
    }
    problem = from_function(_toy, domains)
    room = ky.AtMost("room", lambda d: d["gap"], 0.9)
    return problem.replace(objective=problem.objective + room)


@pytest.mark.library("gymnasium")
def test_an_environment_rewards_what_the_objective_says():
    env = ky.environment(_problem(), key=KEY, by_parts=True)
    assert env.action_space.shape == (2,)
    assert env.observation_space.shape == (4 + 3,)
    seen, _ = env.reset()
    assert seen.tolist() == [0, 0, 0, 0, 1, 0, 0]
    seen, reward, done, cut, info = env.step([0.5, 0.9])
    assert (reward, done, cut, info) == (0.0, False, False, {})
    assert seen.tolist() == [0.5, 0, 0, 0, 0, 1, 0]
    env.step([0.7, 0.0])
    seen, reward, done, _, info = env.step([0.2, 0.4])
    assert done
    assert reward == pytest.approx(-(0.04 + 0.25), abs=1e-6)
    assert info["values"].tolist() == [0.5, 3.0, 0.0, 1.0]
    whole = ky.environment(_problem(), key=KEY)
    whole.reset()  # before anything feasible: the start, 0.04 + 0 + 1, is the worst
    start = -_toy(0.5, 2, "lead")
    broken = whole.step([0.95, 0.5, 0, 1])[1]
    assert broken == pytest.approx(start - (0.95 / 0.9 - 1), abs=1e-5)
    for action, wanted in (
        ([0.3, 0.5, 0, 1], 0.0),
        ([0.3, 0.0, 1, 0], -2.0),
        ([0.95, 0.5, 0, 1], -2.0 - (0.95 / 0.9 - 1)),  # worse than the worst
        ([1.0, 0.5, 0, 1], -3.0),  # fails
    ):
        whole.reset()
        assert whole.step(action)[1] == pytest.approx(wanted, abs=1e-5)


@pytest.mark.library("gymnasium")
def test_gymnasium_finds_no_fault():
    from gymnasium.utils.env_checker import check_env

    check_env(
        ky.environment(_problem(), key=KEY, by_parts=True), skip_render_check=True
    )


def test_the_extra_is_named_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    with pytest.raises(errors.UnsupportedError, match=r"kythera\[rl\]"):
        ky.environment(testing.sphere(), key=KEY)


@pytest.mark.slow
@pytest.mark.library("gymnasium", "stable_baselines3")
def test_another_code_learns_the_same():
    """PPO of Stable-Baselines3 on the environment, with the same settings, and ours."""
    import stable_baselines3

    trials, losses = 1600, {"ours": [], "theirs": []}
    problem = testing.sphere()
    for seed in range(5):
        state = search(
            ky.Policy(sample="fresh"), problem, trials, key=jax.random.key(seed)
        )
        ours = ky.Policy().recommend(state)[0]
        losses["ours"].append(testing.exact_loss(problem, ours))
        env = ky.environment(problem, key=jax.random.key(seed))
        agent = stable_baselines3.PPO(
            "MlpPolicy",
            env,
            learning_rate=0.01,
            n_steps=32,
            batch_size=32,
            n_epochs=10,
            gamma=1.0,
            gae_lambda=1.0,
            seed=seed,
            device="cpu",
            policy_kwargs={"log_std_init": np.log(0.2), "net_arch": [32, 32]},
        )
        agent.learn(trials)
        action, _ = agent.predict(env.reset()[0], deterministic=True)
        u = np.clip(np.asarray(action, float), 0, 1)
        losses["theirs"].append(testing.exact_loss(problem, u))
    start = testing.exact_loss(problem, START)
    ours, theirs = (np.median(losses[name]) / start for name in ("ours", "theirs"))
    assert theirs < 0.05, losses
    assert ours < 0.01, losses
    assert ours < 2 * theirs + 1e-3, losses
