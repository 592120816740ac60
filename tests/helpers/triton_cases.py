"""What the Triton kernels compute on a device, and how far that is from float64."""

from unittest import mock

import torch

from mmseg_invattn.ops import attention as ops
from mmseg_invattn.ops.attention import blocked_positive, triton_blocked_positive, triton_choice
from mmseg_invattn.ops.attention.positive import positive_attention

DTYPES = {'float32': torch.float32, 'bfloat16': torch.bfloat16, 'float16': torch.float16}
# heads, N, M, D, E: one of everything; one row or column; broken tiles; widths of several parts.
SIZES = [
    ((1, 1), 1, 1, 3, 3),
    ((2, 1), 1, 130, 16, 40),
    ((1, 1), 130, 1, 40, 16),
    ((1, 1), 199, 67, 3, 40),
    ((1, 2), 65, 32, 40, 80),
]
TRITON = triton_blocked_positive.forward, triton_blocked_positive.backward
TORCH = blocked_positive._forward, blocked_positive._backward


def features(heads, n, m, size, values, dtype, device):
    torch.manual_seed(0)
    shapes = (n, size), (m, size), (m, values), (n, values)
    q, k, v, grad = (torch.randn(*heads, *shape).to(device, dtype) for shape in shapes)
    return (q, k, v), grad


def dense(inputs, grad):
    """Output and gradients in float64."""
    inputs = [x.detach().double().requires_grad_() for x in inputs]
    out = positive_attention(ops.dot_product_log_weights(*inputs[:2]), inputs[2])
    return out.detach(), *torch.autograd.grad(out, inputs, grad.double())


def errors(ours, theirs):
    """In parts of the largest number; of 1 where that is smaller."""
    return [
        float((a - b).abs().max() / b.abs().max().clamp(min=1))
        for a, b in zip((x.detach().double() for x in ours), theirs, strict=True)
    ]


def both_passes(forward, backward, inputs, grad):
    out, z, s = forward(*inputs)
    return out, *backward(grad.float(), *inputs, out, z, s)[:3]


def compare(inputs, grad):
    """Errors of out, dq, dk and dv: of the kernels, and of the torch operators, which sum in float32 as well."""
    exact = dense(inputs, grad)
    return [errors(both_passes(*pair, inputs, grad), exact) for pair in (TRITON, TORCH)]


def by_operator(inputs, grad):
    """Transposed views through the public function, one group of keys for all queries, and what dtypes come back."""
    inputs = [x.mT.contiguous().mT.requires_grad_() for x in (inputs[0], inputs[1][:, :1], inputs[2])]
    out = ops.dot_product_attention(*inputs)
    return out, *torch.autograd.grad(out, inputs, grad)


def scores(low, high, device, n=20, m=70):
    """Inputs whose scores are a projection onto the first channel, and a gradient."""
    torch.manual_seed(0)
    k = torch.cat([torch.empty(1, 1, m, 1).uniform_(low, high), torch.zeros(1, 1, m, 3)], -1)
    q = torch.tensor([1.0, 0, 0, 0]).expand(1, 1, n, 4).contiguous()
    *inputs, grad = (t.to(device) for t in (q, k, torch.randn(1, 1, m, 4), torch.randn(1, 1, n, 4)))
    return inputs, grad


def measured(device):
    """Errors by case: those of the kernels beside those of torch's operators, and what is no error, by its name."""
    with mock.patch.object(blocked_positive, 'triton_kernels', lambda *_: triton_blocked_positive):
        return _measured(torch.device(device))


def _measured(device):
    found = {'float32': {}, 'bfloat16': {}, 'float16': {}, 'extreme': {}}
    for name, dtype in DTYPES.items():
        for size in SIZES if name == 'float32' else SIZES[3:4]:
            found[name][str(size)] = compare(*features(*size, dtype, device))
        triton_choice.trial(triton_blocked_positive, device, dtype, 16, 16, TORCH)
    for low, high in ((-300, -200), (-1e4, -9e3), (-1e4, 1e4), (9e3, 1e4)):
        found['extreme'][f'{low} to {high}'] = compare(*scores(low, high, device))
    inputs, grad = features((1, 3), 40, 33, 16, 8, torch.bfloat16, device)
    ours, theirs = by_operator(inputs, grad), dense((inputs[0], inputs[1][:, :1], inputs[2]), grad)
    found['operator'], found['dtypes'] = errors(ours, theirs), [str(x.dtype) for x in ours]
    inputs, _ = features((1, 1), 3, 5, 4, 4, torch.float32, device)
    inputs[0][0, 0, 1, 2] = torch.nan
    found['nan'] = triton_blocked_positive.forward(*inputs)[0].isnan().all(-1).flatten().tolist()
    return found
