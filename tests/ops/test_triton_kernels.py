"""Triton kernels: compiled for GPUs that are not there, refused where they fail. What they compute: tests/gpu."""

import os
import warnings
from types import SimpleNamespace

import pytest
import torch

from mmseg_invattn.ops import attention as ops
from mmseg_invattn.ops.attention import blocked_positive, triton_choice

TORCH = blocked_positive._forward, blocked_positive._backward
CUDA = torch.device('cuda', 0)


TYPES = {torch.float32: 'fp32', torch.float16: 'fp16', torch.bfloat16: 'bf16'}
HALF = 'q', 'k', 'v', 'grad', 'x', 'y', 'a', 'c', 'dv', 'dx'  # arguments in the type of the inputs; others are float32
KERNELS = {'_out_kernel': {}, '_values_kernel': {}, '_features_kernel': dict(QUERIES=1)}


@pytest.mark.parametrize(
    'capability, dtype, size, values',
    [
        (90, torch.bfloat16, 32, 64),
        pytest.param(80, torch.bfloat16, 32, 64, marks=pytest.mark.slow),
        pytest.param(80, torch.float32, 32, 64, marks=pytest.mark.slow),
        pytest.param(90, torch.float32, 3, 250, marks=pytest.mark.slow),
        pytest.param(80, torch.float16, 40, 3, marks=pytest.mark.slow),
        pytest.param(80, torch.bfloat16, 256, 512, marks=pytest.mark.slow),
        pytest.param(90, torch.float16, 256, 512, marks=pytest.mark.slow),
    ],
)
def test_kernels_compile_without_a_gpu(capability, dtype, size, values, tmp_path, monkeypatch):
    pytest.importorskip('triton', minversion='3.3')  # the interface of ASTSource
    if os.environ.get('TRITON_INTERPRET') == '1':
        pytest.skip('Triton interprets in this process')
    from triton import compile
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from mmseg_invattn.ops.attention import triton_blocked_positive

    monkeypatch.setenv('TRITON_CACHE_DIR', str(tmp_path))
    for name, more in KERNELS.items():
        kernel = getattr(triton_blocked_positive, name)
        constants = triton_blocked_positive.settings(dtype, size, values, size if more else values)
        options = {key: constants.pop(key) for key in triton_blocked_positive.COMPILER}
        constants |= more
        types = {
            argument: 'constexpr'
            if argument in constants
            else 'i32'
            if argument in ('n', 'm', 'rows', 'columns')
            else '*' + (TYPES[dtype] if argument in HALF else 'fp32')
            for argument in kernel.arg_names
        }
        places = {(kernel.arg_names.index(key),): value for key, value in constants.items()}
        binary = compile(
            ASTSource(kernel, types, constexprs=places), target=GPUTarget('cuda', capability, 32), options=options
        )
        code = binary.asm['ptx']
        assert f'sm_{capability}' in code
        # Float32 is multiplied exactly, half precision by the tensor cores.
        assert ('tf32' in code) == (dtype == torch.float16)
        assert ('mma' in code) == (dtype != torch.float32)
        assert binary.metadata.shared <= 99 * 1024  # what a block may have on the smallest device of that generation


def stand_in(scale=1.0):
    """Kernels that are torch's, times ``scale``."""

    def forward(q, k, v):
        out, z, s = TORCH[0](q, k, v)
        return out * scale, z, s

    def backward(*inputs):
        return tuple(x.to(inputs[1].dtype) for x in TORCH[1](*inputs)[:3])

    return SimpleNamespace(forward=forward, backward=backward)


def absent():
    raise RuntimeError('no kernel image for this device')


