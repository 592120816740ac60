"""One training step and one prediction of every config named on the command line.

Run as a program, in a process of its own: it imports nothing of the package, which is for the config to ask for.
"""

import sys

import torch
from mmengine.config import Config, ConfigDict
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData

TRAIN, TEST = (32, 32), (24, 40)


def shrink(model: ConfigDict) -> ConfigDict:
    """The model for small images, with random weights."""
    if 'pretrained' in model:
        model.pretrained = None
    model.data_preprocessor.size = TRAIN
    if model.test_cfg.mode == 'slide':
        model.test_cfg.update(crop_size=(24, 24), stride=(16, 16))
    return model


def _samples(count: int, size: tuple[int, int], classes: int) -> dict:
    from mmseg.structures import SegDataSample

    samples = []
    for _ in range(count):
        sample = SegDataSample(metainfo=dict(img_shape=size, ori_shape=size))
        sample.gt_sem_seg = PixelData(data=torch.randint(0, classes, (1, *size)))
        samples.append(sample)
    return dict(inputs=[torch.randint(0, 256, (3, *size)) for _ in range(count)], data_samples=samples)


def run(path: str) -> None:
    """One step reaches every parameter that is not frozen; one image comes out in its own size."""
    cfg = Config.fromfile(path)  # imports the package
    from mmseg.registry import MODELS

    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    model = MODELS.build(shrink(cfg.model)).train()
    classes = model.decode_head.num_classes
    dtype = cfg.optim_wrapper.pop('dtype', None)
    if dtype is not None:  # mixed precision, whose wrapper wants a GPU
        cfg.optim_wrapper = dict(optimizer=cfg.optim_wrapper.optimizer)
    optim_wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    for group in optim_wrapper.param_groups:  # the rate is for pretrained weights: random ones may have huge gradients
        group['lr'] *= 1e-3
    batch = model.data_preprocessor(_samples(2, TRAIN, classes), training=True)
    with torch.autocast('cpu', getattr(torch, dtype or 'bfloat16'), enabled=dtype is not None):
        loss, _ = model.parse_losses(model(**batch, mode='loss'))
    assert loss.isfinite(), f'the loss is {loss}'
    optim_wrapper.backward(loss)
    learned = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    missing = [name for name, p in learned if p.grad is None or not p.grad.isfinite().all()]
    assert not missing, f'no finite gradient reaches {missing}'
    optim_wrapper.step()
    (prediction,) = model.eval().test_step(_samples(1, TEST, classes))
    assert prediction.pred_sem_seg.data.shape == (1, *TEST)
    assert prediction.seg_logits.data.shape == (classes, *TEST) and prediction.seg_logits.data.isfinite().all()


if __name__ == '__main__':
    assert 'mmseg_invattn' not in sys.modules
    for name in sys.argv[1:]:
        run(name)
        print('ok', name, flush=True)
