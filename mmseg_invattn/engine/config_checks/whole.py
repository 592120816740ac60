"""All checks of a config that are possible before anything is built from it."""

from __future__ import annotations

from collections.abc import Mapping

from .classes import check_class_names
from .schedule import check_units
from .sections import check_counts, check_sections
from .types import check_types


def check_config(config: Mapping) -> None:
    """Check a config for mistakes.

    Args:
        config: A whole config, or one with only ``model``. The packages that it needs are imported.

    Raises:
        ConfigError: There is a mistake. The message names the path of the first one, the value, the rule and the fix.
    """
    check_sections(config)
    check_types(config)
    check_counts(config)
    check_units(config)
    check_class_names(config)