@pytest.fixture
def gpu(monkeypatch):
    """``choose(import)``: a process with a GPU whose trial runs on the CPU."""
    trial = triton_choice.trial
    monkeypatch.setattr(triton_choice, '_CHOSEN', {})
    monkeypatch.setattr(triton_choice, '_installed', lambda: True)
    monkeypatch.setattr(torch.cuda, 'is_current_stream_capturing', lambda: False)
    monkeypatch.setattr(triton_choice, 'trial', lambda kernels, _, *rest: trial(kernels, torch.device('cpu'), *rest))

    def choose(imported, dtype=torch.float32, device=CUDA, size=5, values=4):
        monkeypatch.setattr(triton_choice, '_imported', imported)
        return triton_choice.triton_kernels(device, dtype, size, values, TORCH)

    return choose


@pytest.mark.parametrize(
    'imported, message',
    [
        (absent, 'no kernel image for this device'),
        (lambda: stand_in(1.001), 'out is off by 1.0e-03'),
        (lambda: stand_in(float('nan')), 'out is off by nan'),
    ],
    ids=['raises', 'wrong', 'nan'],
)
def test_a_kernel_that_fails_is_refused_with_one_warning(gpu, imported, message):
    with pytest.warns(UserWarning, match=f'failed on cuda:0.*{message}') as caught:
        assert gpu(imported) is None
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert gpu(imported) is None


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16])
def test_a_kernel_that_agrees_is_tried_once(gpu, dtype):
    kernels = stand_in()
    assert gpu(lambda: kernels, dtype) is kernels
    assert gpu(absent, dtype) is kernels


def test_only_what_the_kernels_are_for_asks_for_them(gpu, monkeypatch):
    for case in (dict(device=torch.device('cpu')), dict(dtype=torch.float64), dict(size=128, values=256)):
        assert gpu(pytest.fail, **case) is None
    assert gpu(stand_in, torch.bfloat16, size=128, values=256) is not None
    monkeypatch.setattr(torch.cuda, 'is_current_stream_capturing', lambda: True)
    assert gpu(pytest.fail, size=7) is None
    monkeypatch.setattr(torch.cuda, 'is_current_stream_capturing', lambda: False)
    assert gpu(stand_in, size=7) is not None  # a capture has decided nothing
    monkeypatch.setattr(triton_choice, '_installed', lambda: False)
    assert gpu(pytest.fail) is None


@pytest.fixture
def calls(monkeypatch):
    """Names of the passes that the kernels took."""
    kernels, taken = stand_in(), []

    def recorded(name):
        return lambda *inputs: taken.append(name) or getattr(kernels, name)(*inputs)

    chosen = SimpleNamespace(forward=recorded('forward'), backward=recorded('backward'))
    monkeypatch.setattr(blocked_positive, 'triton_kernels', lambda *_: chosen)
    return taken


def inputs_of(dtype):
    torch.manual_seed(0)
    return [torch.randn(2, 3, count, size).to(dtype).requires_grad_() for count, size in ((9, 5), (7, 5), (7, 4))]


def test_logits_and_the_weights_of_the_paper_stay_with_torch(calls):
    q, k, v = inputs_of(torch.float32)
    ops.dot_product_attention(q, k, v, torch.zeros(3, 9, 7)).sum().backward()
    ops.elu_dot_product_attention(q, k, v).sum().backward()
    assert not calls
    ops.dot_product_attention(q, k, v).sum().backward()
    assert calls == ['forward', 'backward']


def test_operators_keep_their_promises_with_the_kernels(calls):
    """In bfloat16, where the dtypes of what they take and give differ."""
    inputs = inputs_of(torch.bfloat16)
    torch.library.opcheck(blocked_positive._blocked_positive, (*inputs, None, False))
    torch._dynamo.reset()
    compiled = torch.compile(ops.dot_product_attention, backend='aot_eager', fullgraph=True)
    calls.clear()
    gradients = torch.autograd.grad(compiled(*inputs).sum(), inputs)
    assert calls == ['forward', 'backward']
    plain = torch.autograd.grad(ops.dot_product_attention(*inputs).sum(), inputs)
    for ours, theirs in zip(gradients, plain, strict=True):
        assert ours.dtype == torch.bfloat16 and torch.equal(ours, theirs)
