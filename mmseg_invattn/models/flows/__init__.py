from .inv_reconstruction import InvReconstruction

__all__ = ['InvReconstruction']
