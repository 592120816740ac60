"""Whether a model predicts an image in sliding windows, which tools that run it on the whole image must say."""

from __future__ import annotations

from torch import Tensor, nn

from ..wording import counted


def windows_note(model: nn.Module, image: Tensor) -> str | None:
    """What a reader of the features of a whole image must know where the model predicts it in windows.

    Args:
        model: Of :func:`~mmseg_invattn.engine.inference.init_model`.
        image: Preprocessed, (1, C, H, W).

    Returns:
        None where the prediction sees the whole image at once.
    """
    settings = getattr(model, 'test_cfg', None) or {}
    if settings.get('mode') != 'slide':
        return None
    window, stride, size = settings['crop_size'], settings['stride'], image.shape[2:]
    counts = [max(n - crop + step - 1, 0) // step + 1 for n, crop, step in zip(size, window, stride, strict=True)]
    number = counts[0] * counts[1]
    if number == 1:
        return None
    return (
        f"NOT WHAT THE PREDICTION SEES: with model.test_cfg.mode='slide' this image of {size[0]} x {size[1]} pixels is "
        f'predicted in {counted(number, "window")} of {window[0]} x {window[1]}, each of which sees its own pixels '
        'only. Here the model has run on the whole image at once, as predictions do with '
        '--cfg-options model.test_cfg.mode=whole'
    )
