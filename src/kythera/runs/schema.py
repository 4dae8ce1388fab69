"""The tables of a store. What is changed here needs a migration beside it."""

from sqlalchemy import (
    BigInteger,
    Column,
    Double,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

# Constraints have names, so that migrations can speak of them on every database.
metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

NAME = 200  # characters of the name of a study or a user


def _of(table: str) -> ForeignKey:
    return ForeignKey(f"{table}.id", ondelete="CASCADE")


account = Table(
    "account",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String(NAME), nullable=False, unique=True),
    # what all runs of a user may cost together; null where nobody set a limit
    Column("cpu_seconds_limit", Double),
    Column("price_limit", Double),
)

study = Table(
    "study",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("account_id", Integer, _of("account"), nullable=False),
    Column("name", String(NAME), nullable=False),
    Column("created", Double, nullable=False),  # seconds since 1970, as all times
    Column("instrument", Text, nullable=False),
    Column("spec", Text, nullable=False),  # JSON: what rebuilds problem and engines
    Column("space", Text, nullable=False),  # JSON: names, units, bounds, kinds
    UniqueConstraint("account_id", "name"),
)

run = Table(
    "run",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("study_id", Integer, _of("study"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("state", String(20), nullable=False),  # running, stopped, finished, failed
    Column("reason", Text, nullable=False),
    Column("holder", Text, nullable=False),  # who writes it; empty where nobody does
    Column("heartbeat", Double, nullable=False),
    Column("began", Double, nullable=False),
    Column("seconds", Double, nullable=False),
    Column("cpu_seconds", Double, nullable=False),
    # of this run: JSON of what result.json holds, as far as it is known
    Column("record", Text, nullable=False),
    Column("recommended", LargeBinary, nullable=False),  # (2, n) float64
    Column("limits", Text, nullable=False),  # JSON: events, trials, seconds, ...
    Column("executor", Text, nullable=False),
    Column("price_per_hour", Double, nullable=False),  # of one CPU
    Column("tracker", Text, nullable=False),  # JSON: what a tracker calls this run
    UniqueConstraint("study_id", "number"),
)

trial = Table(
    "trial",
    metadata,
    Column("run_id", Integer, _of("run"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("sample", BigInteger, nullable=False),
    Column("point", LargeBinary, nullable=False),  # of the cube, float64
    Column("design", LargeBinary, nullable=False),  # native values, float64
    Column("value", Double),  # null stands for nan, as in all numbers
    Column("stderr", Double),
    Column("terms", Text, nullable=False),  # JSON: name -> [value, stderr]
    Column("slack", Text, nullable=False),
    Column("arrays", LargeBinary, nullable=False),  # gradients, covariance
    Column("events", BigInteger, nullable=False),
    Column("spent", BigInteger, nullable=False),
    Column("seconds", Double, nullable=False),
    Column("state", String(20), nullable=False),
    Column("cause", Text, nullable=False),
)

metric = Table(
    "metric",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("run_id", Integer, _of("run"), nullable=False, index=True),
    Column("name", String(NAME), nullable=False),
    Column("step", BigInteger, nullable=False),  # number of a trial
    Column("value", Double),
)

artifact = Table(
    "artifact",
    metadata,
    Column("run_id", Integer, _of("run"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),  # -1: of the run
    Column("name", String(NAME), primary_key=True),
    Column("sha256", String(64), nullable=False, index=True),
    Column("bytes", BigInteger, nullable=False),
    Column("kind", String(NAME), nullable=False),  # media type
)

share = Table(
    "share",
    metadata,
    Column("study_id", Integer, _of("study"), primary_key=True),
    Column("account_id", Integer, _of("account"), primary_key=True),
)
