"""The hook that checks the data sets before training, validation and testing."""

from mmengine.hooks import Hook
from mmengine.runner import BaseLoop, Runner
from mmseg.registry import HOOKS

from ..wording import counted
from .checks import check_dataset_files, make_loading_strict, shared_label_folders
from .class_sample import sample_classes
from .leaves import leaf_datasets
from .pairing import check_label_partners


def built_loops(runner: Runner) -> dict[str, BaseLoop]:
    """The loops that this run uses, by name: ``train``, ``val``, ``test``. MMEngine leaves the others as configs."""
    loops = {'train': runner._train_loop, 'val': runner._val_loop, 'test': runner._test_loop}
    return {split: loop for split, loop in loops.items() if isinstance(loop, BaseLoop)}


@HOOKS.register_module()
class DatasetCheckHook(Hook):
    """Check the data before a run starts: every image must have its label, and every label its image.

    The hook also warns of classes that have no pixel, and makes the loading of validation and test data strict (see
    :func:`~mmseg_invattn.datasets.checks.make_loading_strict`). The validation data are checked when training starts,
    not hours later. A training pipeline has to name ``StrictLoadImageFromFile`` and ``StrictLoadAnnotations`` itself,
    because MMEngine starts the training workers before any hook runs. Data sets that have no file for each image, such
    as CIFAR-10, check their files themselves.
    """

    def __init__(self) -> None:
        # Keeps the data sets themselves: an id alone could be reused by another object.
        self._checked: list[object] = []

    def _check(self, runner: Runner, split: str, dataset: object) -> None:
        count = check_dataset_files(dataset)
        if split != 'train':
            make_loading_strict(dataset)
        if count:
            runner.logger.info(f'DatasetCheckHook: {counted(count, "image")} of the {split} data, every file is there')

    def before_run(self, runner: Runner) -> None:
        """Check the data of every loop that the Runner has built.

        Raises:
            ValueError: A data set has no images, or would leave out an image of its folder.
            FileNotFoundError: An image or a label is missing, or a label has no image.
            PermissionError: This user may not read a file.
        """
        loops = built_loops(runner)
        datasets = {
            split: loop.dataloader.dataset
            for split, loop in loops.items()
            if not any(loop.dataloader.dataset is seen for seen in self._checked)
        }
        for split, dataset in datasets.items():
            self._check(runner, split, dataset)
        check_label_partners(
            [leaf for dataset in datasets.values() for leaf in leaf_datasets(dataset)],
            shared_label_folders(runner.cfg, list(loops)),
        )
        self._checked += datasets.values()
        for split, dataset in datasets.items() if runner.rank == 0 else ():
            for remark in sample_classes(dataset).remarks():
                runner.logger.warning(f'{split} data: {remark}')
