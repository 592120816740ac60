"""One training step of a segmentor, in one process or sharded over two."""

import torch
import torch.distributed as dist
from helpers.tiny_segmentor import batch, build_segmentor, loss_of
from torch import Tensor


def step(rank: int = 0, world_size: int = 1) -> dict[str, Tensor]:
    """Weights after a step on four images, of which each process takes its share."""
    torch.manual_seed(0)
    model = build_segmentor(dict(form='certified', num_heads=2)).double()
    images, samples = batch(dtype=torch.float64)
    if world_size > 1:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh('cpu', (world_size,))
        fully_shard(model.decode_head.attention, mesh=mesh)
        fully_shard(model, mesh=mesh)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loss_of(model, images[rank::world_size], samples[rank::world_size]).backward()
    optimizer.step()
    return {
        name: value.full_tensor() if hasattr(value, 'full_tensor') else value
        for name, value in model.state_dict().items()
    }


def work(rank: int, out: str) -> None:
    """One of two processes; rank 0 writes the weights."""
    dist.init_process_group('gloo', init_method=f'file://{out}.store', rank=rank, world_size=2)
    weights = step(rank, 2)
    if rank == 0:
        torch.save(weights, out)
    dist.destroy_process_group()
