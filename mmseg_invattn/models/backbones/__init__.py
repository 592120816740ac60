from .inv_attention_resnet import InvAttentionResNet
from .inv_resnet import InvResNet
from .plain_conv_net import PlainConvNet
from .rev_net import RevNet2d

__all__ = ['InvAttentionResNet', 'InvResNet', 'PlainConvNet', 'RevNet2d']
