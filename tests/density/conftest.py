"""What each density test has, and the devices there are."""

import pytest
import torch


@pytest.fixture(autouse=True)
def setting(alone, one_thread):
    pass


@pytest.fixture(
    params=["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]
)
def device(request):
    return request.param
