"""Package metadata. Importing torch here is avoided on purpose: pip runs this file before torch is there."""
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent

# The two lines provide the same import names (mmcv, mmengine, mmseg) and overwrite each other's files:
# they are extras, an environment holds one of them, never both.
ONEDL = ['onedl-mmengine>=0.10.12', 'onedl-mmcv>=2.3.6', 'onedl-mmsegmentation>=1.4.2']
OPENMMLAB = ['mmengine>=0.10.7,<0.11', 'mmcv-lite>=2.1.0,<2.2.0', 'mmsegmentation>=1.2.2', 'ftfy', 'regex',
             'setuptools<82']

setup(
    name='mmseg_invattn',
    version='0.1.0',
    description='Certified invertible attention for MMSegmentation',
    long_description=(HERE / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    python_requires='>=3.10',
    packages=find_packages(include=['mmseg_invattn', 'mmseg_invattn.*']),
    package_data={'mmseg_invattn.experiments.compare': ['*.jinja'], 'mmseg_invattn.experiments.explore': ['assets/*']},
    install_requires=['torch>=2.4', 'numpy', 'opencv-python', 'cityscapesscripts', 'prettytable', 'pillow>=10.1',
                      'tqdm', 'jinja2', 'matplotlib', 'scipy'],
    extras_require={
        'onedl': ONEDL,
        'openmmlab': OPENMMLAB,
        # playwright drives a Chromium that is there already; without a GPU triton runs in its interpreter and compiles
        'dev': ['pytest', 'pytest-xdist', 'hypothesis', 'ruff', 'playwright', 'tensorboard',
                "triton; platform_system == 'Linux'"],
        'export': ['onnx', 'onnxscript', 'onnxruntime'],
        'docs': ['mkdocs', 'mkdocs-material'],
        'tracking': ['tensorboard', 'mlflow', 'wandb'],
    },
    classifiers=[
        'Programming Language :: Python :: 3.10',
        'Programming Language :: Python :: 3.11',
        'Programming Language :: Python :: 3.12',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
    ],
)
