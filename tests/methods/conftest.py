"""Data that the tests of the methods share."""

import pytest


@pytest.fixture
def data(make_data):
    module = make_data(num_clients=3, auxiliary=4)
    module.setup()
    return module
