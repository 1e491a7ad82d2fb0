"""Prepare the Banepa buildings: 48 aerial chips with building masks and 16 without.

    git clone https://github.com/hotosm/fAIr-models
    git -C fAIr-models checkout 95f0727e8fb05816c1544766e8039f5237c3867d
    python tools/dataset_tools/prepare_banepa.py fAIr-models data/banepa_buildings

writes ``images/*.tif``, ``masks/*.tif`` (0 background, 1 building), ``predict_unlabelled/*.tif``,
``buildings_osm.geojson``, ``classes.txt``, ``splits/{train,val,test}.txt`` (32, 8 and 8 chips in
separate columns; lists from ``configs/_base_/splits/banepa``), and ``scene.tif``, a mosaic of the
48 chips of 3,072 x 4,096 pixels in web mercator.

The chips of the repository are JPEG files named .tif, georeferenced only by their names
(``OAM-<x>-<y>-<z>``, web mercator tiles) and sidecar files; they are written as GeoTIFFs in
EPSG:4326 with unchanged pixels. Masks are rasterised footprints, by pixel centres.

Imagery: OpenAerialMap contributors, CC BY 4.0 (item 62d85d11d8499800053796c1), via HOTOSM fAIr.
Building footprints (c) OpenStreetMap contributors, ODbL.
"""

import json
import math
import re
from pathlib import Path

import numpy as np
import rasterio
import rasterio.shutil
from affine import Affine
from preparing import SPLITS_DIR, download_parser, place, progress, write_list
from rasterio.features import rasterize
from rasterio.transform import from_bounds, from_origin
from tiling import read_window

from hook.errors import DataError, reports_errors
from hook.geo.raster import quiet_open
from hook.geo.staging import atomic_write

SPLITS = ("train", "val", "test")
# Paths in the public repository, and in a prepared folder.
CHIPS = ("data/sample/train/oam", "images")
UNLABELLED = ("data/sample/predict/oam", "predict_unlabelled")
MERCATOR_EDGE = math.pi * 6378137  # half the width of the web mercator map in metres
FOOTPRINTS = ("data/sample/train/osm/osm_features_*.geojson", "buildings_osm.geojson")


def tile_of(name: str) -> tuple[int, int, int]:
    """Parse column, row and zoom level of a web mercator tile; raise DataError for other names."""
    match = re.fullmatch(r"OAM-(\d+)-(\d+)-(\d+)", name)
    if match is None:
        raise DataError(
            f"{name}: not the name of a map tile",
            expected="OAM-<x>-<y>-<z>",
            found=name,
            remedy="keep the file names of the repository",
        )
    x, y, zoom = map(int, match.groups())
    return x, y, zoom


def tile_transform(name: str, width: int, height: int) -> Affine:
    """Return the EPSG:4326 transform of a chip from its name, see :func:`tile_of`."""
    x, y, zoom = tile_of(name)
    tiles = 2**zoom

    def longitude(column: int) -> float:
        return column / tiles * 360 - 180

    def latitude(row: int) -> float:
        return math.degrees(math.atan(math.sinh(math.pi * (1 - 2 * row / tiles))))

    return from_bounds(longitude(x), latitude(y + 1), longitude(x + 1), latitude(y), width, height)


def building_mask(geometries: list[dict], transform: Affine, shape: tuple[int, int]) -> np.ndarray:
    """Rasterise GeoJSON footprints to (H, W) uint8: 1 where a pixel's centre is in a building."""
    shapes = [(geometry, 1) for geometry in geometries]
    return rasterize(shapes, out_shape=shape, transform=transform, dtype="uint8")


