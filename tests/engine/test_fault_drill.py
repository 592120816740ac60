"""The fault drill, thinned; all of it is slow."""

import pytest
from fault_drill import ALL, drill


def test_a_kill(tmp_path):
    drill(tmp_path, kills=1, only=('kills',), say=lambda line: None)


@pytest.mark.slow
def test_all_faults(tmp_path):
    drill(tmp_path, kills=20, only=ALL)
