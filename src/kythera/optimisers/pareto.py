"""Fronts: which of several designs no other one beats, and how much they dominate."""

import numpy as np


def nondominated(values: np.ndarray) -> np.ndarray:
    """Whether no other row is at least as good everywhere and better somewhere.

    Args:
        values: what is minimised, shape (N, terms).

    Returns:
        shape (N,); of equal rows all are kept.
    """
    return ~dominated(values, values)


def dominated(values: np.ndarray, rivals: np.ndarray) -> np.ndarray:
    """Whether some rival is at least as good everywhere and better somewhere.

    Args:
        values: what is minimised, shape (N, terms).
        rivals: shape (M, terms).

    Returns:
        shape (N,).
    """
    values, rivals = np.asarray(values, float), np.asarray(rivals, float)
    found = [
        np.any(np.all(rivals <= row, 1) & np.any(rivals < row, 1)) for row in values
    ]
    return np.array(found, bool)


def hypervolume(values: np.ndarray, reference: np.ndarray) -> float:
    """Volume that rows dominate, up to a reference point (all terms minimised).

    By slices along the last term, as in L. While et al., IEEE Trans. Evol. Comput. 16
    (2012) 86; the time grows as rows^(terms - 1).

    Args:
        values: shape (N, terms).
        reference: the worst that counts, shape (terms,); rows beyond it count nothing.
    """
    values, reference = np.asarray(values, float), np.asarray(reference, float)
    values = values[np.all(values < reference, 1)]
    if not len(values):
        return 0.0
    values = values[nondominated(values)]
    values = values[np.argsort(values[:, -1], kind="stable")]
    if values.shape[1] == 1:
        return float(reference[0] - values[0, 0])
    ends = np.append(values[1:, -1], reference[-1])
    return float(
        sum(
            (end - row[-1]) * hypervolume(values[: i + 1, :-1], reference[:-1])
            for i, (row, end) in enumerate(zip(values, ends, strict=True))
            if end > row[-1]
        )
    )


def reference_point(values: np.ndarray) -> np.ndarray:
    """A little worse than the worst of a front: by a tenth of its range, in each term.

    H. Ishibuchi et al., Evol. Comput. 26 (2018) 411.

    Args:
        values: all rows, shape (N, terms); the front is taken of them.
    """
    front = np.asarray(values, float)
    front = front[nondominated(front)]
    worst, best = front.max(0), front.min(0)
    span = np.where(worst > best, worst - best, np.maximum(np.abs(worst), 1e-12))
    return worst + 0.1 * span
