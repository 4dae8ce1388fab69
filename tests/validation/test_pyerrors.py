"""Error propagation is that of pyerrors 2.17.0: its values of a fixed case, and random ones."""

import warnings
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from kythera.physics.statistics.least_squares import least_squares, root
from kythera.physics.statistics.observables import (
    Observables,
    constants,
    observables,
    stack,
)
from kythera.physics.statistics.propagation import autocorrelations, covariance, derive

from ..physics.statistics.chains import ar1

SAME = 1e-6  # relative
X = np.arange(1.0, 9.0)


@pytest.fixture(scope="module")
def first() -> Observables:
    x, y = ar1(5000, 0.8, 2022), ar1(5000, 0.5, 2023)
    return observables(np.stack([2 + 0.5 * x, 1 + 0.1 * y + 0.05 * x], 1), "A")


@pytest.fixture(scope="module")
def points() -> Observables:
    base = ar1(5000, 0.8, 7)
    each = [
        3 * np.exp(-0.35 * x) * (1 + 0.05 * base + 0.1 * ar1(5000, 0.6, 100 + i))
        for i, x in enumerate(X)
    ]
    return observables(np.stack(each, 1), "A")


def same(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(found, expected, rtol=SAME)


@pytest.mark.parametrize(
    ("settings", "stderr", "tau", "window"),
    [
        ({}, 0.0219532273658373, 4.85754250541, 37),
        ({"S": 1.0}, 0.0215857056151905, 4.69626244148, 20),
        ({"S": 0.0}, 0.00704328207027258, 0.5, 0),
        ({"tau_exp": 5.0}, 0.0220104065239175, 4.88287927242, 20),
    ],
)
def test_error_of_a_mean(first, settings, stderr, tau, window):
    found = first[0].estimate(**settings)
    same(found.value, 2.02647645952407)
    same(found.stderr, stderr)
    same(found.ensembles["A"].tau, tau)
    assert found.ensembles["A"].window == window


def test_errors_of_the_error_and_the_autocorrelation(first):
    found = first.estimate()
    same(found.stderr_error[0], 0.00190120525938708)
    same(found.ensembles["A"].tau_error[0], 0.774362834418)
    same(found.value[1], 1.00434003544304)
    same(found.stderr[1], 0.00335536664929923)
    same(found.ensembles["A"].tau[1], 2.13665033848)
    assert found.ensembles["A"].window[1] == 18
    rho, _ = autocorrelations(first[0], "A", 5)
    same(rho, [1, 0.795911774286, 0.627416648868, 0.486353331792, 0.37769249932])
    matrix = covariance(first)
    same(matrix.ravel()[:3], [4.819441917761e-4, *2 * [3.441835906014e-5]])
    same(matrix[1, 1], 1.125848535123e-5)


def test_derived_quantities(first):
    a, b = first
    outside = constants(0.3, 0.02**2, "c")
    both = derive(lambda a, b: (jnp.log(a / b), jnp.exp(-a) * jnp.sin(b) + a**2), a, b)
    for found, value, stderr in (
        (a / b, 2.01771948544315, 0.01840700658268),
        (both[0], 0.701967906046732, 0.00912267870508139),
        (a * b, 2.03527143918289, 0.0270338651911964),
        (both[1], 4.21781997671224, 0.086683667259591),
        (a * outside, 0.607942937857222, 0.0410611460344441),
    ):
        same(found.value, value)
        same(found.estimate().stderr, stderr)
    same((a / b).estimate().ensembles["A"].tau, 4.406753075)


def exponential(p, x):
    return p[0] * jnp.exp(-p[1] * x)


def test_fits(points):
    plain = least_squares(exponential, X, points, [1.0, 0.1])
    together = least_squares(
        exponential, X, points, [1.0, 0.1], covariance=covariance(points)
    )
    prior = {1: constants(0.36, 0.01**2, "prior")}
    known = least_squares(exponential, X, points, [1.0, 0.1], priors=prior)
    for fit, value, stderr, chi2, degrees in (
        (
            plain,
            [2.98881035044158, 0.349943644977947],
            [0.00913231346463556, 0.000395624564523328],
            4.75672587206,
            6,
        ),
        (
            together,
            [2.98948142096549, 0.349948222342629],
            [0.00916673261314461, 0.000393716354617192],
            5.97291260317,
            6,
        ),
        (
            known,
            [2.98918785192026, 0.34997203980403],
            [0.00912915944762479, 0.0003955136005122],
            5.765173149903,
            7,
        ),
    ):
        same(fit.parameters.value, value)
        same(fit.parameters.estimate().stderr, stderr)
        same(fit.chi_square, chi2)
        assert fit.degrees == degrees
    same(plain.chi_square / plain.expected_chi_square, 0.995127331833)
    assert together.expected_chi_square == pytest.approx(6, rel=1e-9)
    matrix = covariance(plain.parameters)
    same(matrix.ravel()[:2], [8.339914921636e-5, 2.672255475627e-6])
    same(matrix[1, 1], 1.565187960543e-7)


def test_a_fit_is_differentiated_with_its_full_hessian(points):
    """Gauss-Newton's derivatives differ in the third digit."""
    marked = constants(points.value, points.estimate().stderr ** 2, "points")
    fit = least_squares(exponential, X, marked, [1.0, 0.1])
    slopes = fit.parameters.constants["points"].slopes
    rows = [
        [0.815255175042, 0.679439822772, 0.756477280279, 0.682187102801]
        + [0.358211581682, -0.302132323182, -1.764138092448, -3.582654950548],
        [0.045389096972, 0.034198039181, 0.030994325734, 0.01386418036]
        + [-0.022580538623, -0.103284857221, -0.252429449674, -0.408791491515],
    ]
    np.testing.assert_allclose(slopes, rows, rtol=SAME)


def test_root(first):
    found = root(lambda x, d: jnp.exp(-(x**2)) - 0.5 * d, first[1], 1.0)
    same(found.value, 0.829949718904448)
    same(found.estimate().stderr, 0.00201269251093438)


@pytest.fixture(scope="module")
def pe() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of SciPy, about its ODR
        import pyerrors
    return pyerrors


class Case:
    """Random chains, settings and functions, for both codes."""

    def __init__(self, pe: Any, seed: int):
        rng = np.random.default_rng(seed)
        self.pe, self.rng = pe, rng
        self.mine: list[Observables] = []
        self.theirs: list[Any] = []
        for ensemble in ("A", "B")[: rng.integers(1, 3)]:
            self.add(ensemble)
        self.settings = {"S": float(rng.choice([0.0, 1.0, 1.5, 2.0, 3.0]))}
        if rng.random() < 0.3:
            self.settings = {"tau_exp": float(rng.uniform(1, 10))}
            self.settings["n_sigma"] = float(rng.uniform(0.5, 2))

    def add(self, ensemble: str) -> None:
        """Three observables on chains of random number, length and memory, with gaps."""
        rng, replicas = self.rng, int(self.rng.integers(1, 4))
        names = [f"r{r}" for r in range(replicas)]
        step = int(rng.integers(1, 3))
        chains, numbers = {}, {}
        for name in names:
            n = int(rng.integers(200, 1500))
            seeds = [int(s) for s in rng.integers(0, 2**31, 3)]
            each = [ar1(n, a, s) for a, s in zip(rng.uniform(0, 0.9, 3), seeds)]
            mixed = np.stack(each, 1) @ rng.uniform(-0.3, 0.3, (3, 3))
            keep = np.ones(n, bool)
            if step == 1 and rng.random() < 0.4:
                # With gaps and a spacing of 2 pyerrors takes the chain for one shorter.
                keep[2:] = rng.random(n - 2) < 0.8
            chains[name] = (mixed + rng.uniform(1.5, 3, 3))[keep]
            numbers[name] = step * np.arange(1, n + 1)[keep]
        self.mine += list(observables(chains, ensemble, numbers=numbers))
        labels = [f"{ensemble}|{name}" for name in names]
        self.theirs += [
            self.pe.Obs(
                [chains[name][:, k] for name in names],
                labels,
                idl=[list(map(int, numbers[name])) for name in names],
            )
            for k in range(3)
        ]

    def check(self, mine: Observables, theirs: Any) -> None:
        """Value, error, its error, and times on each ensemble."""
        their = {k.replace("n_s", "N_s"): v for k, v in self.settings.items()}
        theirs.gamma_method(**their)
        found = mine.estimate(**self.settings)
        same(found.value, theirs.value)
        same(found.stderr, theirs.dvalue)
        same(found.stderr_error, theirs.ddvalue)
        for name, own in found.ensembles.items():
            same(own.tau, theirs.e_tauint[name])
            same(own.tau_error, theirs.e_dtauint[name])
            assert own.window == theirs.e_windowsize[name]

    def fit(self) -> None:
        """A fit of one chain's points: plain, correlated, or with a prior."""
        import autograd.numpy as anp

        rng, pe, n = self.rng, self.pe, int(self.rng.integers(300, 2000))
        x, p = np.arange(1.0, 8.0), rng.uniform([2, 0.2], [4, 0.5])
        base, scatter = ar1(n, 0.8, int(rng.integers(1e9))), rng.uniform(0.02, 0.2, 2)
        rows = p[0] * np.exp(-p[1] * x) * (1 + scatter[0] * base[:, None])
        rows += (
            p[0]
            * scatter[1]
            * np.stack([ar1(n, 0.5, int(s)) for s in rng.integers(0, 1e9, 7)], 1)
            * np.exp(-p[1] * x)
        )
        mine = observables(rows, "fit")
        theirs = [pe.Obs([column], ["fit"]) for column in rows.T]
        for one in theirs:
            one.gamma_method()
        kind, more, their = int(rng.integers(3)), {}, {}
        if kind == 1:
            more, their = {"covariance": covariance(mine)}, {"correlated_fit": True}
        if kind == 2:
            guess = p[1] * rng.uniform(0.9, 1.1)
            more = {"priors": {1: constants(guess, 0.01**2, "prior")}}
            prior = pe.cov_Obs(guess, 0.01**2, "prior")
            their = {"priors": {1: prior}}
        fit = least_squares(exponential, x, mine, [1.0, 0.1], **more)
        expected = pe.least_squares(
            x,
            theirs,
            lambda a, x: a[0] * anp.exp(-a[1] * x),
            silent=True,
            expected_chisquare=kind == 0,
            **their,
        )
        same(fit.chi_square, expected.chisquare)
        same(fit.p_value, expected.p_value)
        if kind == 0:
            ratio = expected.chisquare_by_expected_chisquare
            same(fit.chi_square / fit.expected_chi_square, ratio)
        for k in range(2):
            self.check(fit.parameters[k], expected[k])


def functions(np_: Any) -> list[Any]:
    """The same functions for both codes, of a vector."""
    return [
        lambda a: np_.log(a[0] / a[1]) * a[-1],
        lambda a: np_.exp(-a[0]) * np_.sin(a[1]) + a[-1] ** 2,
        lambda a: np_.sqrt(a[0] * a[1] + a[-1] ** 2) / (1 + a[2]),
        lambda a: np_.tanh(a[0] - a[1]) + np_.sum(a**3),
    ]


@pytest.mark.parametrize(
    "seed",
    [0, *(pytest.param(s, marks=pytest.mark.slow) for s in range(1, 20))],
)
def test_random_case(pe, seed):
    import autograd.numpy as anp

    case = Case(pe, seed)
    for mine, theirs in zip(case.mine, case.theirs):
        case.check(mine, theirs)
    a, b, *_, c = case.mine
    outside = constants([0.5, 0.7], [[0.02, 0.005], [0.005, 0.01]], "outside")
    given = pe.cov_Obs([0.5, 0.7], [[0.02, 0.005], [0.005, 0.01]], "outside")
    case.check(
        (a * b - c / a) * outside[1] + outside[0] ** 2,
        (case.theirs[0] * case.theirs[1] - case.theirs[-1] / case.theirs[0]) * given[1]
        + given[0] ** 2,
    )
    which = seed % 4
    case.check(
        derive(functions(jnp)[which], stack(case.mine)),
        pe.derived_observable(functions(anp)[which], case.theirs),
    )
    case.check(
        root(lambda x, d: x**3 + x * d - 2, b, 1.0),
        pe.roots.find_root(case.theirs[1], lambda x, d: x**3 + x * d - 2),
    )
    case.fit()
