"""TensorBoard: files of events in a folder."""

import dataclasses
import re
import struct
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kythera.runs.trackers.base import AbstractSink, Found, Row

FLUSH = 5  # seconds


@dataclasses.dataclass
class TensorBoard(AbstractSink):
    """A run in TensorBoard's folder: `tensorboard --logdir FOLDER` shows it.

    Args:
        folder: where the runs are, each in a folder of its own.
    """

    folder: str = "runs"
    _writer: Any = dataclasses.field(default=None, init=False, repr=False)

    def open(self, id: str, name: str, config: Mapping[str, Any]) -> int:
        """See the base class."""
        from tensorboardX import FileWriter

        stem = re.sub(r"[^\w.-]+", "-", name).strip("-.")[:80]
        place = Path(self.folder) / f"{stem}-{id[:8]}"
        held = max(steps(place), default=-1) + 1
        # Two files of the same second must not have the same name.
        suffix = f".{uuid.uuid4().hex[:8]}"
        self._writer = FileWriter(str(place), flush_secs=FLUSH, filename_suffix=suffix)
        if not held:
            lines = [f"| {key} | {value} |" for key, value in config.items()]
            self._text("settings", "\n".join(["| setting | value |", "|-|-|", *lines]))
        return held

    def write(self, rows: list[Row]) -> None:
        """See the base class; a trial is one record, so that none is there in part."""
        from tensorboardX.proto.summary_pb2 import Summary  # pyright: ignore

        for row in rows:
            values = [
                Summary.Value(tag=tag, simple_value=v) for tag, v in row.values.items()
            ]
            self._writer.add_summary(Summary(value=values), row.step, row.time)

    def close(self, found: Found) -> None:
        """See the base class; a report cannot be attached."""
        from tensorboardX.proto.summary_pb2 import Summary  # pyright: ignore

        values = [
            Summary.Value(tag=tag, simple_value=v) for tag, v in found.numbers.items()
        ]
        self._writer.add_summary(Summary(value=values), found.step)
        if found.reason:
            self._text("result/reason", found.reason)
        self._writer.close()

    def _text(self, tag: str, words: str) -> None:
        from tensorboardX import summary

        self._writer.add_summary(summary.text(tag, words), 0)


def steps(folder: Path) -> Iterator[int]:
    """Steps of the trials in the event files of a folder."""
    from tensorboardX.proto.event_pb2 import Event  # pyright: ignore

    for file in sorted(folder.glob("events.out.tfevents.*")):
        for data in _records(file.read_bytes()):
            event = Event.FromString(data)
            if any(value.tag == "events" for value in event.summary.value):
                yield event.step


def _records(data: bytes) -> Iterator[bytes]:
    """The records of an event file, but for the last one where a kill cut it short.

    Each is: its length (8 bytes, little-endian), a checksum of it (4), the record, a
    checksum of that (4).
    """
    start = 0
    while start + 12 <= len(data):
        (length,) = struct.unpack_from("<Q", data, start)
        start += 12 + length + 4
        if start > len(data):
            return
        yield data[start - length - 4 : start - 4]
