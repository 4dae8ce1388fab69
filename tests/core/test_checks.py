"""Numbers of things."""

import numpy as np
import pytest

from kythera import errors
from kythera.core.checks import check_count


@pytest.mark.parametrize("value", [1, 7, np.int64(3)])
def test_whole_numbers_pass(value):
    check_count("bins", value, "Try 4")


@pytest.mark.parametrize("value", [0, -3, 2.0, 2.5, "5", True, None, float("nan")])
def test_all_else_is_refused_with_its_name_and_value(value):
    with pytest.raises(errors.InputError, match=r"`bins` .* >= 1, but is .*\. Try 4\."):
        check_count("bins", value, "Try 4")
