from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin


@pytest.fixture
def write_scene(tmp_path):
    """A function that writes an array (C, H, W) as a GeoTIFF and returns its path."""

    def write(values: np.ndarray, name: str = "scene.tif", **options) -> Path:
        count, height, width = values.shape
        profile = {
            "driver": "GTiff",
            "count": count,
            "height": height,
            "width": width,
            "dtype": values.dtype,
            "crs": "EPSG:32645",
            "transform": from_origin(300000, 3000000, 0.5, 0.5),
        }
        with rasterio.open(tmp_path / name, "w", **{**profile, **options}) as target:
            target.write(values)
        return tmp_path / name

    return write


@pytest.fixture
def softmax_of_bands():
    """A pixelwise model whose classes are the bands; invalid pixels are the model's to mend."""

    def predict(windows: np.ndarray, valid: np.ndarray) -> np.ndarray:
        values = np.where(valid[:, None], windows, 0).astype(np.float32)
        values = np.exp(values - values.max(axis=1, keepdims=True))
        return values / values.sum(axis=1, keepdims=True)

    return predict
