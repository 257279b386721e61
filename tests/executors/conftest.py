import pytest


@pytest.fixture
def data(make_data):
    """Five clients."""
    module = make_data(num_clients=5)
    module.setup()
    return module
