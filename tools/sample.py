"""Draw images from a trained flow, as one picture.

    python tools/sample.py configs/flow/cifar10_8x8/invresnet.py work_dirs/invresnet/iter_800.pth --out samples.png
"""
from __future__ import annotations

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path

if find_spec('mmseg_invattn') is None:  # not installed: run from the checkout
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmseg_invattn.apis import init_model
from mmseg_invattn.evaluation.image_grid import image_grid, write_image


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config file of a flow')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('--num', type=int, default=64, help='number of images')
    parser.add_argument('--temperature', type=float, default=1.0, help="factor of the prior's scale")
    parser.add_argument('--seed', type=int, default=0, help='the draw is a function of it')
    parser.add_argument('--columns', type=int, default=8, help='images in a row')
    parser.add_argument('--out', type=Path, default=Path('samples.png'), help='PNG file to write')
    parser.add_argument('--device', help='such as cpu or cuda:0; by default the GPU where there is one')
    parser.add_argument('--trust-checkpoint', action='store_true',
                        help='load the checkpoint even where that runs code which it contains')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    model = init_model(args.config, args.checkpoint, args.device, args.trust_checkpoint)
    images, info = model.sample(args.num, args.temperature, seed=args.seed)
    write_image(args.out, image_grid(images, args.columns))
    print(f'{args.out}: {args.num} images at temperature {args.temperature:g}; {int((~info.converged).sum())} of their '
          f'inverses did not converge, largest residual {float(info.residual.max()):.1e}')


if __name__ == '__main__':
    main()
