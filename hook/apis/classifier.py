"""Classify single images."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pandas as pd
import shapely
from rasterio.transform import Affine

from hook.arguments import check_int
from hook.engine.models import is_segmentation
from hook.errors import ConfigError, DataError
from hook.geo.arrays import is_array
from hook.geo.measure import metres_per_pixel
from hook.geo.vector import to_wgs84
from hook.inference.files import Prediction, predict_files
from hook.inference.models import (
    Model,
    checked_tokens,
    join_checkpoint,
    load_model,
    require_classes,
)
from hook.inference.scenes import warn_resolution_mismatch


class Classifier:
    """Classifies single images.

    Args:
        model: A loaded model, or argument of :func:`hook.apis.load_model`.
        checkpoint: Deprecated: pass the pair as ``model``.
        device: Device of a model that is not loaded yet.
        num_tokens: Tokens per image; default: the model's.
        batch_size: Images per batch.
        tta: Average over flips (``"flip"``) or flips and 90-degree rotations (``"d4"`` or True).

    Raises:
        ConfigError: An option cannot be used, or the model is a segmentation.
        CheckpointError: See :func:`hook.apis.load_model`.

    Example:
        >>> table = Classifier(("config.py", "checkpoint.pth")).predict(["a.tif", "b.tif"])
        >>> table[["file", "class", "score"]]
    """

    def __init__(
        self,
        model: Model,
        checkpoint: str | os.PathLike | None = None,
        *,
        device: str = "cpu",
        num_tokens: int | None = None,
        batch_size: int = 8,
        tta: str | bool | None = None,
    ) -> None:
        self.model = load_model(join_checkpoint(model, checkpoint), device=device)
        if is_segmentation(self.model):
            raise ConfigError(
                "the model classifies pixels, not images",
                expected="a classification",
                found="a segmentation",
                remedy="map images with SceneMapper, or 'hook map'",
            )
        require_classes(self.model)
        batch_size = check_int("batch_size", batch_size)
        if num_tokens is not None:
            num_tokens = checked_tokens(self.model, num_tokens)
        self.classes = tuple(self.model.dataset_meta["classes"])
        self._options = dict(batch_size=batch_size, num_tokens=num_tokens, tta=tta)

    def predict(
        self, images: Any, *, bidx: Sequence[int | str] | None = None, progress: bool = True
    ) -> pd.DataFrame:
        """Classify images, each as a whole.

        Args:
            images: A file, an array (bands, rows, cols) or (n, bands, rows, cols) of native values
                in the model's band order, an ``xarray.DataArray`` (band, y, x), or a list of these.
            bidx: Names or 1-based numbers of the bands in the model's order; default: the bands of
                the model's dataset meta.
            progress: Show a progress bar on a terminal or in a notebook.

        Returns:
            A row per image, in order: ``file`` (index of an array), ``class``, ``score`` (its
            probability), and ``score_<class>`` of each class. If all images are georeferenced, a
            GeoDataFrame with their footprints, in their CRS or, if these differ, in WGS 84. For an
            image without a valid pixel class and scores are missing, with a warning.

        Raises:
            DataError: There are no images, or one cannot be read or does not fit the model.
        """
        given = _as_list(images)
        found = predict_files(self.model, given, bidx=bidx, progress=progress, **self._options)
        for one in found[:1]:
            if one.geo is not None:
                size, grid = (one.geo["height"], one.geo["width"]), Affine(*one.geo["transform"])
                metres = metres_per_pixel(*size, grid, one.geo["crs"])
                warn_resolution_mismatch(self.model, one.file, metres)
        scores = np.stack([one.scores for one in found])  # N K
        table = pd.DataFrame(
            {
                "file": [
                    number if is_array(image) else str(image) for number, image in enumerate(given)
                ],
                "class": [one.label for one in found],
                "score": scores.max(axis=1),
                **{f"score_{name}": scores[:, k] for k, name in enumerate(self.classes)},
            }
        )
        footprints = _footprints(found)
        return table if footprints is None else geopandas.GeoDataFrame(table, geometry=footprints)


def _as_list(images: Any) -> list[Any]:
    """Return images as a list of single images."""
    if isinstance(images, np.ndarray) and images.ndim == 4:
        return list(images)
    if isinstance(images, str | os.PathLike) or is_array(images):
        return [images]
    if not isinstance(images, Sequence) or not all(
        isinstance(image, str | Path | os.PathLike) or is_array(image) for image in images
    ):
        raise DataError(
            "images: not an image or a list of images",
            expected="files, or arrays (bands, rows, cols)",
            found=type(images).__name__,
            remedy="pass paths, NumPy arrays or xarray.DataArrays",
        )
    return list(images)


def _footprints(found: Sequence[Prediction]) -> geopandas.GeoSeries | None:
    """Return the outlines of images in one CRS; None if one is not georeferenced."""
    if any(one.geo is None or one.geo["crs"] is None for one in found):
        return None
    outlines = []
    for one in found:
        transform = Affine(*one.geo["transform"])
        height, width = one.geo["height"], one.geo["width"]
        corners = ((0, 0), (width, 0), (width, height), (0, height))
        outlines.append(shapely.Polygon([transform * corner for corner in corners]))
    crs = list(dict.fromkeys(one.geo["crs"] for one in found))
    if len(crs) == 1:
        return geopandas.GeoSeries(outlines, crs=crs[0])
    parts = [
        to_wgs84([outline], one.geo["crs"], what=one.file)[0]
        for outline, one in zip(outlines, found, strict=True)
    ]
    return geopandas.GeoSeries(parts, crs="EPSG:4326")
