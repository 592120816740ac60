"""Numbers in the log: significant digits where four decimals would show zeros."""

import json
import math

import pytest
from helpers.runtime_case import run_tool, write_case
from helpers.tool_case import attention_config

from mmseg_invattn.engine.log_processor import _Significant


@pytest.mark.parametrize(
    'value, text',
    [
        (2.7e-7, '2.7e-07'),
        (0.00671234, '0.00671'),
        (0.0557123, '0.0557'),
        (-0.0001234, '-0.000123'),
        (0.5, '0.5000'),
        (94.6712, '94.6712'),
        (0.0, '0.0000'),
        (math.nan, 'nan'),
        (math.inf, 'inf'),
    ],
)
def test_three_digits_of_what_is_too_small_for_four_decimals(value, text):
    assert f'{_Significant(value):.4f}' == text


def test_formats_that_ask_for_something_else_stay():
    assert f'{_Significant(1e-7):.4e}' == '1.0000e-07' and f'{_Significant(1e-7)}' == '1e-07'
    assert f'{_Significant(0.001):.1f}' == '0.001' and json.dumps(_Significant(1e-7)) == '1e-07'


def test_certificates_in_the_log_of_a_run(tmp_path):
    config = attention_config(tmp_path, write_case(tmp_path), form='certified')
    run_tool('train', config, '--work-dir', tmp_path / 'work', options=('train_cfg.max_iters=2',))
    log = next((tmp_path / 'work').glob('*/*.log')).read_text()
    values = [line.split('inverse_error: ')[1].split()[0] for line in log.splitlines() if 'inverse_error: ' in line]
    assert values and all(float(value) > 0 for value in values)
    for line in ('The prefix is not set', '"FileClient" will be', '"HardDiskBackend" is'):
        assert line not in log
