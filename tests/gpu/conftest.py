"""Every test here runs on the CPU at small sizes, and where CUDA is, under the marker ``gpu``, on the GPU as well."""

import pytest
from helpers.devices import DEVICES


@pytest.fixture(scope='module', params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    """Where a test computes: ``'cpu'`` or ``'cuda'``."""
    return request.param
