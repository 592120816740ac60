"""How well the inverse of a model recovers images."""

import csv
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from mmengine.evaluator import BaseMetric
from mmseg.registry import METRICS
from torch import Tensor

from ...engine.atomic_backend import whole_file
from ...visualization.image_grid import image_grid, large
from ...visualization.media import write_image

NOT_RECOVERED = 1e-2  # largest error of a value: 2.5 of 255 grey levels, a visible difference
COLUMNS = ('l1', 'l2', 'max_error', 'psnr', 'iterations', 'residual', 'error', 'error_bound', 'converged')


@METRICS.register_module()
class ReconstructionMetric(BaseMetric):
    """Errors of recovered images: means over all images, and the worst image.

    Reads the results of :func:`~mmseg_invattn.models.flows.inv_reconstruction.reconstruct` for every image. For an
    image with values in [-0.5, 0.5] and the error e:

    - ``l1``: mean of ``|e|``; ``l2``: Euclidean norm of e; ``max_error``: largest ``|e|``;
    - ``psnr``: ``-10 log10(mean e^2)`` in decibels, at most 200;
    - ``error``: in the norm of ``error_bound``, the bound that the inverse reported (NaN if it has none).

    The metrics are the means, ``worst_max_error`` and ``worst_psnr``, ``most_iterations``, ``largest_bound``, and the
    counts ``not_recovered`` (``max_error`` above 1e-2), ``not_converged`` (according to the report of the inverse) and
    ``bound_broken`` (``error`` above ``error_bound``; NaN without bounds).

    Args:
        output_dir: folder for ``per_image.csv`` and ``grid.png`` (original, recovered, 100 times the error); None
            writes nothing.
        grid_images: columns of the picture.
        collect_device: as in every metric.
        prefix: as in every metric.
    """

    default_prefix = 'reconstruction'

    def __init__(
        self,
        output_dir: str | None = None,
        grid_images: int = 8,
        collect_device: str = 'cpu',
        prefix: str | None = None,
    ):
        super().__init__(collect_device, prefix)
        self.output_dir, self.grid_images = output_dir, grid_images

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        for sample in data_samples:
            result = image_errors(sample['original'], sample['recovered'])
            result |= {key: sample[key] for key in COLUMNS if key in sample}
            if self.output_dir and len(self.results) < self.grid_images:
                result['picture'] = torch.stack([sample['original'], sample['recovered']]).float().cpu()
            self.results.append(result)

    def compute_metrics(self, results: list[dict]) -> dict[str, float]:
        pictures = [result.pop('picture') for result in results if 'picture' in result]
        if self.output_dir:
            write_results(Path(self.output_dir), results, pictures[: self.grid_images])
        column = {key: [float(result[key]) for result in results] for key in COLUMNS}
        metrics = {key: mean(column[key]) for key in ('l1', 'l2', 'max_error', 'psnr', 'iterations')}
        bounded = not any(map(math.isnan, column['error_bound']))
        broken = sum(e > bound for e, bound in zip(column['error'], column['error_bound'], strict=True))
        metrics |= dict(
            worst_max_error=max(column['max_error']),
            worst_psnr=min(column['psnr']),
            most_iterations=max(column['iterations']),
            largest_bound=max(column['error_bound']) if bounded else math.nan,
            not_recovered=sum(e > NOT_RECOVERED for e in column['max_error']),
            not_converged=column['converged'].count(0.0),
            bound_broken=broken if bounded else math.nan,
            images=len(results),
        )
        return {key: float(value) for key, value in metrics.items()}  # MMEngine's log has no integers


def image_errors(original: Tensor, recovered: Tensor) -> dict[str, float]:
    """The errors of one image; values that are not finite count as an infinite error."""
    error = (recovered - original).double().nan_to_num(math.inf, math.inf, math.inf).abs()
    mse = float(error.square().mean())
    return dict(
        l1=float(error.mean()),
        l2=float(error.square().sum().sqrt()),
        max_error=float(error.max()),
        psnr=-10 * math.log10(min(max(mse, 1e-20), 1e300)),
    )


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def write_results(folder: Path, results: list[dict], pictures: list[Tensor]) -> None:
    """Writes ``per_image.csv``, one line per image in the order of the data set, and ``grid.png``."""
    folder.mkdir(parents=True, exist_ok=True)
    table = folder / 'per_image.csv'
    with whole_file(table) as partial, open(partial, 'w', newline='', encoding='utf-8') as file:
        writer = csv.writer(file)
        writer.writerow(('image', *COLUMNS))
        writer.writerows((i, *(result[key] for key in COLUMNS)) for i, result in enumerate(results))
    original, recovered = torch.stack(pictures, 1)
    rows = torch.cat([original, recovered, (recovered - original) * 100])
    picture = large(image_grid(rows, columns=len(pictures)), ('original', 'recovered', '100 x error'))
    write_image(folder / 'grid.png', picture)
