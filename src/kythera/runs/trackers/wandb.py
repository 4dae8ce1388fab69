"""Weights & Biases, online or offline."""

import dataclasses
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kythera.runs.trackers.base import AbstractSink, Found, Row


@dataclasses.dataclass
class WandB(AbstractSink):
    """A run of a W&B project.

    Args:
        project: its name.
        entity: user or team; by default the one that is logged in.
        mode: "online" or "offline"; by default what WANDB_MODE says, else online.
        folder: where W&B keeps its files; by default here.
    """

    project: str = "kythera"
    entity: str = ""
    mode: str = ""
    folder: str = ""
    _run: Any = dataclasses.field(default=None, init=False, repr=False)

    @property
    def continues(self) -> bool:
        """Only the server knows what a run holds."""
        return (self.mode or os.environ.get("WANDB_MODE", "online")) == "online"

    def open(self, id: str, name: str, config: Mapping[str, Any]) -> int:
        """See the base class."""
        import wandb

        if self.folder:
            Path(self.folder).mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            project=self.project,
            entity=self.entity or None,
            mode=self.mode or None,  # pyright: ignore[reportArgumentType]
            dir=self.folder or None,
            id=id,
            name=name,
            config=dict(config),
            resume="allow" if self.continues else None,
            reinit="create_new",
            # It would draw the console of the search through itself, ask on the terminal
            # for a key, and watch the machine.
            settings=wandb.Settings(
                console="off",
                quiet=True,
                login_timeout=1,
                x_disable_stats=True,
                disable_git=True,
                save_code=False,
            ),
        )
        if self._run.disabled:
            raise PermissionError("it is disabled, or nobody did `wandb login`")
        return int(self._run.step)

    def write(self, rows: list[Row]) -> None:
        """See the base class."""
        for row in rows:
            self._run.log(row.values, step=row.step, commit=True)

    def close(self, found: Found) -> None:
        """See the base class."""
        self._run.summary.update({**found.numbers, "result/reason": found.reason})
        if found.report is not None:
            copied = shutil.copy(found.report, self._run.dir)
            self._run.save(copied, base_path=self._run.dir, policy="now")
        self._run.finish(exit_code=0 if found.finished else 1)
