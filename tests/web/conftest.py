"""A store with studies of several users, and a client of its page."""

import pytest

from kythera.runs.store import Store

from . import stores
from .clients import Client


@pytest.fixture
def store(tmp_path):
    """Empty, ada's."""
    found = Store(tmp_path / "runs.db", user="ada")
    yield found
    found.close()


@pytest.fixture
def studied(store, toy_result, toy_solution):
    """One study of ada's, finished."""
    stores.fill(store, "first", toy_result, toy_solution.trials, price=36.0)
    return store


@pytest.fixture
def client(store):
    """Asks the page as a browser on this machine does."""
    return Client(store)
