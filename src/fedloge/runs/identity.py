"""The data of a run: a record in its folder, against which other data are checked."""

from __future__ import annotations

from fedloge.data.datamodule import FederatedDataModule
from fedloge.data.record import RECORD, DataRecord
from fedloge.errors import RunError
from fedloge.runs.folder import RunFolder


def write_record(folder: RunFolder, data: FederatedDataModule) -> None:
    """Write the record of the data that a run is trained on."""
    folder.write_json(RECORD, DataRecord.of(data.source, data.dataset).content())


def check_data(folder: RunFolder, data: FederatedDataModule) -> None:
    """Require the data of a run; a folder from before there were records is accepted.

    Raises:
        RunError: If they differ in what labels or images mean; names the differences.
    """
    path = folder.path / RECORD
    if not path.is_file():
        return
    changes = DataRecord.load(path).differences(DataRecord.of(data.source, data.load()))
    if changes:
        raise RunError(
            f"{str(folder.path)!r} was trained on other data than {data.source.name} is now: {'; '.join(changes)}. "
            "Restore the data, or set data.source to where they are."
        )
