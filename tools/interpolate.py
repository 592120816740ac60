"""Walk between pairs of test images in the latent space of a trained flow; one row of the picture for each pair.

    python tools/interpolate.py configs/flow/cifar10_8x8/invresnet.py work_dirs/invresnet/iter_800.pth --pairs 0 1 2 3
"""
from __future__ import annotations

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path

if find_spec('mmseg_invattn') is None:  # not installed: run from the checkout
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmseg.registry import DATASETS

from mmseg_invattn.apis import init_model
from mmseg_invattn.evaluation.image_grid import image_grid, write_image
from mmseg_invattn.evaluation.latent_walk import interpolate, read_images


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config file of a flow')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('--pairs', type=int, nargs='+', default=[0, 1, 2, 3], metavar='INDEX',
                        help='images of the test data, two for each row')
    parser.add_argument('--steps', type=int, default=8, help='images in a row, both ends included')
    parser.add_argument('--data-root', help="folder of the data, instead of the config's")
    parser.add_argument('--any-version', action='store_true', help='use data files that differ from the published ones')
    parser.add_argument('--out', type=Path, default=Path('interpolation.png'), help='PNG file to write')
    parser.add_argument('--device', help='such as cpu or cuda:0; by default the GPU where there is one')
    parser.add_argument('--trust-checkpoint', action='store_true',
                        help='load the checkpoint even where that runs code which it contains')
    args = parser.parse_args()
    if len(args.pairs) % 2:
        parser.error(f'--pairs takes two images for each row, and got {len(args.pairs)}')
    return args


def main() -> None:
    args = parse_args()
    model = init_model(args.config, args.checkpoint, args.device, args.trust_checkpoint)
    data = dict(model.cfg.test_dataloader.dataset)
    data |= dict(data_root=args.data_root) if args.data_root else {}
    data |= dict(verify=False) if args.any_version else {}
    images = read_images(DATASETS.build(data), args.pairs).to(next(model.parameters()).device)
    walks, errors = interpolate(model, images[::2], images[1::2], args.steps)
    write_image(args.out, image_grid(walks.flatten(0, 1), args.steps))
    print(f'{args.out}: {len(walks)} walks of {args.steps} images; the ends come back with errors of up to '
          f'{float(errors.max()):.1e}')


if __name__ == '__main__':
    main()
