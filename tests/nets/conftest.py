"""What each test of networks has."""

import pytest


@pytest.fixture(autouse=True)
def setting(one_thread):
    pass
