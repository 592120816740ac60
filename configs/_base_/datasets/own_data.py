# A data set of one's own, see docs/reference/datasets.md: an image and its label have the same name, and a label holds
# the number of the class of each pixel, from 0, and 255 where there is none.
_base_ = './segmentation.py'
train_dataloader = dict(
    dataset=dict(type='CheckedSegDataset', data_prefix=dict(img_path='images/train', seg_map_path='labels/train'))
)
val_dataloader = dict(
    dataset=dict(type='CheckedSegDataset', data_prefix=dict(img_path='images/val', seg_map_path='labels/val'))
)
test_dataloader = val_dataloader
