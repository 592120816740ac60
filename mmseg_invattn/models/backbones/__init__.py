from .cifar_resnet import CifarResNet
from .efficientnet_lite import EfficientNetLite
from .inv_attention_resnet import InvAttentionResNet
from .inv_resnet import InvResNet
from .inv_unet import InvUNet
from .plain_conv_net import PlainConvNet
from .rev_net import RevNet2d
from .self_attention_net import SelfAttentionNet

__all__ = [
    'CifarResNet',
    'EfficientNetLite',
    'InvAttentionResNet',
    'InvResNet',
    'InvUNet',
    'PlainConvNet',
    'RevNet2d',
    'SelfAttentionNet',
]
