"""The errors that kythera raises: each message gives the law, the values, the remedy."""

import difflib
from collections.abc import Iterable


class KytheraError(Exception):
    """Root of all errors that a user can cause or must know of."""


class SpaceError(KytheraError, ValueError):
    """A design, a domain or a parameter name does not fit the space."""


class UnsupportedError(KytheraError, TypeError):
    """A combination of problem, estimator and optimiser that cannot work."""


class SimulationError(KytheraError, RuntimeError):
    """A stage failed, or gave values that no physics allows."""


class InputError(KytheraError, ValueError):
    """A value, file or option given by the user breaks a law."""


class StoreError(KytheraError, OSError):
    """A result cannot be read or written."""


class ClusterError(KytheraError, ConnectionError):
    """Workers, or their scheduler, cannot be reached or have gone."""


class PhysicsWarning(UserWarning):
    """The physics may not be what you think: a model is used outside its range."""


def nearest(word: str, known: Iterable[str]) -> str:
    """The sentence that names what is known, the nearest spelling first.

    Args:
        word: what the user typed.
        known: the words that would have been right.

    Returns:
        "Did you mean 'z'? Known: 'z', 'pitch'." (at most ten names).
    """
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    hint = f"Did you mean {close[0]!r}? " if close else ""
    more = ", ..." if len(names) > 10 else ""
    return f"{hint}Known: {', '.join(map(repr, names[:10])) or 'none'}{more}."
