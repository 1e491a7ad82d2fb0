"""Small seeded GeoTIFFs, written as real files."""

import numpy as np
import pytest
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
