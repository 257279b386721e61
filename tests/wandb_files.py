"""Reads back what W&B wrote offline: a log of protobuf records, framed as LevelDB frames its log."""

import json
import struct
import time
from pathlib import Path

HEADER, BLOCK = 7, 32 * 1024
"""Bytes of the file's and of each record's header; bytes of a block, which no record's header straddles."""
FULL, LAST = 1, 4


def records(path):
    """The records of a ``.wandb`` file."""
    from wandb.proto import wandb_internal_pb2

    content = Path(path).read_bytes()
    assert content[:4] in (b":W&B", b"")
    position, whole = HEADER, b""
    while position + HEADER <= len(content):
        if BLOCK - position % BLOCK < HEADER:
            position += BLOCK - position % BLOCK
            continue
        length, kind = struct.unpack_from("<HB", content, position + 4)
        if position + HEADER + length > len(content):
            return  # not written to the end yet
        whole += content[position + HEADER : position + HEADER + length]
        position += HEADER + length
        if kind in (FULL, LAST):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            yield record
            whole = b""


class WandbRun:
    """An offline run: its id, configuration, history rows by step, summary, and the folder of its files."""

    def __init__(self, path):
        self.folder = Path(path).parent / "files"
        self.config, self.history, self.summary = {}, {}, {}
        for record in records(path):
            match record.WhichOneof("record_type"):
                case "run":
                    self.id, self.project = record.run.run_id, record.run.project
                    self._set(self.config, record.run.config.update)
                case "config":
                    self._set(self.config, record.config.update)
                case "history":
                    row = {}
                    self._set(row, record.history.item)
                    step = row.get("_step", record.history.step.num)  # W&B 0.17 has it among the items alone
                    self.history.setdefault(step, {}).update(row)
                case "summary":
                    self._set(self.summary, record.summary.update)

    def _set(self, place, items):
        for item in items:
            *path, last = [item.key] if item.key else item.nested_key
            inner = place
            for key in path:
                inner = inner.setdefault(key, {})
            inner[last] = json.loads(item.value_json)

    def table(self, value):
        """The rows of a logged table."""
        content = json.loads((self.folder / value["path"]).read_text())
        return [dict(zip(content["columns"], row, strict=True)) for row in content["data"]]


def read_runs(folder):
    """The offline runs below a folder, which are finished, oldest first."""
    paths = sorted(Path(folder).rglob("*.wandb"), key=lambda path: path.stat().st_mtime_ns)
    for path in paths:
        deadline = time.monotonic() + 20
        while not _complete(path) and time.monotonic() < deadline:  # W&B's process writes a little later
            time.sleep(0.05)
    return [WandbRun(path) for path in paths]


def _complete(path):
    return "exit" in [record.WhichOneof("record_type") for record in records(path)]
