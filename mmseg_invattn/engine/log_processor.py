"""Numbers of the log with significant digits."""

from __future__ import annotations

import re

from mmengine.runner import LogProcessor
from mmseg.registry import LOG_PROCESSORS


class _Significant(float):
    """A float that is formatted with three significant digits if the fixed decimals would show fewer."""

    def __format__(self, spec: str) -> str:
        fixed = super().__format__(spec)
        decimals = re.fullmatch(r'\.(\d+)f', spec)
        if decimals and self and len(fixed.lstrip('-0.')) < min(3, int(decimals[1])):  # the first ones are zeros
            return super().__format__('.3g')
        return fixed


@LOG_PROCESSORS.register_module()
class SignificantLogProcessor(LogProcessor):
    """MMEngine's ``LogProcessor``, with the same arguments, except that the log shows 2.7e-07 and not 0.0000.

    Only numbers of which ``num_digits`` decimals would show fewer than three digits are formatted differently. Files
    of scalars and other visualisation backends get all digits, as from MMEngine.
    """

    def _collect_scalars(self, *args, **kwargs) -> dict:
        scalars = super()._collect_scalars(*args, **kwargs)
        return {key: _Significant(value) if isinstance(value, float) else value for key, value in scalars.items()}
