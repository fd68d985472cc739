"""What each control test has."""

import pytest


@pytest.fixture(autouse=True)
def setting(alone, one_thread):
    pass
