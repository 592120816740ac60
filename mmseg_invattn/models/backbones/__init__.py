from .plain_conv_net import PlainConvNet

__all__ = ['PlainConvNet']
