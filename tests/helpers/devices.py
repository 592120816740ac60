"""Where a test of ``tests/gpu`` runs: on the CPU, and under the marker ``gpu`` where CUDA is."""

import pytest
import torch

without_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason='torch finds no GPU')
DEVICES = ['cpu', pytest.param('cuda', marks=[pytest.mark.gpu, without_gpu])]
