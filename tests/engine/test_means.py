"""Metrics warn of a mean that is not over all classes, both mmseg's and ours."""

import re

import cv2
import numpy as np
import pytest
from helpers.runtime_case import run_tool
from helpers.tool_case import write_tool_case

from mmseg_invattn.engine.means import means_over

CLASSES = ('a', 'b', 'c')


@pytest.mark.parametrize(
    'labels, predictions, nan_left_out, expected',
    [
        ([5, 5, 5], [9, 0, 0], True, ''),
        ([5, 0, 5], [9, 0, 1], True, 'mIoU is the mean over 2 of 3 classes; left out, because .*: b'),
        (
            [5, 0, 0],
            [9, 0, 1],
            True,
            'mIoU is the mean over 2 of 3 classes; left out, because .*: b; counted, although .*: c',
        ),
        (
            [5, 0, 0],
            [9, 0, 0],
            False,
            'mIoU is the mean over 3 of 3 classes; counted, although no label has a pixel of them: b, c',
        ),
    ],
)
def test_words(labels, predictions, nan_left_out, expected):
    text = means_over(np.array(labels), np.array(predictions), CLASSES, nan_left_out)
    assert re.fullmatch(expected, text)


@pytest.mark.parametrize('metric', ['IoUMetric', 'SegMetric'])
def test_classes_that_occur_nowhere(tmp_path, metric):
    config, weights = write_tool_case(tmp_path)
    for path in (tmp_path / 'data' / 'labels').iterdir():
        cv2.imwrite(str(path), np.array([[0, 255]], np.uint8).repeat(28, 0).repeat(14, 1))
    run_tool('test', config, weights, '--work-dir', tmp_path / 'work', options=(f'test_evaluator.type={metric}',))
    log = next((tmp_path / 'work').glob('*/*.log')).read_text()
    warned = [line for line in log.splitlines() if 'WARNING' in line]
    assert sum('b, c (2 of 3 classes) have no pixel in the 4 labels' in line for line in warned) == 1
    assert sum('The labels hold 0, 255, and 255 is ignored' in line for line in warned) == 1
    assert sum('mIoU is the mean over ' in line and ' of 3 classes; ' in line for line in warned) == 1
