from .inv_nl_head import AttentionInverse, InvNLHead

__all__ = ['AttentionInverse', 'InvNLHead']
