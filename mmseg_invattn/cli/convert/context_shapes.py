"""Generate the demo data: the class of the shapes depends on the colour of a marker on the far side of the image.

Only long-range context can tell the classes apart: a scene is drawn completely before its class is chosen, and the
class changes only the colour of the marker. Every shape pixel is at least --distance columns from every marker
pixel. --distance, --num-classes and --marker-size set the difficulty.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from ..output import add_output_arguments
from ..parser import CommandParser
from .output_folder import check_folder, read_meta, whole_folder

MARKER_COLOURS = (
    (220, 40, 40),
    (40, 90, 230),
    (40, 190, 60),
    (235, 205, 30),
    (190, 60, 200),
    (40, 200, 210),
    (240, 130, 20),
    (140, 90, 50),
)  # RGB
MIN_SHAPE, MAX_SHAPE = 8, 14  # pixels across
SPLITS = ('train', 'val')


@dataclass(frozen=True)
class Settings:
    """Arguments of the generator; two runs with equal settings write the same files.

    Attributes:
        height: Image height in pixels.
        width: Image width in pixels.
        num_classes: Number of classes including background; each other class has its own marker colour.
        distance: Smallest horizontal distance in pixels between a shape pixel and a marker pixel.
        marker_size: Side of the square marker in pixels.
        num_train: Images of the training split.
        num_val: Images of the validation split.
        seed: Any integer of at least 0.
    """

    height: int = 48
    width: int = 96
    num_classes: int = 3
    distance: int = 44
    marker_size: int = 20
    num_train: int = 800
    num_val: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        most = len(MARKER_COLOURS) + 1
        if not 2 <= self.num_classes <= most:
            raise ValueError(
                f'num_classes is {self.num_classes}, but it must be between 2 (background and one kind '
                f'of shape) and {most} (one marker colour each). Fix: choose --num-classes in that range.'
            )
        if self.marker_size < 1 or self.marker_size > min(self.height, self.width):
            raise ValueError(
                f'marker_size is {self.marker_size}, but the marker must have at least 1 pixel and fit '
                f'into the {self.height}x{self.width} image. Fix: choose --marker-size from 1 to '
                f'{min(self.height, self.width)}, or a larger image.'
            )
        if self.distance < 1:
            raise ValueError(f'distance is {self.distance}, but it must be at least 1. Fix: choose another --distance.')
        if self.height < MAX_SHAPE:
            raise ValueError(
                f'height is {self.height}, but shapes are up to {MAX_SHAPE} pixels high. '
                f'Fix: choose --height {MAX_SHAPE} or more.'
            )
        room = self.width - self.marker_size - MAX_SHAPE + 1
        if self.distance > room:
            raise ValueError(
                f'distance is {self.distance}, but with width {self.width}, a marker of '
                f'{self.marker_size} and shapes of {MAX_SHAPE} pixels it can be at most {room}. '
                f'Fix: reduce --distance or --marker-size, or choose --width '
                f'{self.distance + self.marker_size + MAX_SHAPE - 1} or more.'
            )
        for name in ('num_train', 'num_val'):
            if getattr(self, name) < 1:
                raise ValueError(
                    f'{name} is {getattr(self, name)}, but each split needs at least one image. '
                    f'Fix: choose --{name.replace("_", "-")} 1 or more.'
                )
        if self.seed < 0:
            raise ValueError(f'seed is {self.seed}, but it must be at least 0. Fix: choose another --seed.')


@dataclass(frozen=True)
class Scene:
    """Everything in an image except its class.

    Attributes:
        image: (H, W, 3) uint8, RGB, with shapes and noise, without the marker.
        mask: (H, W) bool, the shapes.
        marker: (row, column) of the marker's upper left corner.
        marker_noise: (size, size, 3) integers to be added to the marker's colour.
    """

    image: np.ndarray
    mask: np.ndarray
    marker: tuple[int, int]
    marker_noise: np.ndarray


def image_rng(settings: Settings, split: str, index: int) -> np.random.Generator:
    """Random generator of one image. It does not depend on the other images, so the size of a split has no effect."""
    return np.random.default_rng([settings.seed, SPLITS.index(split), index])


def _draw_shape(mask: np.ndarray, kind: int, left: int, top: int, size: int) -> None:
    import cv2

    # No antialiasing: it would leave pixels that are half background.
    right, bottom = left + size - 1, top + size - 1
    if kind == 0:
        # In doubled coordinates the centre is an integer and the disc is exactly `size` pixels across.
        rows, columns = np.ogrid[: mask.shape[0], : mask.shape[1]]
        mask[(2 * columns - left - right) ** 2 + (2 * rows - top - bottom) ** 2 <= size**2] = 1
    elif kind == 1:
        cv2.rectangle(mask, (left, top), (right, bottom), 1, -1)
    else:
        cv2.fillPoly(mask, [np.array([(left, bottom), (right, bottom), ((left + right) // 2, top)], np.int32)], 1)


def draw_scene(rng: np.random.Generator, settings: Settings) -> Scene:
    """Draws the background, the shapes and the position of the marker, without using the class.

    Args:
        rng: Random generator of the image.
        settings: Arguments of the data generator.
    """
    height, width = settings.height, settings.width
    slack = settings.width - settings.marker_size - settings.distance - MAX_SHAPE + 1
    # The marker is on the left; below, the whole scene may be mirrored.
    marker_column = int(rng.integers(0, min(slack, 4) + 1))
    marker_row = int(rng.integers(0, height - settings.marker_size + 1))
    first_column = marker_column + settings.marker_size - 1 + settings.distance

    # Grey and close to the usual mean: while attention is still a plain mean, a coloured background would hide the
    # marker.
    grey, slope_down, slope_right = rng.integers(105, 146), *rng.integers(-24, 25, size=2)
    rows, columns = np.mgrid[:height, :width]
    background = grey + rows * slope_down // height + columns * slope_right // width
    image = np.repeat(background[..., None], 3, axis=2)
    mask = np.zeros((height, width), np.uint8)
    for _ in range(int(rng.integers(4, 8))):
        kind, size = int(rng.integers(3)), int(rng.integers(MIN_SHAPE, MAX_SHAPE + 1))
        left, top = int(rng.integers(first_column, width - size + 1)), int(rng.integers(0, height - size + 1))
        # Light greyish colours, so that no shape looks like a marker.
        colour = int(rng.integers(195, 236)) + rng.integers(-10, 11, size=3)
        shape = np.zeros_like(mask)
        _draw_shape(shape, kind, left, top, size)
        image[shape > 0] = colour
        mask |= shape
    # Integer noise, which is the same on every platform; the tails of a normal distribution are not.
    image = image + rng.integers(-12, 13, size=image.shape)
    marker_noise = rng.integers(-12, 13, size=(settings.marker_size, settings.marker_size, 3))
    if rng.integers(2):
        image, mask = image[:, ::-1], mask[:, ::-1]
        marker_column = width - settings.marker_size - marker_column
    return Scene(image.clip(0, 255).astype(np.uint8), mask > 0, (marker_row, marker_column), marker_noise)


def paint(scene: Scene, label: int) -> tuple[np.ndarray, np.ndarray]:
    """Adds the marker for a class to a scene.

    Args:
        scene: The scene.
        label: Class of all its shapes, from 1.

    Returns:
        The image (H, W, 3), RGB, and the label map (H, W), both uint8. The marker is labelled background.
    """
    image = scene.image.copy()
    row, column = scene.marker
    size = len(scene.marker_noise)
    patch = np.array(MARKER_COLOURS[label - 1]) + scene.marker_noise
    image[row : row + size, column : column + size] = patch.clip(0, 255).astype(np.uint8)
    return image, scene.mask.astype(np.uint8) * np.uint8(label)


def make_pair(settings: Settings, split: str, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Image and label map with index ``index`` of a split."""
    rng = image_rng(settings, split, index)
    scene = draw_scene(rng, settings)
    return paint(scene, int(rng.integers(1, settings.num_classes)))


