"""MLflow: its server, or a database that it reads."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from kythera.runs.trackers.base import AbstractSink, Found, Row

ID = "kythera.id"  # the tag by which a run is found again: MLflow gives its own ids
LAST = "trial"  # the metric that tells how far a run has come
MOST_METRICS, MOST_PARAMS, LONGEST = 1000, 100, 500  # in one request; characters


@dataclasses.dataclass
class MLflow(AbstractSink):
    """A run of an MLflow experiment.

    Args:
        uri: of the server or the database, "sqlite:///mlflow.db"; MLflow's own default
            where it is empty.
        experiment: its name.
    """

    uri: str = ""
    experiment: str = "kythera"
    _client: Any = dataclasses.field(default=None, init=False, repr=False)
    _run: str = dataclasses.field(default="", init=False, repr=False)

    def open(self, id: str, name: str, config: Mapping[str, Any]) -> int:
        """See the base class."""
        from mlflow.entities import Param
        from mlflow.tracking import MlflowClient

        self._client = client = MlflowClient(tracking_uri=self.uri or None)
        known = client.get_experiment_by_name(self.experiment)
        place = (
            known.experiment_id if known else client.create_experiment(self.experiment)
        )
        for run in client.search_runs([place], f"tags.`{ID}` = '{id}'", max_results=1):
            self._run = run.info.run_id
            client.update_run(self._run, status="RUNNING")
            return int(run.data.metrics.get(LAST, -1)) + 1
        self._run = client.create_run(place, tags={ID: id}, run_name=name).info.run_id
        params = [
            Param(re.sub(r"[^\w./ :-]", "_", key)[:LONGEST], str(value)[:LONGEST])
            for key, value in config.items()
        ]
        for i in range(0, len(params), MOST_PARAMS):
            client.log_batch(self._run, params=params[i : i + MOST_PARAMS])
        return 0

    def write(self, rows: list[Row]) -> None:
        """See the base class; a trial is in one request, so that none is there in part."""
        from mlflow.entities import Metric

        batch: list[Any] = []
        for row in rows:
            values = {**row.values, LAST: float(row.step)}
            if len(batch) + len(values) > MOST_METRICS:
                self._client.log_batch(self._run, metrics=batch)
                batch = []
            when = int(1000 * row.time)
            batch += [Metric(key, v, when, row.step) for key, v in values.items()]
        self._client.log_batch(self._run, metrics=batch)

    def close(self, found: Found) -> None:
        """See the base class."""
        for key, value in found.numbers.items():
            self._client.log_metric(self._run, key, value, step=found.step)
        if found.reason:
            self._client.set_tag(self._run, "kythera.reason", found.reason[:LONGEST])
        if found.report is not None:
            self._client.log_artifact(self._run, str(found.report))
        status = "FINISHED" if found.finished else "KILLED"
        self._client.set_terminated(self._run, status=status)
