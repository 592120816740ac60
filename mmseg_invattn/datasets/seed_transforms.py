"""The first transform of a training pipeline, which makes the sample's own seed determine its augmentation."""

from __future__ import annotations

from mmcv.transforms import BaseTransform
from mmseg.registry import TRANSFORMS

from .samplers import SampleIndex, seed_generators


@TRANSFORMS.register_module()
class SeedTransforms(BaseTransform):
    """Seed ``random``, ``numpy`` and torch's CPU generator from the seed that the sample's index carries.

    The augmentation of a sample is then the same in every worker, without workers, and after a resume. Indices of
    :class:`ResumableInfiniteSampler` carry a seed. For a plain ``int`` (in validation, or from another sampler) the
    generators stay as they are.

    Required keys: ``sample_idx``, which MMEngine's ``BaseDataset`` sets.
    """

    def transform(self, results: dict) -> dict:
        """Seed the generators.

        Args:
            results: The sample on its way through the pipeline.

        Returns:
            The same dict, unchanged.
        """
        index = results.get('sample_idx')
        if isinstance(index, SampleIndex):
            seed_generators(index.seed)
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}()'
