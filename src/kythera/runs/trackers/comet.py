"""Comet, online or into an archive that is uploaded later."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from kythera.runs.trackers.base import AbstractSink, Found, Row

# What Comet would collect by itself: code, output, environment, parameters of libraries.
NOTHING_ELSE = {
    **dict.fromkeys(("log_code", "log_graph", "parse_args", "log_env_details"), False),
    **dict.fromkeys(("auto_param_logging", "auto_metric_logging"), False),
    **dict.fromkeys(("log_git_metadata", "log_git_patch"), False),
    "auto_output_logging": False,
    "display_summary_level": 0,
}


@dataclasses.dataclass
class Comet(AbstractSink):
    """An experiment of a Comet project.

    Args:
        project: its name.
        workspace: by default the user's.
        offline: folder for an archive, instead of the server; `comet upload` sends it.
    """

    project: str = "kythera"
    workspace: str = ""
    offline: str = ""
    _experiment: Any = dataclasses.field(default=None, init=False, repr=False)

    @property
    def continues(self) -> bool:
        """An experiment that goes on does not tell what it holds."""
        return False

    def open(self, id: str, name: str, config: Mapping[str, Any]) -> int:
        """See the base class."""
        import comet_ml

        settings = {
            "project_name": self.project,
            "workspace": self.workspace or None,
            "experiment_key": id,
            **NOTHING_ELSE,
        }
        self._experiment = (
            comet_ml.OfflineExperiment(offline_directory=self.offline, **settings)
            if self.offline
            else comet_ml.Experiment(**settings)
        )
        if not self._experiment.alive:
            raise ConnectionError("the server does not answer")
        self._experiment.set_name(name)
        self._experiment.log_parameters(dict(config))
        return 0

    def write(self, rows: list[Row]) -> None:
        """See the base class."""
        for row in rows:
            self._experiment.log_metrics(row.values, step=row.step)

    def close(self, found: Found) -> None:
        """See the base class."""
        self._experiment.log_metrics(found.numbers, step=found.step)
        if found.reason:
            self._experiment.log_other("reason", found.reason)
        if found.report is not None:
            self._experiment.log_asset(str(found.report), file_name=found.report.name)
        self._experiment.end()
