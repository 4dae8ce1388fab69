"""Stores of both kinds, each empty."""

import os
from collections.abc import Callable, Iterator

import pytest

from kythera.runs.store import Store

from . import backends

BACKENDS = ("sqlite", "postgresql")


@pytest.fixture(scope="session")
def postgresql() -> Iterator[backends.Server]:
    """A server for all tests of this process."""
    if backends.programs() is None:
        reason = "needs PostgreSQL: apt-get install postgresql"
        if os.environ.get("KYTHERA_REQUIRE_PROGRAMS"):
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    with backends.server() as found:
        yield found


@pytest.fixture(params=BACKENDS)
def url(request: pytest.FixtureRequest, tmp_path) -> str:
    """Of a database that is empty, of each kind."""
    if request.param == "sqlite":
        return str(tmp_path / "runs.db")
    return request.getfixturevalue("postgresql").database()


@pytest.fixture
def open_as(url, tmp_path) -> Iterator[Callable[..., Store]]:
    """Open the store as a user: `open_as("ada")`."""
    found: list[Store] = []

    def call(user: str, **options) -> Store:
        found.append(Store(url, user=user, files=tmp_path / "files", **options))
        return found[-1]

    yield call
    for store in found:
        store.close()


@pytest.fixture
def kept(open_as) -> Store:
    """Ada's."""
    return open_as("ada")
