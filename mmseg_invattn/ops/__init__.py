"""Pure torch functions: no module state, no import of mmcv, mmengine or mmseg."""

from .attention import softmax_attention, softmax_attention_dense
from .ball import to_ball
from .fingerprint import fingerprint, same
from .fixed_point import FixedPointResult, solve_fixed_point
from .layout import pixel_tokens, transposed
from .local_lipschitz import local_lipschitz
from .log_det import Roulette, branch_and_log_abs_det, truncation_bound
from .memory_free import memory_free
from .norms import max_channel_norm, max_token_norm
from .precision import (
    PRECISIONS,
    at_least_float32,
    branch_precision,
    cast_all,
    differentiable_copies,
    full_precision,
    untraced,
)
from .rounding import (
    EXACT,
    UNDERFLOW,
    Roundoff,
    ball_rounding,
    cast_rounding,
    drift,
    factor_rounding,
    product_rounding,
    root_of_squares,
    storage_error,
    sum_rounding,
    unit_roundoff,
)
from .second_derivative import plain_operators_wanted, twice_differentiable
from .spectral import gram_norm, spectral_norm_bound
from .steps import AdditiveStep, CouplingStep, InverseStep, Move, Step

__all__ = [
    'EXACT',
    'PRECISIONS',
    'Roundoff',
    'AdditiveStep',
    'CouplingStep',
    'FixedPointResult',
    'InverseStep',
    'Move',
    'Roulette',
    'Step',
    'UNDERFLOW',
    'at_least_float32',
    'ball_rounding',
    'branch_and_log_abs_det',
    'branch_precision',
    'cast_all',
    'cast_rounding',
    'differentiable_copies',
    'drift',
    'factor_rounding',
    'fingerprint',
    'full_precision',
    'gram_norm',
    'local_lipschitz',
    'max_channel_norm',
    'max_token_norm',
    'memory_free',
    'pixel_tokens',
    'plain_operators_wanted',
    'product_rounding',
    'root_of_squares',
    'same',
    'softmax_attention',
    'softmax_attention_dense',
    'solve_fixed_point',
    'spectral_norm_bound',
    'storage_error',
    'sum_rounding',
    'to_ball',
    'transposed',
    'truncation_bound',
    'twice_differentiable',
    'unit_roundoff',
    'untraced',
]
