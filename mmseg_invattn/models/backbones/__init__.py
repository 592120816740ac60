from .inv_resnet import InvResNet
from .plain_conv_net import PlainConvNet
from .rev_net import RevNet2d

__all__ = ['InvResNet', 'PlainConvNet', 'RevNet2d']
