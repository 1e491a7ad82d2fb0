"""Small seeded GeoTIFFs, written as real files."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin


def write_raster(path, array, crs="EPSG:32633", transform=None, nodata=None, names=None, **profile):
    """Write a (C, H, W) or (H, W) array as GeoTIFF and return its path as text."""
    array = np.asarray(array)
    array = array[None] if array.ndim == 2 else array
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if transform is None:
        transform = from_origin(500000, 5200000, 10, 10)
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        count=array.shape[0],
        height=array.shape[1],
        width=array.shape[2],
        dtype=array.dtype,
        crs=crs,
        transform=transform,
        nodata=nodata,
        **profile,
    ) as dst:
        dst.write(array)
        for index, name in enumerate(names or (), start=1):
            dst.set_band_description(index, name)
    return str(path)


def random_image(rng, shape, dtype="uint16"):
    if np.dtype(dtype).kind == "f":
        return rng.normal(size=shape).astype(dtype)
    info = np.iinfo(dtype)
    return rng.integers(max(info.min, -9000), min(info.max, 9000), shape, dtype=dtype)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(name="write_raster")
def write_raster_fixture():
    return write_raster


@pytest.fixture(name="random_image")
def random_image_fixture():
    return random_image


@pytest.fixture
def folder(tmp_path, rng):
    """Three scenes of 3 bands in one UTM zone, 60 x 90 pixels, with masks of 3 classes."""
    for number in range(3):
        transform = from_origin(500000 + 2000 * number, 5200000, 10, 10)
        write_raster(
            tmp_path / f"images/s{number}.tif",
            rng.integers(1, 4000, (3, 60, 90), dtype=np.uint16),
            transform=transform,
            names=("red", "green", "nir"),
        )
        write_raster(
            tmp_path / f"masks/s{number}.tif",
            rng.integers(0, 3, (60, 90), dtype=np.uint8),
            transform=transform,
        )
    return tmp_path
