"""Prepare DeepGlobe land cover (DGLCC) as the paper uses it: 2,000 training, 2,500 test tiles.

    python tools/dataset_tools/prepare_deepglobe_land_cover.py archive.zip data/deepglobe_land_cover

takes the public download (the 803 labelled images ``<id>_sat.jpg`` with ``<id>_mask.png``, in
whatever folders; images without a mask are passed over) and writes tiles of 512 x 512 pixels in the
layout that ``torchgeo.datasets.DeepGlobeLandCover`` reads,
``data/{training_data,test_data}/{images,masks}``. Training and test tiles come from different
images. The draw is this project's (seed 0); ``splits/dglcc_{train,test}_hook_seed0.txt`` lists it.

Tiles are stored as JPEG, as TorchGeo wants them, at quality 100 without chroma subsampling. Mask
colours are first brought to 0 or 255 at 128, as the data set's authors advise: TorchGeo takes a
colour that is off by one for the first class.
"""

import argparse
import os
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image
from preparing import opened_source, write_list
from rasterio.windows import Window
from tiling import Scene, colours_to_indexes, cut_tiles, divide_scenes
from torchgeo.datasets import DeepGlobeLandCover

from hook.errors import DataError, reports_errors

COLOURS = DeepGlobeLandCover.colormap
INDEX_OF = {tuple(colour): index for index, colour in enumerate(COLOURS)}
UNKNOWN = 6
FOLDERS = {"train": "training_data", "test": "test_data"}


def find_scenes(source: Path) -> list[Scene]:
    """Pair the images of the download with their masks.

    Args:
        source: Folder with ``<id>_sat.jpg`` and ``<id>_mask.png`` somewhere below.

    Returns:
        The labelled images, by id.

    Raises:
        DataError: If there is none.
    """
    masks = {path.stem.removesuffix("_mask"): path for path in source.rglob("*_mask.png")}
    images = {path.stem.removesuffix("_sat"): path for path in source.rglob("*_sat.jpg")}
    labelled = sorted(set(images) & set(masks))
    if not labelled:
        raise DataError(
            f"{source} is not the DeepGlobe land cover download",
            expected="<id>_sat.jpg with <id>_mask.png",
            found=f"{len(images)} images and {len(masks)} masks without partners",
            remedy="give the folder or zip archive of the whole download",
        )
    return [Scene(name, images[name], masks[name]) for name in labelled]


@lru_cache(maxsize=2)
def _decoded(path: Path) -> np.ndarray:
    # With PIL, as TorchGeo does: GDAL's decoder restores the colours of a JPEG a little otherwise.
    try:
        with Image.open(path) as file:
            return np.array(file.convert("RGB"))
    except (OSError, SyntaxError) as error:
        raise DataError(
            f"{path} cannot be read",
            expected="an undamaged image",
            found=error,
            remedy="download it again",
        ) from error


def read_image(scene: Scene, window: Window) -> np.ndarray:
    """Read a window of a scene, (3, H, W)."""
    return _decoded(scene.image)[window.toslices()].transpose(2, 0, 1)


def read_labels(scene: Scene, window: Window) -> np.ndarray:
    """Read a window of a colour mask as indexes 0 to 6."""
    colours = np.where(_decoded(scene.mask)[window.toslices()] >= 128, 255, 0)
    return colours_to_indexes(colours.transpose(2, 0, 1), INDEX_OF, scene.mask)


def prepare_deepglobe(
    source: str | Path,
    out: str | Path,
    train: int = 2000,
    test: int = 2500,
    size: int = 512,
    seed: int = 0,
) -> dict[str, int]:
    """Cut and draw the tiles.

    Args:
        source: Download, a folder or a zip archive.
        out: Data root to write.
        train: Number of training tiles.
        test: Number of test tiles.
        size: Side of a tile in pixels.
        seed: Seed of the draw.

    Returns:
        Number of tiles per split.

    Raises:
        DataError: If the download is incomplete or damaged.
    """
    out, counts = Path(out), {}
    palette = np.array(COLOURS, dtype=np.uint8)
    with opened_source(source) as folder:
        divided = divide_scenes(find_scenes(folder), train, test, seed)
        for split, wanted in (("train", train), ("test", test)):
            target = out / "data" / FOLDERS[split]
            names: list[str] = []

            def write(
                name: str,
                image: np.ndarray,
                labels: np.ndarray,
                target: Path = target,
                names: list[str] = names,
            ) -> None:
                _write(target / "masks" / f"{name}_mask.png", palette[labels], "PNG")
                _write(
                    target / "images" / f"{name}_sat.jpg",
                    image.transpose(1, 2, 0),
                    "JPEG",
                    quality=100,
                    subsampling=0,
                )
                names.append(f"images/{name}_sat.jpg")

            counts[split] = cut_tiles(
                divided[split],
                wanted,
                size,
                seed,
                read_image,
                read_labels,
                UNKNOWN,
                write,
                f"DGLCC {split}",
            )
            write_list(out / "splits" / f"dglcc_{split}_hook_seed{seed}.txt", sorted(names))
    return counts


def _write(path: Path, array: np.ndarray, kind: str, **options: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.part")
    Image.fromarray(np.ascontiguousarray(array)).save(scratch, format=kind, **options)
    os.replace(scratch, path)


@reports_errors
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", help="the download: a folder or a zip archive")
    parser.add_argument(
        "out", nargs="?", default="data/deepglobe_land_cover", help="data root to write"
    )
    parser.add_argument("--train", type=int, default=2000, help="number of training tiles (2000)")
    parser.add_argument("--test", type=int, default=2500, help="number of test tiles (2500)")
    parser.add_argument("--size", type=int, default=512, help="side of a tile in pixels (512)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draw (0)")
    args = parser.parse_args(arguments)
    counts = prepare_deepglobe(args.source, args.out, args.train, args.test, args.size, args.seed)
    for split, wanted in (("train", args.train), ("test", args.test)):
        text = "" if counts[split] == wanted else f" ({wanted} asked for, the images hold no more)"
        print(f"{args.out}/data/{FOLDERS[split]}: {counts[split]} tiles{text}")


if __name__ == "__main__":
    main()
