"""Models whose parameters are sharded over the processes."""

from torch import nn


def is_sharded(module: nn.Module) -> bool:
    """Whether FSDP shards some of the weights, so that only a forward pass sees them whole."""
    # FullyShardedDataParallel marks the modules that it manages; the parameters of fully_shard have placements
    return any(getattr(part, '_is_fsdp_managed_module', False) for part in module.modules()) or any(
        hasattr(p, 'placements') for p in module.parameters()
    )
