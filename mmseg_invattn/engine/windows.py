"""The notice that a model predicts in sliding windows, for tools that run it on the whole image."""

from __future__ import annotations

from torch import Tensor, nn

from ..wording import counted


def windows_note(model: nn.Module, image: Tensor) -> str | None:
    """The notice for readers of features of a whole image that the model would predict in sliding windows.

    Args:
        model: A model from :func:`~mmseg_invattn.engine.inference.init_model`.
        image: The preprocessed image, (1, C, H, W).

    Returns:
        The notice; None if the prediction sees the whole image at once.
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
        f'predicted in {counted(number, "window")} of {window[0]} x {window[1]}, each of which sees only its own '
        'pixels. Here the model has run on the whole image at once, as a prediction does with '
        '--cfg-options model.test_cfg.mode=whole'
    )
