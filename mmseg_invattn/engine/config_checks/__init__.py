"""Mistakes in a config, named with their place in it before anything is trained."""

from .building import explained
from .tree import ConfigError
from .whole import check_config

__all__ = ['ConfigError', 'check_config', 'explained']
