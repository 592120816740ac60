"""The version, in one place: the metadata of the package read it too."""

__version__ = '0.1.0'

# the versions that the tests use, as in requirements/*.txt; an environment has either OneDL's or OpenMMLab's packages
TESTED = {
    'onedl': {'torch': '2.13.0', 'onedl-mmengine': '0.10.12', 'onedl-mmcv': '2.3.6', 'onedl-mmsegmentation': '1.4.2'},
    'openmmlab': {'torch': '2.13.0', 'mmengine': '0.10.7', 'mmcv-lite': '2.1.0', 'mmsegmentation': '1.2.2'},
}
