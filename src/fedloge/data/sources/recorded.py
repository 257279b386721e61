"""The data of a run as its folder remembers them."""

from __future__ import annotations

from fedloge.data.record import DataRecord
from fedloge.data.sources.base import Dataset, Source
from fedloge.errors import DataError


class Recorded(Source):
    """Stands in for the source of a run whose models are used without its data.

    Args:
        file: The run's ``data.json``.

    Raises:
        DataError: If the file is missing or malformed.
    """

    def __init__(self, file: str) -> None:
        record = DataRecord.load(file)
        self.name, self.class_names, self.channels = record.name, record.class_names, record.channels
        self.image_size, self.stored_size = record.image_size, record.stored_size
        self.mean, self.std = record.mean, record.std

    def load(self) -> Dataset:
        """Refuse: the record holds no images.

        Raises:
            DataError: Always.
        """
        raise DataError(f"the images of {self.name} are not at hand. Give their place by --data.source.")
