import contextlib
import gc

import pytest

from imitated_graphs import Graph, Record, imitate


@pytest.fixture
def imitated(monkeypatch):
    """Graphs on the CPU, made by recording."""

    @contextlib.contextmanager
    def record(graph, pool, stream, capture_error_mode):
        assert capture_error_mode == "thread_local"
        assert not gc.isenabled()
        with Record(graph):
            yield

    imitate(monkeypatch, CUDAGraph=Graph, graph=record, graph_pool_handle=lambda: None)
