"""What every test may ask for: keys, float64, system programs, a toy solution."""

import gc
import importlib.util
import os
import shutil
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
import pytest

import kythera as ky
from kythera import drawing
from kythera.physics import geant4_tables as geant4_tables_
from kythera.runs.describe import describe

SEED = int(os.environ.get("KYTHERA_TEST_SEED", "1"))
finished = 0  # tests of this process


def pytest_report_header() -> list[str]:
    cache = os.environ.get("JAX_COMPILATION_CACHE_DIR", "none")
    return [
        f"jax: {jax.__version__}, {jax.default_backend()}, compiled programs: {cache}",
        f"seed: {SEED} (KYTHERA_TEST_SEED)",
    ]


def pytest_runtest_teardown(item: pytest.Item) -> None:
    """Forget compiled programs before they are too many.

    Each maps memory some times, and Linux gives a process 65,530 mappings: beyond, the
    compiler crashes. Counting takes a while, so not after each test.
    """
    global finished
    finished += 1
    maps = Path("/proc/self/maps")
    if finished % 20 == 0 and maps.exists() and maps.read_bytes().count(b"\n") > 15_000:
        jax.clear_caches()
        gc.collect()


def _find_program(names: tuple[str, ...]) -> str:
    """The first of these programs that is installed; else skip, or fail in CI."""
    for name in names:
        if path := shutil.which(name):
            return path
    reason = f"needs the program {' or '.join(names)}"
    if os.environ.get("KYTHERA_REQUIRE_PROGRAMS"):
        pytest.fail(f"{reason}, which KYTHERA_REQUIRE_PROGRAMS asks for", pytrace=False)
    pytest.skip(reason)


def _find_library(*names: str) -> None:
    """Skip, or fail in CI, where one of these Python libraries is not installed."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            reason = f"needs the Python library {name}"
            if os.environ.get("KYTHERA_REQUIRE_PROGRAMS"):
                pytest.fail(f"{reason}, which must be here", pytrace=False)
            pytest.skip(reason)


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("program"):
        _find_program(marker.args)
    for marker in item.iter_markers("library"):
        _find_library(*marker.args)
    if item.get_closest_marker("gpu") and jax.default_backend() == "cpu":
        pytest.skip("needs a JAX device other than the processor")


@pytest.fixture
def program(request: pytest.FixtureRequest) -> str:
    """The path of the program that the test's marker names."""
    marker = request.node.get_closest_marker("program")
    assert marker is not None, "name the programs: @pytest.mark.program('chromium')"
    return _find_program(marker.args)


@pytest.fixture
def needs() -> Callable[..., None]:
    """A function that skips the test where a Python library is not installed."""
    return _find_library


@pytest.fixture(scope="session")
def geant4_tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Generated tables for Geant4: one folder, because a process reads its data once."""
    folder = tmp_path_factory.mktemp("geant4")
    light, heavy = (1, 6, 7, 8, 14, 18, 22, 26, 29, 32, 33), (53, 55, 74, 82, 83)
    geant4_tables_.write(folder, (*light, *heavy))
    return folder


@pytest.fixture
def geant4(monkeypatch: pytest.MonkeyPatch, geant4_tables: Path) -> Path:
    """Generated tables as the data that Geant4 finds."""
    monkeypatch.setenv("GEANT4_DATA_DIR", str(geant4_tables))
    return geant4_tables


@pytest.fixture
def x64() -> Iterator[None]:
    """Float64 for this test: derivatives are compared with differences."""
    before = jax.config.read("jax_enable_x64")
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)


@pytest.fixture
def getkey(request: pytest.FixtureRequest) -> Callable[[], jax.Array]:
    """A function that gives a new key at each call, the same ones in each run."""
    key = jax.random.key(SEED)
    key = jax.random.fold_in(key, zlib.crc32(request.node.nodeid.encode()))
    count = 0

    def next_key() -> jax.Array:
        nonlocal count
        count += 1
        return jax.random.fold_in(key, count)

    return next_key


def _toy_loss(z: float, panels: int, material: str, seed: int) -> dict[str, float]:
    if z < 0.05:
        return {"image": float("nan"), "time": 0.0}
    noise = np.random.default_rng(seed).normal()
    cost = {"iron": 0.5, "lead": 0.1}[material]
    return {"image": (z - 0.6) ** 2 + cost + 0.01 * noise, "time": 0.1 * panels}


def _toy_draw(problem: ky.Problem, designs: dict, key: jax.Array) -> dict[str, dict]:
    traces = [
        drawing.points([float(d["z"])], [0.0], name=name) for name, d in designs.items()
    ]
    return {"layout": drawing.figure(*traces, x="z (cm)", caption="Where it is.")}


@pytest.fixture(scope="session")
def toy_problem() -> ky.Problem:
    """Outside JAX, so that nothing compiles: all domains, terms, a constraint, failures."""
    problem = ky.from_function(
        _toy_loss,
        {
            "z": ky.Real(0, 1, "cm"),
            "panels": ky.Integer(1, 5),
            "material": ky.Choice(("iron", "lead")),
        },
        start={"z": 0.1},
        terms=("image", "time"),
        events=4,
    )
    objective = problem.objective + ky.AtMost("height", lambda d: d["z"], 0.95)
    return problem.replace(
        objective=objective, weights={"time": 0.5}, draw=_toy_draw, name="toy"
    )


@pytest.fixture(scope="session")
def toy_solution(toy_problem) -> ky.Solution:
    """The toy after a few generations; some trials failed."""
    return ky.optimise(
        toy_problem,
        ky.Evolution(population=8),
        key=jax.random.key(7),
        max_trials=24,
        report_events=8,
    )


@pytest.fixture(scope="session")
def toy_result(toy_solution) -> ky.Result:
    """The toy's solution as plain numbers, not written."""
    return describe(toy_solution, reference="toy:problem", settings={"panels": 3})
