from .atomic_checkpoint_hook import AtomicCheckpointHook
from .certificate_hook import CertificateHook
from .iteration_seed_hook import IterationSeedHook
from .matching_checkpoint_hook import MatchingCheckpointHook
from .non_finite_loss_hook import NonFiniteLossHook

__all__ = [
    'AtomicCheckpointHook', 'CertificateHook', 'IterationSeedHook', 'MatchingCheckpointHook', 'NonFiniteLossHook'
]
