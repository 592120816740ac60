"""What the Triton kernels compute, against float64: interpreted where there is no GPU, compiled for the one that is."""

import json
import os
import subprocess
import sys

import pytest
import torch
from helpers.checkout import ROOT

from mmseg_invattn.ops import attention as ops
from mmseg_invattn.ops.attention import blocked_positive, triton_choice


@pytest.fixture(scope='module')
def found(device):
    pytest.importorskip('triton')
    if device == 'cuda':
        from helpers.triton_cases import measured

        return measured(device)
    run = subprocess.run(
        [sys.executable, '-W', 'ignore', str(ROOT / 'tests' / 'helpers' / 'triton_interpreted.py')],
        env={**os.environ, 'TRITON_INTERPRET': '1', 'PYTHONPATH': str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert not run.returncode, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


def test_float32_is_as_exact_as_torch(found):
    assert found['float32'] and found['extreme']
    for case in ('float32', 'extreme'):
        for size, (ours, torchs) in found[case].items():
            assert all(a <= 3 * b + 5e-7 for a, b in zip(ours, torchs, strict=True)), (case, size, ours, torchs)
    assert all(max(ours) < 2e-5 for ours, _ in found['float32'].values())


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_precision_rounds_the_weights_once(found, dtype):
    cases = found[str(dtype).removeprefix('torch.')]
    assert cases
    for size, (ours, _) in cases.items():
        assert max(ours) < torch.finfo(dtype).eps, (size, ours)


def test_operator_takes_views_shared_keys_and_half_precision(found):
    assert max(found['operator']) < torch.finfo(torch.bfloat16).eps
    assert set(found['dtypes']) == {'torch.bfloat16'}


def test_nan_stays_where_it_is(found):
    assert found['nan'] == [False, True, False]


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16])
def test_they_serve_where_there_is_a_gpu(device, dtype, monkeypatch):
    """None would say that the trial failed; and the CPU never takes them."""
    pytest.importorskip('triton')
    asked = []
    choose = blocked_positive.triton_kernels
    monkeypatch.setattr(blocked_positive, 'triton_kernels', lambda *case: asked.append(choose(*case)) or asked[-1])
    monkeypatch.setattr(triton_choice, '_CHOSEN', {})
    q, k, v = (torch.randn(1, 2, count, 32, device=device, dtype=dtype, requires_grad=True) for count in (40, 50, 50))
    ops.dot_product_attention(q, k, v).sum().backward()
    assert len(asked) == 2 and all((kernels is not None) == (device == 'cuda') for kernels in asked)
