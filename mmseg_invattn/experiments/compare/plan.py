"""The runs of a comparison: one for each config and seed, recognised on a resume by its fingerprint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmengine.config import Config

from ...engine.config_checks import ConfigError, check_config
from ...engine.config_file import read_config
from ...engine.launch import check_checkpoint_file
from ...paths import find_config
from ...wording import counted


@dataclass(frozen=True, eq=False)
class Run:
    """One training of one config.

    Attributes:
        name: file name of the config, without its ending.
        source: the config file.
        seed: seed of the training.
        cfg: the config with options and seed.
        folder: folder of all files that the run writes.
        checkpoint: given weights; None if the run is to be trained.
        fingerprint: hash of config, options and seed, and of the given weights.
    """

    name: str
    source: str
    seed: int
    cfg: Config
    folder: Path
    checkpoint: Path | None
    fingerprint: str

    @property
    def config(self) -> Path:
        """The path of the config's copy; MMEngine writes its own copies elsewhere."""
        return config_of(self.folder)

    @property
    def title(self) -> str:
        return f'{self.name}, seed {self.seed}'


def config_of(folder: Path) -> Path:
    return folder / 'planned' / 'config.py'


def plan_runs(
    configs: Sequence[str],
    seeds: Sequence[int],
    out: Path,
    options: Mapping | None = None,
    checkpoints: Sequence[str] | None = None,
) -> list[Run]:
    """The runs of a comparison, seed by seed, so that every head has one result before any has two.

    Args:
        configs: config files with different names.
        seeds: seeds of the trainings.
        out: folder of the comparison.
        options: settings for every config, as ``--cfg-options`` gives them.
        checkpoints: weights of all runs: all seeds of the first config, then those of the second, and so on; None to
            train.

    Raises:
        FileNotFoundError: a config or checkpoint is missing.
        ValueError: a config or seed appears twice, or an option does not fit a config.
        ConfigError: a config has a mistake.
    """
    _refuse_repeated('config', [Path(path).stem for path in configs])
    _refuse_repeated('seed', seeds)
    configs = [str(find_config(path)) for path in configs]
    if any(seed < 0 for seed in seeds):
        raise ValueError(f'--seeds {" ".join(map(str, seeds))}: every seed must be 0 or larger')
    if checkpoints is not None and len(checkpoints) != len(configs) * len(seeds):
        raise ValueError(
            f'--checkpoints names {counted(len(checkpoints), "file")}, but '
            f'{counted(len(configs), "config")} with {counted(len(seeds), "seed")} need '
            f'{len(configs) * len(seeds)}: all seeds of the first config, then those of the second, and so on'
        )
    loaded = [read_config(path, options) for path in configs]
    for path, cfg in zip(configs, loaded, strict=True):
        try:
            check_config(cfg)
        except ConfigError as error:
            raise ConfigError(f'{path}: {error}') from error
    runs = []
    for place, seed in enumerate(seeds):
        for number, (path, cfg) in enumerate(zip(configs, loaded, strict=True)):
            weights = None if checkpoints is None else Path(checkpoints[number * len(seeds) + place])
            if weights is not None:
                check_checkpoint_file(str(weights))
            runs.append(_run(path, cfg, seed, out, weights))
    return runs


def by_baseline(runs: Sequence[Run], baseline: str) -> list[Run]:
    """One run of each config, that of the baseline first."""
    once: dict[str, Run] = {}
    for run in runs:
        once.setdefault(run.name, run)
    return sorted(once.values(), key=lambda run: run.name != baseline)


def _run(path: str, cfg: Config, seed: int, out: Path, weights: Path | None) -> Run:
    name = Path(path).stem
    cfg = cfg.copy()
    cfg.merge_from_dict({'randomness.seed': seed})
    content = json.dumps(cfg.to_dict(), sort_keys=True, default=str).encode()
    if weights is not None:
        content += hashlib.sha256(weights.read_bytes()).digest()
    folder = out / name / f'seed_{seed}'
    cfg.work_dir = str(folder)
    return Run(name, str(path), seed, cfg, folder, weights, hashlib.sha256(content).hexdigest())


def _refuse_repeated(what: str, values: Sequence) -> None:
    repeated = sorted({value for value in values if list(values).count(value) > 1})
    if repeated:
        raise ValueError(
            f'the {what} {repeated[0]} is given twice: give each {what} once, because the folder of a run is named '
            'after its config and its seed'
        )
