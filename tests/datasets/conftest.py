"""Small seeded GeoTIFFs, written as real files."""

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin


@pytest.fixture
def folder(tmp_path, rng, write_raster):
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


@pytest.fixture
def labelled(tmp_path):
    """A function that writes images and masks side by side, from west to east."""

    def make(masks, names=None, dtype="uint8", colours=None, bands=None, nodata=None):
        rng = np.random.default_rng(0)
        for sub in ("images", "masks"):
            (tmp_path / sub).mkdir(exist_ok=True)
        for k, mask in enumerate(masks):
            name = names[k] if names else f"tile_{k}"
            height, width = mask.shape
            grid = dict(
                driver="GTiff",
                height=height,
                width=width,
                crs="EPSG:32632",
                transform=from_origin(5e5 + 1000 * k, 5e6, 2.0, 2.0),
            )
            with rasterio.open(
                tmp_path / "images" / f"{name}.tif", "w", count=3, dtype="uint8", **grid
            ) as dst:
                dst.write(rng.integers(1, 255, (3, height, width), dtype=np.uint8))
                if bands:
                    dst.descriptions = bands
            path = tmp_path / "masks" / f"{name}.tif"
            with rasterio.open(path, "w", count=1, dtype=dtype, nodata=nodata, **grid) as dst:
                dst.write(mask.astype(dtype), 1)
                if colours:
                    dst.write_colormap(1, colours)
        return tmp_path

    return make
