from .inv_reconstruction import InvReconstruction
from .inv_resnet_flow import InvResNetFlow

__all__ = ['InvReconstruction', 'InvResNetFlow']
