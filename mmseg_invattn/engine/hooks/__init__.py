from .atomic_checkpoint_hook import AtomicCheckpointHook
from .attention_centre_hook import AttentionCentreHook
from .certificate_hook import CertificateHook
from .config_check_hook import ConfigCheckHook
from .constant_weights_hook import ConstantWeightsHook
from .finite_output_hook import FiniteOutputHook
from .iteration_seed_hook import IterationSeedHook
from .matching_checkpoint_hook import MatchingCheckpointHook
from .missed_validation_hook import MissedValidationHook
from .non_finite_loss_hook import NonFiniteLossHook
from .prediction_files_hook import PredictionFilesHook
from .resumed_data_hook import ResumedDataHook
from .resumed_settings_hook import ResumedSettingsHook
from .stop_hook import StopHook
from .tested_picture_hook import TestedPictureHook

__all__ = [
    'AtomicCheckpointHook',
    'AttentionCentreHook',
    'CertificateHook',
    'ConfigCheckHook',
    'ConstantWeightsHook',
    'FiniteOutputHook',
    'IterationSeedHook',
    'MatchingCheckpointHook',
    'MissedValidationHook',
    'NonFiniteLossHook',
    'PredictionFilesHook',
    'ResumedDataHook',
    'ResumedSettingsHook',
    'StopHook',
    'TestedPictureHook',
]
