"""CamVid road scenes with the 11 classes of the SegNet split (Badrinarayanan et al., https://arxiv.org/abs/1511.00561)."""

from mmseg.registry import DATASETS

from .checked_dataset import CheckedSegDataset


@DATASETS.register_module()
class CamVidDataset(CheckedSegDataset):
    """CamVid, 367 training, 101 validation and 233 test images of 480x360 pixels in the SegNet split.

    Layout: ``images/{train,val,test}/*.png`` (or .jpg) and ``labels/{train,val,test}/*.png`` of the same names, with
    labels 0 to 10 and 255 for pixels without a class. SegNet's own files use 11 for these;
    ``tools/dataset_converters/camvid.py`` checks and converts them.
    Arguments are those of :class:`CheckedSegDataset`.
    """

    METAINFO = {
        'classes': (
            'Sky',
            'Building',
            'Pole',
            'Road',
            'Pavement',
            'Tree',
            'SignSymbol',
            'Fence',
            'Car',
            'Pedestrian',
            'Bicyclist',
        ),
        'palette': [
            [128, 128, 128],
            [128, 0, 0],
            [192, 192, 128],
            [128, 64, 128],
            [60, 40, 222],
            [128, 128, 0],
            [192, 128, 128],
            [64, 64, 128],
            [64, 0, 128],
            [64, 64, 0],
            [0, 128, 192],
        ],
    }
