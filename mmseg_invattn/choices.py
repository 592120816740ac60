"""Names from which a user can choose on the command line, for the help.

The modules that define these names import torch, which is slow; each of them checks that its names are those here.
"""

INVERTIBLE_FORMS = ('certified', 'conditional', 'coupling', 'paper')
FORMS = (*INVERTIBLE_FORMS, 'none')  # of attention blocks
MODES = ('gaussian', 'embedded_gaussian', 'dot_product', 'concatenation', 'l2')
EXPORT_FORMATS = ('onnx', 'torch_export')
WEIGHTS = ('averaged', 'trained')  # weights of a run with EMAHook
MATRIX_SUFFIXES = ('.npy', '.csv')  # suffixes of files with a confusion matrix
GRID_CHANNELS = (4, 12, 64, 512)  # channels in the grid of settings for which inverses are tested
