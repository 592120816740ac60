"""Images for invertible backbones, a short training, the way there and back, and the memory of a training step."""

import weakref

import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from mmseg_invattn.ops import max_token_norm


def images(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Noise as smooth as an image, of mean 0 and variance about 1."""
    return nn.functional.avg_pool2d(torch.randn(*shape, dtype=dtype), 5, 1, 2) * 4


def train(backbone: nn.Module, steps: int, x: Tensor, lr: float = 0.01) -> None:
    optimiser = torch.optim.SGD(backbone.train().parameters(), lr=lr)
    for _ in range(steps):
        loss = sum((f - f.detach().roll(1, 0)).square().mean() + f.square().mean() for f in backbone(x))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


def check_round_trip(backbone: nn.Module, x: Tensor, largest_bound: float) -> None:
    with torch.no_grad():
        features = backbone(x)
    x_hat, info = backbone.inverse(features)
    error = max_token_norm(x_hat - x)
    assert info.converged.all() and (error <= info.error_bound).all(), (error, info)
    assert (info.error_bound <= largest_bound).all(), info.error_bound
    assert (error <= 2e-4).all(), error  # of images of variance 1: 1/80 of a grey level


def peak_saved_bytes(backbone: nn.Module, x: Tensor) -> int:
    """Largest number of bytes that graphs hold at one time during a training step, parameters not counted."""
    own = {p.untyped_storage().data_ptr() for p in backbone.parameters()}
    held, peak, counts = 0, 0, {}

    def forget(key: int, size: int) -> None:
        nonlocal held
        counts[key] -= 1
        held -= 0 if counts[key] else size

    class Held:
        def __init__(self, tensor: Tensor):
            nonlocal held, peak
            self.tensor, storage = tensor, tensor.untyped_storage()
            key, size = storage.data_ptr(), storage.nbytes()
            if key not in own:
                held += 0 if counts.get(key) else size
                counts[key] = counts.get(key, 0) + 1
                peak = max(peak, held)
                weakref.finalize(self, forget, key, size)

    with torch.autograd.graph.saved_tensors_hooks(Held, lambda held: held.tensor):
        sum(f.square().mean() for f in backbone(x)).backward()
    return peak


def segmentation_batch(height: int, width: int) -> dict:
    """One image with three classes side by side, as a loader gives it."""
    sample = SegDataSample(metainfo=dict(img_shape=(height, width), ori_shape=(height, width)))
    sample.gt_sem_seg = PixelData(data=(torch.arange(width) * 3 // width).expand(1, height, width).contiguous())
    return dict(inputs=[images(1, 3, height, width)[0]], data_samples=[sample])


def check_segmentor(model: nn.Module, trained: tuple[int, int], tested: tuple[int, int]) -> None:
    """It learns an image of the size ``trained`` with all parameters, and predicts one of the size ``tested``."""
    optimiser, losses, data = torch.optim.Adam(model.parameters(), lr=1e-2), [], segmentation_batch(*trained)
    for _ in range(12):
        loss = model.parse_losses(model(**model.data_preprocessor(data, True), mode='loss'))[0]
        optimiser.zero_grad()
        loss.backward()
        assert all(p.grad is not None for p in model.parameters())
        optimiser.step()
        losses.append(float(loss))
    assert losses[-1] < 0.9 * losses[0], losses
    (result,) = model.eval().test_step(segmentation_batch(*tested))
    assert result.pred_sem_seg.data.shape == (1, *tested)
