"""Finds mistakes in a config before anything is trained, and names their place in it."""

from .building import explained
from .tree import ConfigError
from .whole import check_config

__all__ = ['ConfigError', 'check_config', 'explained']
