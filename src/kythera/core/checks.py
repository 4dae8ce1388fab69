"""Laws on what users give, in one place where many doors ask for the same."""

import numbers
from typing import Any

from kythera import errors


def check_count(name: str, value: Any, remedy: str, least: int = 1) -> None:
    """Refuse what is no whole number, or too small a one.

    Args:
        name: of the argument, for the message.
        value: what was given.
        remedy: what to give instead, without its full stop.
        least: the smallest that can be.

    Raises:
        InputError: another type, also 2.0 and True, or a number below `least`.
    """
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not whole or value < least:
        raise errors.InputError(
            f"`{name}` must be a whole number >= {least}, but is {value!r}. {remedy}."
        )
