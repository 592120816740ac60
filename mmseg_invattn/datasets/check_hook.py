"""Looks through the data sets before training, validation and testing."""

from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmseg.registry import HOOKS

from .checks import check_dataset_files, make_loading_strict


@HOOKS.register_module()
class DatasetCheckHook(Hook):
    """Check that every image has its label before the first iteration, and load validation and test data strictly.

    The validation data are checked when training starts, not hours later. Training pipelines name
    ``StrictLoadImageFromFile`` and ``StrictLoadAnnotations`` themselves: MMEngine starts the training workers before
    any hook runs. See :func:`~mmseg_invattn.datasets.checks.make_loading_strict` for the others. Data sets without a
    file for each image, such as CIFAR-10, check their files themselves.
    """

    def __init__(self) -> None:
        # Keeps the data sets themselves: an id alone could be reused by another object.
        self._checked: list[object] = []

    def _check(self, runner: Runner, split: str, dataset: object) -> None:
        if any(dataset is seen for seen in self._checked):
            return
        count = check_dataset_files(dataset)
        if split != 'train':
            make_loading_strict(dataset)
        self._checked.append(dataset)
        if count:
            runner.logger.info(f'DatasetCheckHook: all {count} images of the {split} data are there with their labels')

    def before_train(self, runner: Runner) -> None:
        """Check the training data, and the validation data where there are any."""
        self._check(runner, 'train', runner.train_dataloader.dataset)
        if runner.val_loop is not None:
            self._check(runner, 'val', runner.val_loop.dataloader.dataset)

    def before_val(self, runner: Runner) -> None:
        """Check the validation data."""
        self._check(runner, 'val', runner.val_loop.dataloader.dataset)

    def before_test(self, runner: Runner) -> None:
        """Check the test data."""
        self._check(runner, 'test', runner.test_loop.dataloader.dataset)
