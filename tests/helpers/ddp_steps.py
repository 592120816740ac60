"""Two training steps of every inverted head, and of attention in a ResNet, in one process or under DDP."""

import torch
import torch.distributed as dist
from helpers.head_cases import HEADS, build_head, features, labels, total_loss
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mmseg_invattn.models import InvAttentionResNet

CASES = {f'{name}-{form}': (name, form) for name in HEADS for form in ('certified', 'none')}
CASES |= {'resnet': (None, None), 'autocast': ('nl', 'certified')}


class HeadLoss(nn.Module):
    """A head as DDP calls it: features and labels in, loss out."""

    def __init__(self, head: nn.Module):
        super().__init__()
        self.head = head

    def forward(self, inputs: list[Tensor], samples: list) -> Tensor:
        return total_loss(self.head.loss(inputs, samples, {}))


class BackboneLoss(nn.Module):
    """Attention behind two stages of a ResNet-18 and in front of a head's loss."""

    def __init__(self):
        super().__init__()
        self.reduce = nn.Conv2d(4, 3, 1)
        self.backbone = InvAttentionResNet(
            attention=[dict(stage=0), dict(stage=1, mode='l2', num_blocks=2)],
            depth=18,
            stem_channels=4,
            base_channels=4,
            num_stages=2,
            strides=(1, 2),
            dilations=(1, 1),
            out_indices=(0, 1),
            norm_cfg=dict(type='GN', num_groups=2),
        )
        self.head = build_head('nl', in_index=1)

    def forward(self, inputs: list[Tensor], samples: list) -> Tensor:
        first, second = self.backbone(self.reduce(inputs[0]))
        return total_loss(self.head.loss((first, second), samples, {})) + first.square().mean()


def run_case(case: str, rank: int = 0, world_size: int = 1) -> dict[str, Tensor]:
    """Weights after two steps on four samples, of which each process takes its share."""
    torch.manual_seed(0)
    name, form = CASES[case]
    dtype, attention = torch.float64, {}
    if case == 'autocast':
        dtype, attention = torch.float32, dict(attention=dict(precision='autocast'))
    model = (HeadLoss(build_head(name, form=form, **attention)) if name else BackboneLoss()).to(dtype).train()
    weights = model.state_dict(keep_vars=True)
    if world_size > 1:
        model = DistributedDataParallel(model)  # a parameter without gradient is an error in the second step
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    size = 12 if name is None or name == 'sep_aspp' else 6
    for _ in range(2):
        inputs, samples = features(4, 6, dtype), labels(4, size)
        with torch.autocast('cpu', torch.bfloat16, enabled=case == 'autocast'):
            loss = model([level[rank::world_size] for level in inputs], samples[rank::world_size])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return {key: value.detach().clone() for key, value in weights.items()}


def work(rank: int, out: str) -> None:
    """One of two processes; rank 0 writes the weights that it ends with."""
    dist.init_process_group('gloo', init_method=f'file://{out}.store', rank=rank, world_size=2)
    results = {case: run_case(case, rank, 2) for case in CASES}
    if rank == 0:
        torch.save(results, out)
    dist.destroy_process_group()
