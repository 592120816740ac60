"""Tells which validations of a run are due, and whether the run is finished."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

OUTDATED = 'outdated_best'  # in the message hub: former best checkpoints that are still to be deleted
VALIDATED = 'validated_iter'  # in the message hub, and so in checkpoints: the last iteration that was validated


def validation_due(at: int, end: int, begin: int, interval: int) -> bool:
    """Whether MMEngine's training loops validate at this point.

    Args:
        at: Number of iterations or epochs that are done.
        end: Number of iterations or epochs of the whole training.
        begin: ``val_begin`` of the loop.
        interval: ``val_interval`` of the loop.
    """
    return at >= begin and (at % interval == 0 or at == end)


def finished(path: str, checkpoint: Mapping, cfg: Mapping) -> str | None:
    """Tell whether a run is finished.

    Args:
        path: The checkpoint from which it would go on.
        checkpoint: Content of that file; not used if the path is remote.
        cfg: Config of the run.

    Returns:
        How far the run has come, in words, if it is finished; None if iterations or the last validation are left.
    """
    unit = 'epoch' if 'max_epochs' in cfg['train_cfg'] else 'iter'
    end, hook = cfg['train_cfg'].get(f'max_{unit}s'), (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    if (
        '://' in path or end is None or hook.get('published_keys')
    ):  # the published checkpoint is written after everything else
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
    """Whether a killed run has left checkpoints that its checkpoint hook would have deleted."""
    most = hook.get('max_keep_ckpts', -1)
    template = hook.get('filename_tmpl') or ('epoch_{}.pth' if path.name.startswith('epoch_') else 'iter_{}.pth')
    outdated = (
        [path.parent / template.format(step) for step in info.get('keep_ckpt_ids', ())[:-most]] if most > 0 else []
    )
    replaced = set(info.get(OUTDATED, ())) - {info.get('best_ckpt')}
    return any(old.exists() for old in (*outdated, *map(Path, replaced)))
