"""Fixtures of the tests of networks."""

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread():
    """Networks as small as these lose time to a second thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
