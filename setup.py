"""Puts configs and tools into the wheel as OpenMMLab's extensions do, under ``mmseg_invattn/.mim``, and the README into
its metadata. Everything else is in pyproject.toml. Importing torch here is avoided on purpose: pip runs this file
before torch is there."""

import re
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


def long_description(readme: str) -> str:
    """The README for the page of a package index, where relative links lead nowhere: the path stands in their place.

    The paths are those of the source distribution. Pictures are left out.
    """
    relative = r'\((?!https?://|#|mailto:)([^)\s]+)\)'
    text = re.sub(rf'!\[[^\]]*\]{relative}', '', readme)
    text = re.sub(rf'\[\s*\]{relative}\n*', '', text)  # what was a picture in a link
    text = re.sub(rf'\[([^\]]+)\]{relative}', lambda m: m[2] if m[1] == m[2] else f'{m[1]} (`{m[2]}`)', text)
    return re.sub(r'\n{3,}', '\n\n', text)


if __name__ == '__main__':
    setup(
        cmdclass={'build_py': BuildWithConfigs},
        long_description=long_description((HERE / 'README.md').read_text(encoding='utf-8')),
        long_description_content_type='text/markdown',
    )
