"""The version, in one place: the metadata of the package read it too."""

__version__ = '0.1.0'
