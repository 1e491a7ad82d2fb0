"""Prepare GID-5 as the paper uses it: 2,000 training and 2,500 test tiles of 512 x 512 pixels.

    python tools/dataset_tools/prepare_gid5.py "Large-scale Classification_5classes" data/gid5

takes the official download, ``image_RGB/<scene>.tif`` with ``label_5classes/<scene>_label.tif``
(colours: built-up red, farmland green, forest cyan, meadow yellow, water blue, unlabelled black),
and writes ``data/gid5/{train,test}/<tile>.png`` with ``{train,test}_labels/<tile>.png`` (0 is
unlabelled, 1 to 5 are the classes). Training and test tiles come from different scenes. The draw is
this project's (seed 0); ``data/gid5/splits/gid5_{train,test}_hook_seed0.txt`` lists it. The tiles
that the paper's authors released have the same layout and need no preparation.
"""

import argparse
import os
from pathlib import Path

import numpy as np
from PIL import Image
from preparing import opened_source, write_list
from rasterio.windows import Window
from tiling import Scene, colours_to_indexes, cut_tiles, divide_scenes, read_window

from hook.datasets.named import GID5
from hook.errors import DataError, reports_errors

UNLABELLED = 0
INDEX_OF = {(0, 0, 0): UNLABELLED} | {
    colour: index + 1 for index, colour in enumerate(GID5.palette)
}


def find_scenes(source: Path) -> list[Scene]:
    """Pair the images and masks of the official download.

    Args:
        source: Folder at or above ``image_RGB`` and ``label_5classes``.

    Returns:
        The scenes, by name.

    Raises:
        DataError: If there is none, or an image has no mask.
    """
    masks = {
        path.stem.removesuffix("_label"): path
        for path in sorted(source.rglob("label_5classes/*.tif"))
    }
    images = sorted(source.rglob("image_RGB/*.tif"))
    if not images or not masks:
        raise DataError(
            f"{source} is not the official GID-5 download",
            expected="image_RGB/<scene>.tif and label_5classes/<scene>_label.tif",
            found=f"{len(images)} images and {len(masks)} masks",
            remedy='give the folder "Large-scale Classification_5classes"',
        )
    lonely = [path for path in images if path.stem not in masks]
    if lonely:
        raise DataError(
            f"{lonely[0]} has no mask",
            expected=f"label_5classes/{lonely[0].stem}_label.tif",
            found=f"{len(lonely)} images without masks",
            remedy="complete the download",
        )
    return [Scene(path.stem, path, masks[path.stem]) for path in images]


def read_image(scene: Scene, window: Window) -> np.ndarray:
    """Read a window of a scene, (3, H, W)."""
    return read_window(scene.image, window)[:3]


def read_labels(scene: Scene, window: Window) -> np.ndarray:
    """Read a window of a mask, in colours or indexes, as indexes 0 to 5."""
    labels = read_window(scene.mask, window)
    if labels.shape[0] >= 3:
        return colours_to_indexes(labels[:3], INDEX_OF, scene.mask)
    if labels.max() > len(GID5.classes):
        raise DataError(
            f"{scene.mask} holds a label that means no class",
            expected="0 to 5",
            found=int(labels.max()),
            remedy="use the masks of the original download",
        )
    return labels[0].astype(np.uint8)


def prepare_gid5(
    source: str | Path,
    out: str | Path,
    train: int = 2000,
    test: int = 2500,
    size: int = 512,
    seed: int = 0,
) -> dict[str, int]:
    """Cut and draw the tiles.

    Args:
        source: Official download, a folder or a zip archive.
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
    with opened_source(source) as folder:
        divided = divide_scenes(find_scenes(folder), train, test, seed)
        for split, wanted in (("train", train), ("test", test)):
            names: list[str] = []

            def write(
                name: str,
                image: np.ndarray,
                labels: np.ndarray,
                split: str = split,
                names: list[str] = names,
            ) -> None:
                _write_png(out / f"{split}_labels" / f"{name}.png", labels)
                _write_png(out / split / f"{name}.png", image.transpose(1, 2, 0))
                names.append(f"{split}/{name}.png")

            counts[split] = cut_tiles(
                divided[split],
                wanted,
                size,
                seed,
                read_image,
                read_labels,
                UNLABELLED,
                write,
                f"GID-5 {split}",
            )
            write_list(out / "splits" / f"gid5_{split}_hook_seed{seed}.txt", sorted(names))
    return counts


def _write_png(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.part")
    Image.fromarray(np.ascontiguousarray(array)).save(scratch, format="PNG")
    os.replace(scratch, path)


@reports_errors
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", help="the official download: a folder or a zip archive")
    parser.add_argument("out", nargs="?", default="data/gid5", help="data root to write")
    parser.add_argument("--train", type=int, default=2000, help="number of training tiles (2000)")
    parser.add_argument("--test", type=int, default=2500, help="number of test tiles (2500)")
    parser.add_argument("--size", type=int, default=512, help="side of a tile in pixels (512)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draw (0)")
    args = parser.parse_args(arguments)
    counts = prepare_gid5(args.source, args.out, args.train, args.test, args.size, args.seed)
    for split, wanted in (("train", args.train), ("test", args.test)):
        text = "" if counts[split] == wanted else f" ({wanted} asked for, the scenes hold no more)"
        print(f"{args.out}/{split}: {counts[split]} tiles{text}")


if __name__ == "__main__":
    main()
