"""Prepare DeepGlobe land cover (DGLCC) as the paper uses it: 2,000 training, 2,500 test tiles.

    python tools/dataset_tools/prepare_deepglobe_land_cover.py archive.zip data/deepglobe_land_cover

reads the public download (803 labelled images ``<id>_sat.jpg`` with ``<id>_mask.png`` in any
folders; images without a mask are skipped) and writes tiles of 512 x 512 pixels in the layout of
``torchgeo.datasets.DeepGlobeLandCover``, ``data/{training_data,test_data}/{images,masks}``.
Training and test tiles are from different images. The draw is this project's (seed 0), listed in
``splits/dglcc_{train,test}_hook_seed0.txt``.

Tiles are JPEG, as TorchGeo requires, at quality 100 without chroma subsampling. Mask colours are
first thresholded at 128, as the authors of the dataset advise: TorchGeo maps unknown colours to the
first class.
"""

from pathlib import Path

import numpy as np
from rasterio.windows import Window
from tiling import Scene, TiledDataset, colours_to_indexes, read_colours, write_image
from torchgeo.datasets import DeepGlobeLandCover

from hook.datasets.files import by_name
from hook.errors import DataError

COLOURS = DeepGlobeLandCover.colormap
INDEX_OF = {tuple(colour): index for index, colour in enumerate(COLOURS)}


class DeepGlobeTiles(TiledDataset):
    """Tiles of DeepGlobe land cover."""

    title, name, folder = "DGLCC", "dglcc", "data/deepglobe_land_cover"
    unlabelled = 6
    places = {"train": "data/training_data", "test": "data/test_data"}

    def find_scenes(self, source: Path) -> list[Scene]:
        """Pair images and masks, at any depth; raise DataError if there is no pair."""
        masks, images = (
            by_name(((p.stem.removesuffix(end), p) for p in source.rglob(f"*{end}{kind}")), source)
            for end, kind in (("_mask", ".png"), ("_sat", ".jpg"))
        )
        labelled = sorted(set(images) & set(masks))
        if not labelled:
            raise DataError(
                f"{source} is not the DeepGlobe land cover download",
                expected="<id>_sat.jpg with <id>_mask.png",
                found=f"{len(images)} images and {len(masks)} masks without partners",
                remedy="pass the folder or zip archive of the complete download",
            )
        return [Scene(name, images[name], masks[name]) for name in labelled]

    def read_image(self, scene: Scene, window: Window) -> np.ndarray:
        """Read a window of a scene, (3, H, W)."""
        return read_colours(scene.image)[window.toslices()].transpose(2, 0, 1)

    def read_labels(self, scene: Scene, window: Window) -> np.ndarray:
        """Read a window of a colour mask as class indexes 0 to 6."""
        colours = np.where(read_colours(scene.mask)[window.toslices()] >= 128, 255, 0)
        return colours_to_indexes(colours.transpose(2, 0, 1), INDEX_OF, scene.mask)

    def write(self, out: Path, split: str, name: str, image: np.ndarray, labels: np.ndarray) -> str:
        """Write a tile as JPEG with its colour mask."""
        target, colours = out / self.places[split], np.array(COLOURS, dtype=np.uint8)
        image, listed = image.transpose(1, 2, 0), f"images/{name}_sat.jpg"
        write_image(target / "masks" / f"{name}_mask.png", colours[labels])
        write_image(target / listed, image, "JPEG", quality=100, subsampling=0)
        return listed


main = DeepGlobeTiles().command(__doc__)

if __name__ == "__main__":
    main()
