"""What tests with programs of the system share."""

import os
import shutil
from collections.abc import Sequence

import pytest


def require(programs: Sequence[str], install: str) -> None:
    """Skip where one of them is not there, or fail where the environment asks for all.

    Args:
        programs: that are needed, with the rights of root.
        install: what to type as root, on Debian.
    """
    lost = [name for name in programs if shutil.which(name) is None]
    reason = f"needs {', '.join(lost)}: {install}" if lost else ""
    if not reason and os.geteuid() != 0:
        reason = f"needs root, for {programs[0]}"
    if reason and os.environ.get("KYTHERA_REQUIRE_PROGRAMS"):
        pytest.fail(f"{reason} (KYTHERA_REQUIRE_PROGRAMS)", pytrace=False)
    if reason:
        pytest.skip(reason)
