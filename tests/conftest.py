"""What every test may ask for: keys, float64, system programs."""

import os
import shutil
import zlib
from collections.abc import Callable, Iterator

import jax
import pytest

SEED = int(os.environ.get("KYTHERA_TEST_SEED", "1"))


def pytest_report_header() -> list[str]:
    cache = os.environ.get("JAX_COMPILATION_CACHE_DIR", "none")
    return [
        f"jax: {jax.__version__}, {jax.default_backend()}, compiled programs: {cache}",
        f"seed: {SEED} (KYTHERA_TEST_SEED)",
    ]


def _find_program(names: tuple[str, ...]) -> str:
    """The first of these programs that is installed; else skip, or fail in CI."""
    for name in names:
        if path := shutil.which(name):
            return path
    reason = f"needs the program {' or '.join(names)}"
    if os.environ.get("KYTHERA_REQUIRE_PROGRAMS"):
        pytest.fail(f"{reason}, which KYTHERA_REQUIRE_PROGRAMS asks for", pytrace=False)
    pytest.skip(reason)


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("program"):
        _find_program(marker.args)
    if item.get_closest_marker("gpu") and jax.default_backend() == "cpu":
        pytest.skip("needs a JAX device other than the processor")


@pytest.fixture
def program(request: pytest.FixtureRequest) -> str:
    """The path of the program that the test's marker names."""
    marker = request.node.get_closest_marker("program")
    assert marker is not None, "name the programs: @pytest.mark.program('chromium')"
    return _find_program(marker.args)


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
