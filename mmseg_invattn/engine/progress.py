"""How far a run has come: which validations are due, and whether it is finished."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

OUTDATED = 'outdated_best'  # in the message hub: best checkpoints that the one named there has replaced
VALIDATED = 'validated_iter'  # in the message hub, and so in checkpoints: the last iteration that was validated


def validation_due(at: int, end: int, begin: int, interval: int) -> bool:
    """Whether MMEngine's training loops validate at this point.

    Args:
        at: Iterations or epochs that are done.
        end: Of the whole training.
        begin: ``val_begin`` of the loop.
        interval: ``val_interval`` of the loop.
    """
    return at >= begin and (at % interval == 0 or at == end)


def finished(path: str, checkpoint: Mapping, cfg: Mapping) -> str | None:
    """Tell whether nothing is left to do for a run.

    Args:
        path: The checkpoint that it would go on from.
        checkpoint: What that holds; it is not looked at where the path is remote.
        cfg: Its config.

    Returns:
        How far the run has come, in words; None where iterations, or the last validation, are still to be done.
    """
    unit = 'epoch' if 'max_epochs' in cfg['train_cfg'] else 'iter'
    end, hook = cfg['train_cfg'].get(f'max_{unit}s'), (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    if '://' in path or end is None or hook.get('published_keys'):  # what is published is written at the very end
        return None
    meta, hub = checkpoint.get('meta', {}), checkpoint.get('message_hub', {})
    at = meta.get(unit)
    if at is None or at < end:
        return None
    if at == end and cfg.get('val_cfg') is not None and at >= cfg['train_cfg'].get('val_begin', 1):
        if hub.get('runtime_info', {}).get(VALIDATED) != meta.get('iter'):
            return None
    if _untidy(hub.get('runtime_info', {}), hook, Path(path)):
        return None
    return f'{path} is of {"epoch" if unit == "epoch" else "iteration"} {at} of {end}'


def _untidy(info: Mapping, hook: Mapping, path: Path) -> bool:
    """Whether a kill has left checkpoints that the checkpoint hook would have deleted."""
    most = hook.get('max_keep_ckpts', -1)
    template = hook.get('filename_tmpl') or ('epoch_{}.pth' if path.name.startswith('epoch_') else 'iter_{}.pth')
    outdated = (
        [path.parent / template.format(step) for step in info.get('keep_ckpt_ids', ())[:-most]] if most > 0 else []
    )
    replaced = set(info.get(OUTDATED, ())) - {info.get('best_ckpt')}
    return any(old.exists() for old in (*outdated, *map(Path, replaced)))
