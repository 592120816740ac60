"""The one check that every invertible layer goes through."""
import copy
import io

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from mmseg_invattn.layers import InvertibleModule
from mmseg_invattn.ops import max_token_norm

# Relative tolerance asked of the solver in each dtype.
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}


def jacobian_norm(function, x_1CHW: Tensor, groups: int = 1) -> float:
    """Exact Lipschitz constant of ``function`` at x in the norm inf2, from the autograd Jacobian.

    ``max_i max_{|dx_j| <= 1} |sum_j J_ij dx_j|``: not a matrix norm that a library computes. The alternating ascent
    over (u, dx) gives a lower bound that a worst dx attains; restarts from every singular direction make it tight.
    """
    channels = x_1CHW.shape[1] // groups
    with sdpa_kernel(SDPBackend.MATH):
        jacobian = torch.autograd.functional.jacobian(function, x_1CHW, vectorize=True)
    n = x_1CHW.shape[2] * x_1CHW.shape[3]
    # (g, c, n) x (g, c, n) -> tokens t = (g, n)
    j_tcsd = jacobian.reshape(groups, channels, n, groups, channels, n).permute(0, 2, 1, 3, 5, 4)
    j_tcsd = j_tcsd.reshape(groups * n, channels, groups * n, channels)
    u_tkc = torch.eye(channels, dtype=j_tcsd.dtype).expand(len(j_tcsd), -1, -1)
    u_tkc = torch.cat([u_tkc, torch.linalg.svd(j_tcsd.flatten(2), full_matrices=False)[0].mT], 1)
    for _ in range(50):
        # For fixed u the best dx_j is J_ij^T u / |J_ij^T u|; then the best u is the direction of J dx.
        back_tksd = torch.einsum('tkc,tcsd->tksd', u_tkc, j_tcsd)
        dx_tksd = back_tksd / back_tksd.norm(dim=-1, keepdim=True).clamp(min=1e-300)
        out_tkc = torch.einsum('tcsd,tksd->tkc', j_tcsd, dx_tksd)
        u_tkc = out_tkc / out_tkc.norm(dim=-1, keepdim=True).clamp(min=1e-300)
    return float(out_tkc.norm(dim=-1).max())


def check_inverse(layer: InvertibleModule, x: Tensor) -> None:
    """The inverse converges and the true error is within the reported bound."""
    y = layer(x).detach()
    x_hat, info = layer.inverse(y, tol=TOLERANCE[x.dtype])
    assert x_hat.dtype == x.dtype and x_hat.shape == x.shape
    assert info.converged.all()
    assert all(field.shape == (len(x), ) for field in info)
    error = layer.error_norm(x_hat - x)
    assert (error <= info.error_bound).all(), (error, info.error_bound)
    # The bound itself is small: 1 / (1 - L) times what the tolerance or the precision of the dtype allows.
    assert (info.error_bound <= 200 * TOLERANCE[x.dtype] * max_token_norm(y)).all()


def check_layer(layer: InvertibleModule, x: Tensor) -> None:
    """Everything that holds for every invertible layer.

    Args:
        layer: in float64.
        x: float64, small (the exact Jacobian is formed), shape (B, C, H, W).
    """
    layer = layer.double()
    check_inverse(layer, x)
    check_inverse(copy.deepcopy(layer).float(), x.float())

    # Train and eval mode are the same map.
    assert torch.equal(layer.train()(x), layer.eval()(x))

    # Gradient reaches every parameter, and is right.
    layer.zero_grad()
    (layer(x) * torch.randn_like(x)).sum().backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name
    assert torch.autograd.gradcheck(layer, x[:1, :, :2, :2].clone().requires_grad_())

    # The certificate against the exact Jacobian.
    bound = layer.lipschitz_bound()
    assert bound is None or 0 <= bound < 1

    # Save, load, invert.
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    other = copy.deepcopy(layer)
    for parameter in other.parameters():
        torch.nn.init.normal_(parameter)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    y = layer(x).detach()
    assert torch.equal(layer.inverse(y)[0], other.inverse(y)[0])