def prepare_banepa(source: str | Path, out: str | Path) -> dict[str, int]:
    """Write images, masks and lists; return the number of chips per split and of unlabelled chips.

    Args:
        source: Clone of the public repository, or a folder in the layout of ``out``.
        out: Data root to write.

    Raises:
        DataError: If the source lacks a chip or the footprints.
    """
    source, out = Path(source), Path(out)
    chips, unlabelled = _folder(source, CHIPS), _folder(source, UNLABELLED)
    found = [path for pattern in FOOTPRINTS for path in sorted(source.glob(pattern))]
    if chips is None or not found:
        raise DataError(
            f"{source} is not a clone of hotosm/fAIr-models",
            expected=f"{CHIPS[0]}/*.tif and {FOOTPRINTS[0]}",
            found=f"{'chips' if chips else 'no chips'}, {len(found)} files of footprints",
            remedy="clone it and check out the commit in --help",
        )
    lists = {
        split: (SPLITS_DIR / "banepa" / f"{split}.txt").read_text().split() for split in SPLITS
    }
    names = [name for split in SPLITS for name in lists[split]]
    absent = [name for name in names if not (chips / f"{name}.tif").is_file()]
    if absent:
        raise DataError(
            f"{chips} lacks chips",
            expected=f"{len(names)} chips",
            found=f"{len(absent)} missing, the first {absent[0]}.tif",
            remedy="check out the commit in --help",
        )
    try:
        features = json.loads(found[0].read_text(encoding="utf-8"))["features"]
        geometries = [feature["geometry"] for feature in features]
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise DataError(
            f"{found[0]} cannot be read",
            expected="GeoJSON footprints",
            found=error,
            remedy="restore the file",
        ) from error
    images = {}
    for name in progress(names, "writing chips"):
        images[name] = image = read_window(chips / f"{name}.tif")
        transform = tile_transform(name, image.shape[2], image.shape[1])
        _write(out / "images" / f"{name}.tif", image, transform, photometric="rgb")
        mask = building_mask(geometries, transform, image.shape[1:])
        _write(out / "masks" / f"{name}.tif", mask[None], transform)
    write_scene(out / "scene.tif", images)
    others = sorted(unlabelled.glob("OAM-*.tif")) if unlabelled else []
    for path in others:
        image = read_window(path)
        transform = tile_transform(path.stem, image.shape[2], image.shape[1])
        _write(out / "predict_unlabelled" / path.name, image, transform, photometric="rgb")
    place(found[0], out / "buildings_osm.geojson")
    write_list(out / "classes.txt", ["0 background", "1 building"])
    for split in SPLITS:
        write_list(out / "splits" / f"{split}.txt", lists[split])
    return {split: len(lists[split]) for split in SPLITS} | {"unlabelled": len(others)}


def write_scene(path: Path, chips: dict[str, np.ndarray]) -> None:
    """Write a mosaic of chips as a Cloud-Optimised GeoTIFF with JPEG compression in EPSG:3857.

    Args:
        path: File to write.
        chips: (3, H, W) uint8 by name, of the same size and zoom level.
    """
    tiles = {tile_of(name): image for name, image in chips.items()}
    height, width = next(iter(tiles.values())).shape[1:]
    columns, rows = (sorted({tile[axis] for tile in tiles}) for axis in (0, 1))
    zoom = next(iter(tiles))[2]
    side = 2 * MERCATOR_EDGE / 2**zoom  # of a tile in metres
    scene = np.zeros(
        (3, (rows[-1] - rows[0] + 1) * height, (columns[-1] - columns[0] + 1) * width), np.uint8
    )
    for (x, y, _), image in tiles.items():
        top, left = (y - rows[0]) * height, (x - columns[0]) * width
        scene[:, top : top + height, left : left + width] = image
    west, north = columns[0] * side - MERCATOR_EDGE, MERCATOR_EDGE - rows[0] * side
    transform = from_origin(west, north, side / width, side / height)
    mosaic = path.with_name(f".{path.name}.mosaic")
    _write(mosaic, scene, transform, crs="EPSG:3857", photometric="rgb")
    with atomic_write(path) as scratch:
        rasterio.shutil.copy(mosaic, scratch, driver="COG", compress="jpeg", quality=92)
    mosaic.unlink()


def _folder(source: Path, names: tuple[str, ...]) -> Path | None:
    return next((source / name for name in names if (source / name).is_dir()), None)


def _write(
    path: Path, array: np.ndarray, transform: Affine, crs: str = "EPSG:4326", **options: str
) -> None:
    profile = dict(driver="GTiff", compress="deflate", predictor=2, dtype=array.dtype)
    profile |= dict(zip(("count", "height", "width"), array.shape, strict=True))
    with (
        atomic_write(path) as scratch,
        quiet_open(scratch, "w", crs=crs, transform=transform, **profile, **options) as file,
    ):
        file.write(array)


@reports_errors
def main(arguments: list[str] | None = None) -> None:
    args = download_parser(
        __doc__, "data/banepa_buildings", "clone of hotosm/fAIr-models"
    ).parse_args(arguments)
    counts = prepare_banepa(args.source, args.out)
    print(f"{args.out}: " + ", ".join(f"{count} {split}" for split, count in counts.items()))


if __name__ == "__main__":
    main()