def _write_png(path: Path, array: np.ndarray) -> None:
    import cv2

    encoded, content = cv2.imencode('.png', array, [cv2.IMWRITE_PNG_COMPRESSION, 6])
    if not encoded:
        raise OSError(f'OpenCV cannot encode {path} as PNG. Fix: reinstall opencv-python.')
    path.write_bytes(content.tobytes())


def generate(out: Path, settings: Settings, overwrite: bool = False) -> bool:
    """Writes the data set, unless it exists already.

    Args:
        out: Folder for the data set.
        settings: Arguments of the data generator.
        overwrite: Replace data made with other settings.

    Returns:
        True if files were written, False if existing ones are reused.

    Raises:
        FileExistsError: ``out`` contains something else.
    """
    from tqdm import tqdm

    counts = {'train': settings.num_train, 'val': settings.num_val}
    meta = {
        'generator': 'context_shapes 1',
        'arguments': asdict(settings),
        'classes': ['background', *(f'shape_{chr(ord("a") + i)}' for i in range(settings.num_classes - 1))],
        'marker_colours_rgb': [list(colour) for colour in MARKER_COLOURS[: settings.num_classes - 1]],
    }
    complete = all(
        len(list((out / kind / split).glob('*.png'))) == count
        for kind in ('images', 'annotations')
        for split, count in counts.items()
    )
    if complete and read_meta(out) == meta:
        return False
    check_folder(out, overwrite)
    with whole_folder(out, meta, overwrite) as partial:
        for split, count in counts.items():
            images, labels = partial / 'images' / split, partial / 'annotations' / split
            images.mkdir(parents=True)
            labels.mkdir(parents=True)
            for index in tqdm(range(count), desc=f'context_shapes {split}', unit='image'):
                image, label = make_pair(settings, split, index)
                _write_png(images / f'{index:04d}.png', image[..., ::-1])
                _write_png(labels / f'{index:04d}.png', label)
    return True


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    defaults = Settings()
    parser = CommandParser(__doc__, '', '--out data/far --width 192 --distance 130')
    add_output_arguments(parser, 'folder for the data set', 'data/context_shapes', folder=True)
    for name, text in (
        ('height', 'image height in pixels'),
        ('width', 'image width in pixels'),
        ('num_classes', 'number of classes, including background (2 to 9)'),
        ('distance', 'smallest distance between marker and shapes in pixels'),
        ('marker_size', 'side of the marker in pixels'),
        ('num_train', 'number of training images'),
        ('num_val', 'number of validation images'),
        ('seed', 'seed of all images'),
    ):
        parser.add_argument(
            f'--{name.replace("_", "-")}', type=int, default=getattr(defaults, name), metavar='N', help=text
        )
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the subcommand."""
    args = parse_args(arguments)
    settings = Settings(**{field.name: getattr(args, field.name) for field in fields(Settings)})
    written = generate(args.out, settings, args.overwrite)
    print(f'{"Wrote" if written else "Reused (same arguments)"}: {args.out}')
