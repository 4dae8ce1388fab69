"""The telescope: what it refuses."""

import pytest

from kythera import errors
from kythera.instruments import telescope


@pytest.mark.parametrize("planes", [1, 0, -3])
def test_one_plane_measures_no_slope(planes):
    with pytest.raises(errors.InputError, match=f"two planes.*{planes}. Try 4"):
        telescope.problem(planes)
    assert telescope.problem(2).space.size == 2
