"""Pure torch functions: no module state, no import of mmcv, mmengine or mmseg."""
from .attention import softmax_attention, softmax_attention_dense
from .ball import to_ball
from .fixed_point import FixedPointResult, solve_fixed_point
from .local_lipschitz import local_lipschitz
from .norms import max_channel_norm, max_token_norm
from .spectral import gram_norm, spectral_norm_bound

__all__ = [
    'FixedPointResult', 'gram_norm', 'local_lipschitz', 'max_channel_norm', 'max_token_norm', 'softmax_attention',
    'softmax_attention_dense', 'solve_fixed_point', 'spectral_norm_bound', 'to_ball'
]
