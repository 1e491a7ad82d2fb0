"""Prepare GID-5 as the paper uses it: 2,000 training and 2,500 test tiles of 512 x 512 pixels.

    python tools/dataset_tools/prepare_gid5.py "Large-scale Classification_5classes" data/gid5

reads the official download, ``image_RGB/<scene>.tif`` with ``label_5classes/<scene>_label.tif``
(built-up red, farmland green, forest cyan, meadow yellow, water blue, unlabelled black), and writes
``data/gid5/{train,test}/<tile>.png`` with ``{train,test}_labels/<tile>.png`` (0 unlabelled, 1 to 5
classes). Training and test tiles are from different scenes. The draw is this project's (seed 0),
listed in ``data/gid5/splits/gid5_{train,test}_hook_seed0.txt``. The tiles released by the paper's
authors have the same layout and need no preparation.
"""

from pathlib import Path

import numpy as np
from rasterio.windows import Window
from tiling import Scene, TiledDataset, colours_to_indexes, read_window, write_image

from hook.datasets.files import by_name
from hook.datasets.named import GID5
from hook.errors import DataError

INDEX_OF = {colour: index for index, colour in enumerate(((0, 0, 0), *GID5.palette))}


class GID5Tiles(TiledDataset):
    """Tiles of GID-5."""

    title, name, folder = "GID-5", "gid5", "data/gid5"
    unlabelled = 0
    places = {"train": "train", "test": "test"}

    def find_scenes(self, source: Path) -> list[Scene]:
        """Pair images and masks; raise DataError if there is no image, or one without a mask."""
        labels = sorted(source.rglob("label_5classes/*.tif"))
        masks = by_name(((path.stem.removesuffix("_label"), path) for path in labels), source)
        images = sorted(source.rglob("image_RGB/*.tif"))
        if not images or not masks:
            raise DataError(
                f"{source} is not the official GID-5 download",
                expected="image_RGB/<scene>.tif and label_5classes/<scene>_label.tif",
                found=f"{len(images)} images and {len(masks)} masks",
                remedy='pass the folder "Large-scale Classification_5classes"',
            )
        unpaired = [path for path in images if path.stem not in masks]
        if unpaired:
            raise DataError(
                f"{unpaired[0]} has no mask",
                expected=f"label_5classes/{unpaired[0].stem}_label.tif",
                found=f"{len(unpaired)} images without masks",
                remedy="complete the download",
            )
        return [Scene(path.stem, path, masks[path.stem]) for path in images]

    def read_image(self, scene: Scene, window: Window) -> np.ndarray:
        """Read a window of a scene, (3, H, W)."""
        return read_window(scene.image, window)[:3]

    def read_labels(self, scene: Scene, window: Window) -> np.ndarray:
        """Read a window of a mask of colours or indexes as class indexes 0 to 5."""
        labels = read_window(scene.mask, window)
        if labels.shape[0] >= 3:
            return colours_to_indexes(labels[:3], INDEX_OF, scene.mask)
        if labels.max() > len(GID5.classes):
            raise DataError(
                f"{scene.mask} has a label without a class",
                expected="0 to 5",
                found=int(labels.max()),
                remedy="use the masks of the original download",
            )
        return labels[0].astype(np.uint8)

    def write(self, out: Path, split: str, name: str, image: np.ndarray, labels: np.ndarray) -> str:
        """Write a tile as two PNG files."""
        write_image(out / f"{split}_labels" / f"{name}.png", labels)
        write_image(out / split / f"{name}.png", image.transpose(1, 2, 0))
        return f"{split}/{name}.png"


main = GID5Tiles().command(__doc__)

if __name__ == "__main__":
    main()
