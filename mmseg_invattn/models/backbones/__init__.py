from .inv_attention_resnet import InvAttentionResNet
from .plain_conv_net import PlainConvNet

__all__ = ['InvAttentionResNet', 'PlainConvNet']
