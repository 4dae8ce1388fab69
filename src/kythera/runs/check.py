"""Is a store whole?"""

from kythera import errors
from kythera.runs.checkpoint import Checkpoints
from kythera.runs.store import Store
from kythera.runs.study import Study


def check(store: Store) -> tuple[dict[str, int], list[str]]:
    """Read all that it holds.

    Returns:
        how many of what there are, and what is wrong, one line each.
    """
    kinds = ("studies", "runs", "trials", "checkpoints", "artifacts")
    counts: dict[str, int] = {kind: 0 for kind in kinds}
    faults = []
    if store.is_sqlite:
        with store.reading() as connection:
            told = connection.exec_driver_sql("PRAGMA integrity_check").scalars().all()
        faults += [f"the database: {line}" for line in told if line != "ok"]
    for study in Study.list(store, everyones=True):
        counts["studies"] += 1
        for row in study.runs():
            counts["runs"] += 1
            where = f"study {study.name!r}, run {row['number']}"
            faults += [f"{where}: {fault}" for fault in _faults(study, row, counts)]
    return counts, faults


def _faults(study: Study, row: dict, counts: dict[str, int]) -> list[str]:
    """Of one run."""
    found, run = [], row["number"]
    trials = study.columns(run)
    numbers = trials["number"].tolist()
    counts["trials"] += len(numbers)
    if numbers != list(range(len(numbers))):
        found.append("its trials are not all there")
    kept = Checkpoints(study.folder(row["id"]))
    counts["checkpoints"] += len(kept.numbers())
    try:
        last = kept.load()
        if last is not None and last[1]["number"] >= len(numbers):
            found.append(
                f"its checkpoint counts more trials than the {len(numbers)} kept"
            )
    except errors.StoreError as error:
        found.append(str(error))
    for artifact in study.artifacts(run):
        counts["artifacts"] += 1
        try:
            study.artifact(artifact["name"], run, artifact["number"])
        except errors.StoreError as error:
            found.append(str(error))
    return found
