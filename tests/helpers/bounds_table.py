"""The tables of docs/explanation/floating_point.md: `PYTHONPATH=tests python -m helpers.bounds_table --settings 4000`.

Settings are drawn with a fixed seed, so that the tables come out again.
"""

import argparse
import collections
import statistics

import torch
from hypothesis import HealthCheck, Phase, given, seed
from hypothesis import settings as run
from torch import nn

from mmseg_invattn.layers import CertifiedAttention2d, ConditionalAttention2d, CouplingAttention2d, InvConvResidual
from mmseg_invattn.layers.contract import outputs
from mmseg_invattn.ops import max_token_norm

from .settings import build, features, forward, settings

BLOCKS = {
    'certified': CertifiedAttention2d,
    'conditional': ConditionalAttention2d,
    'coupling': CouplingAttention2d,
    'convolutions': InvConvResidual,
}


def battery(count: int) -> None:
    """A row a layer: settings, samples outside, samples without a bound, and bound over error."""
    seen, outside, unknown, ratios = (collections.defaultdict(factory) for factory in (int, int, int, list))

    @seed(0)
    @given(settings())
    @run(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def draw(setting):
        generator = torch.Generator().manual_seed(setting.seed)
        try:
            layer, x = build(setting, generator), features(setting, generator)
        except ValueError:  # features too large for the statistics of a normalisation
            return
        y = forward(setting, layer, x)
        if not all(part.isfinite().all() for part in outputs(y)):
            return
        x_hat, info = layer.inverse(y, strict=False, max_iter=setting.max_iter)
        error, bound = layer.error_norm(x_hat.double() - x.double()), info.error_bound
        name = setting.layer.__name__
        seen[name] += 1
        outside[name] += int((error > bound).sum())
        unknown[name] += int(bound.isnan().sum())
        ratios[name] += (bound / error)[(error > 0) & ~bound.isnan()].tolist()

    draw()
    print('| layer | settings | error above bound | without a bound | bound / error, median |')
    print('| --- | --- | --- | --- | --- |')
    for name in sorted(seen):
        ratio = f'{statistics.median(ratios[name]):.1f}' if ratios[name] else 'exact'
        print(f'| `{name}` | {seen[name]} | {outside[name]} | {unknown[name]} | {ratio} |')


def trained(layer: nn.Module, steps: int = 200) -> nn.Module:
    """The layer after AdamW on random features that are to be mixed with their neighbours."""
    optimizer = torch.optim.AdamW(layer.parameters(), lr=1e-3)
    for _ in range(steps):
        x = torch.randn(2, 64, 12, 12)
        optimizer.zero_grad()
        (layer(x) - 2 * x.roll(1, 3)).square().mean().backward()
        optimizer.step()
    return layer


def tightness() -> None:
    """B 4, C 64, N 1024, float32, the layers at their defaults; medians over 4 seeds and the samples."""
    print('| layer | bound / error, new | after 200 steps | local Lipschitz bound, new | after 200 steps |')
    print('| --- | --- | --- | --- | --- |')
    for name, form in BLOCKS.items():
        ratios, local = ([], []), ([], [])
        for start in range(4):
            torch.manual_seed(start)
            layer, x = form(64), torch.randn(4, 64, 32, 32)
            layer.train()(x)
            for k in range(2):
                if k:
                    trained(layer)
                with torch.no_grad():
                    x_hat, info = layer.eval().inverse(layer(x))
                ratios[k].extend((info.error_bound / max_token_norm(x_hat.double() - x)).tolist())
                local[k].extend(info.lipschitz.tolist())
        numbers = [f'{statistics.median(values):.1f}' for values in ratios]
        bounds = [f'{statistics.median(values):.2f}' for values in local]
        print(f'| {name} | {" | ".join(numbers)} | {" | ".join("-" if b == "0.00" else b for b in bounds)} |')


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--settings', type=int, default=4000, metavar='N', help='of the first table')
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    battery(arguments.settings)
    print()
    tightness()
