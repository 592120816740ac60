from .inv_aspp_head import InvASPPHead, InvDepthwiseSeparableASPPHead
from .inv_da_head import InvDAHead
from .inv_fcn_head import InvFCNHead
from .inv_nl_head import InvNLHead
from .inv_psp_head import InvPSPHead
from .inv_skip_head import InvSkipHead

__all__ = [
    'InvASPPHead',
    'InvDAHead',
    'InvDepthwiseSeparableASPPHead',
    'InvFCNHead',
    'InvNLHead',
    'InvPSPHead',
    'InvSkipHead',
]
