# Your own data set, see docs/reference/datasets.md. An image and its label have the same name; a label has the number
# of the class of each pixel, counted from 0, and 255 for pixels without a class.
_base_ = './segmentation.py'
train_dataloader = dict(
    dataset=dict(type='CheckedSegDataset', data_prefix=dict(img_path='images/train', seg_map_path='labels/train'))
)
val_dataloader = dict(
    dataset=dict(type='CheckedSegDataset', data_prefix=dict(img_path='images/val', seg_map_path='labels/val'))
)
test_dataloader = val_dataloader
