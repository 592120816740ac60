"""Puts configs and tools into the wheel as OpenMMLab's extensions do, under ``mmseg_invattn/.mim``; everything else is
in pyproject.toml. Importing torch here is avoided on purpose: pip runs this file before torch is there."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent
SHIPPED = ('configs', 'tools')


class BuildWithConfigs(build_py):
    """The package, and what its command reads."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:  # a checkout has them beside the package
            return
        mim = Path(self.build_lib, 'mmseg_invattn', '.mim')
        shutil.rmtree(mim, ignore_errors=True)
        for name in SHIPPED:
            shutil.copytree(HERE / name, mim / name, ignore=shutil.ignore_patterns('__pycache__'))


setup(cmdclass={'build_py': BuildWithConfigs})
