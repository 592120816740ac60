"""The fault drill, thinned; all of it is slow."""

import pytest
from fault_drill import ALL, drill


def test_some_faults(tmp_path):
    drill(tmp_path, kills=2, only=('kills', 'limit', 'sigterm'), say=lambda line: None)


@pytest.mark.slow
def test_all_faults(tmp_path):
    drill(tmp_path, kills=20, only=ALL)
