"""Named tensors in one buffer per type, which are copied, averaged and checked as a whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property

import torch
from torch import Tensor


class FlatTensors(Mapping[str, Tensor]):
    """Named tensors of any device, one after the other in one buffer per type.

    What reads a single tensor gets it in host memory: the first read copies all of them there, and waits.

    Args:
        buffers: The buffers, one-dimensional, by the name of their type.
        places: Buffer and shape of every tensor by its name, in the order of the tensors in their buffers.
    """

    def __init__(self, buffers: Mapping[str, Tensor], places: Mapping[str, tuple[str, torch.Size]]) -> None:
        self.buffers, self.places = dict(buffers), places

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], pinned: bool = False) -> FlatTensors:
        """Copies of tensors on their device; ``pinned`` puts them into page-locked memory of the host."""
        groups: dict[str, list[Tensor]] = {}
        for tensor in tensors.values():
            groups.setdefault(str(tensor.dtype), []).append(tensor.detach().reshape(-1))
        buffers = {kind: _joined(parts, pinned) for kind, parts in groups.items()}
        return cls(buffers, {name: (str(tensor.dtype), tensor.shape) for name, tensor in tensors.items()})

    def with_buffers(self, buffers: Mapping[str, Tensor]) -> FlatTensors:
        """The same places in other buffers."""
        return FlatTensors(buffers, self.places)

    def views(self) -> dict[str, Tensor]:
        """The tensors where they are, as views of the buffers."""
        found, ends = {}, dict.fromkeys(self.buffers, 0)
        for name, (kind, shape) in self.places.items():
            start, ends[kind] = ends[kind], ends[kind] + shape.numel()
            found[name] = self.buffers[kind][start : ends[kind]].view(shape)
        return found

    @cached_property
    def _on_host(self) -> dict[str, Tensor]:
        return self.with_buffers({kind: buffer.cpu() for kind, buffer in self.buffers.items()}).views()

    def __getitem__(self, name: str) -> Tensor:
        return self._on_host[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)


def buffers(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """What holds the values: the buffers of flat tensors, and otherwise the tensors themselves."""
    return tensors.buffers if isinstance(tensors, FlatTensors) else tensors


def _joined(parts: list[Tensor], pinned: bool) -> Tensor:
    if not pinned:
        return torch.cat(parts)
    size = sum(part.numel() for part in parts)
    return torch.cat(parts, out=torch.empty(size, dtype=parts[0].dtype, pin_memory=True))
