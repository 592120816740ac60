"""What a command line chooses from, for its help.

The registries of these names import torch; each checks that it has the names which stand here.
"""

INVERTIBLE_FORMS = ('certified', 'conditional', 'coupling', 'paper')
FORMS = (*INVERTIBLE_FORMS, 'none')  # of attention blocks
MODES = ('gaussian', 'embedded_gaussian', 'dot_product', 'concatenation', 'l2')
EXPORT_FORMATS = ('onnx', 'torch_export')
WEIGHTS = ('averaged', 'trained')  # of a run with EMAHook
MATRIX_SUFFIXES = ('.npy', '.csv')  # of the file of a confusion matrix
GRID_CHANNELS = (4, 12, 64, 512)  # of the features whose inverses are tried over a grid of settings
