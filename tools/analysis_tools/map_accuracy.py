r"""Compare a class map with reference masks where both overlap: IoU per class and mIoU.

The map is warped to the grid of each mask (nearest neighbour), so the CRS may differ. Pixels that
are nodata in the map or ``--ignore-index`` in the mask are ignored.

    python tools/analysis_tools/map_accuracy.py map.tif data/banepa_buildings/masks \
        --list configs/_base_/splits/banepa/test.txt
"""

import argparse
from pathlib import Path

import numpy as np
from prettytable import PrettyTable
from rasterio.enums import Resampling

from hook.datasets.files import by_name, stem_of
from hook.errors import DataError, reports_errors
from hook.evaluation.confusion import class_scores, confusion_matrix
from hook.geo.raster import open_raster, read_valid, warped
from hook.geo.styles import read_category_names

RASTERS = (".tif", ".tiff", ".png", ".vrt")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("map", type=Path, help="class map, such as from hook map")
    parser.add_argument("truth", type=Path, nargs="+", help="reference masks, or folders of them")
    parser.add_argument("--list", type=Path, help="file with the stems of the masks to use")
    parser.add_argument("--ignore-index", type=int, default=255, help="label to ignore")
    return parser.parse_args()


def list_masks(paths: list[Path], listed: Path | None) -> list[Path]:
    """Collect the masks; raise DataError if there is none, one is missing, or two have one name."""
    files = [
        file for path in paths for file in (sorted(path.iterdir()) if path.is_dir() else [path])
    ]
    masks = [(file.stem, file) for file in files if file.suffix.lower() in RASTERS]
    names = dict(masks)
    if listed is not None:
        lines = map(str.strip, listed.read_text().splitlines())
        names = [stem_of(line) for line in lines if line]
        missing = set(names) - set(dict(masks))
        if missing:
            raise DataError(f"{listed} lists missing masks", found=sorted(missing)[:5])
    if not masks:
        raise DataError("no masks", expected=f"files ending in {', '.join(RASTERS)}", found=paths)
    found = by_name(((name, file) for name, file in masks if name in set(names)), "masks")
    return [found[name] for name in names]


def compare(map_path: Path, masks: list[Path], ignore_index: int) -> np.ndarray:
    """Count pairs of true and mapped class: (K, K) int64.

    Raises:
        DataError: If a file cannot be read, or the map and the masks do not overlap.
    """
    counts = np.zeros((256, 256), np.int64)
    with open_raster(map_path) as source:
        for mask in masks:
            with open_raster(mask) as truth:
                grid = dict(transform=truth.transform, height=truth.height, width=truth.width)
                label = truth.read(1)
                with warped(source, truth.crs, resampling=Resampling.nearest, **grid) as view:
                    found = view.read([1])
                    valid = read_valid(view, [1], found) & (label != ignore_index)
            counts += confusion_matrix(label[valid], found[0, valid], 256, None)
    if not counts.any():
        raise DataError(
            f"{map_path} and the masks have no pixel in common",
            expected="masks of the mapped area",
            remedy="check the CRS of both",
        )
    size = int(np.flatnonzero(counts.any(axis=0) | counts.any(axis=1)).max()) + 1
    return counts[:size, :size]


@reports_errors
def main() -> None:
    args = parse_args()
    masks = list_masks(args.truth, args.list)
    counts = compare(args.map, masks, args.ignore_index)
    named = next(filter(None, map(read_category_names, (args.map, *masks))), [])
    named += [""] * (len(counts) - len(named))
    names = [name or f"class_{i}" for i, name in enumerate(named)]
    ious = 100 * class_scores(counts)["iou"]
    table = PrettyTable(["class", "true pixels", "mapped pixels", "IoU"])
    table.align = "r"
    for i, iou in enumerate(ious):
        table.add_row([names[i], counts[i].sum(), counts[:, i].sum(), f"{iou:.2f}"])
    print(table)
    print(f"{len(masks)} masks, {counts.sum()} pixels, mIoU {np.nanmean(ious):.2f}")


if __name__ == "__main__":
    main()
