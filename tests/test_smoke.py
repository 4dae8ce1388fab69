"""The few tests that also run on the newest Python and on the oldest libraries."""

import importlib.metadata
import inspect
import pkgutil
import subprocess
import sys

import pytest

import kythera

pytestmark = pytest.mark.smoke


def test_the_front_door_opens():
    for name in kythera.__all__:
        assert getattr(kythera, name) is not None, name


def test_every_engine_and_optimiser_is_at_the_front_door():
    """Each public function or class that makes one, and so what a page may name `ky.x`."""
    from kythera.core.evaluation import AbstractEstimator, AbstractOptimiser

    for room in ("estimators", "optimisers"):
        package = importlib.import_module(f"kythera.{room}")
        for found in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            module = importlib.import_module(found.name)
            for name, value in vars(module).items():
                own = getattr(value, "__module__", "") == module.__name__
                if name.startswith("_") or not own or inspect.isabstract(value):
                    continue
                made = value
                if inspect.isfunction(value):
                    made = inspect.signature(value).return_annotation
                if inspect.isclass(made) and issubclass(
                    made, AbstractEstimator | AbstractOptimiser
                ):
                    assert getattr(kythera, name) is value


def test_the_version_is_that_of_the_package():
    assert importlib.metadata.version("kythera") == kythera.__version__


@pytest.mark.parametrize("module", ["kythera", "kythera.runs"])
def test_reading_never_imports_jax(module):
    code = f"import sys, {module}; sys.exit('jax' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_built_in_instruments_are_registered():
    group = importlib.metadata.entry_points(group="kythera.instruments")
    assert {"telescope", "muon_portal"} <= group.names


@pytest.mark.parametrize(
    ("name", "arguments", "trials"),
    [("adam", (0.1,), 40), ("LBFGSB", (), 20), ("Evolution", (), 20)],
)
def test_the_telescope_improves(name, arguments, trials):
    import jax

    from kythera.instruments import telescope

    solution = kythera.optimise(
        telescope.problem(),
        getattr(kythera, name)(*arguments),
        max_trials=trials,
        key=jax.random.key(1),
    )
    assert solution.soft.best.value < 0.5 * solution.soft.start.value
