from .atomic_checkpoint_hook import AtomicCheckpointHook
from .attention_centre_hook import AttentionCentreHook
from .certificate_hook import CertificateHook
from .config_check_hook import ConfigCheckHook
from .constant_weights_hook import ConstantWeightsHook
from .iteration_seed_hook import IterationSeedHook
from .matching_checkpoint_hook import MatchingCheckpointHook
from .non_finite_loss_hook import NonFiniteLossHook
from .resumed_data_hook import ResumedDataHook

__all__ = [
    'AtomicCheckpointHook',
    'AttentionCentreHook',
    'CertificateHook',
    'ConfigCheckHook',
    'ConstantWeightsHook',
    'IterationSeedHook',
    'MatchingCheckpointHook',
    'NonFiniteLossHook',
    'ResumedDataHook',
]
