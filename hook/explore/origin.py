"""Whether regions and labels are of a scene."""

import hashlib
import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import shapely
from pyproj import CRS
from rasterio import Affine, features
from rasterio.windows import Window

from hook.errors import DataError
from hook.explore.picture import ScenePicture
from hook.geo.vector import apply_affine
from hook.regions.table import Regions
from hook.scenes.reader import fingerprint_of_raster

_SAMPLES, _SAMPLE_BYTES = 16, 1 << 16
_CHECKED = 8  # regions whose pixels are read
_TOLERANCE = 1e-3  # of statistics, relative
_NUMBERS = ("pixels", "area_m2", "score")  # fields, beside mean_* and std_*


def digest_of_scene(path: str) -> str:
    """Return a checksum of a raster: its header, sizes of its files, and samples of their bytes.

    It does not depend on the name, the folder and the time of the file.
    """
    found = fingerprint_of_raster(path)
    for part in (found, *found["files"]):
        part.pop("name", None), part.pop("time", None)
    digest = hashlib.sha256(json.dumps(found, sort_keys=True, default=str).encode())
    if (file := Path(path)).is_file():
        size = file.stat().st_size
        with file.open("rb") as opened:
            for place in np.linspace(0, max(size - _SAMPLE_BYTES, 0), _SAMPLES).astype(int):
                opened.seek(int(place))
                digest.update(opened.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def digest_of_file(path: str | Path) -> str:
    """Return the checksum of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_regions(
    table: Regions,
    bounds: np.ndarray,
    scene: str,
    crs: CRS | None,
    grid: Affine,
    picture: ScenePicture,
) -> None:
    """Check that regions are those of a scene, by their CRS, place, sizes and values.

    The pixels of a few regions are read, and their number and the means of bands compared with the
    fields of the regions, as far as there are any.

    Args:
        table: The regions.
        bounds: (N, 4) their bounds in columns and rows of the scene.
        scene: Name of the scene.
        crs: Its CRS.
        grid: Its transform.
        picture: The scene.

    Raises:
        DataError: They are not, have no embeddings, some are not polygons, or a field that has to
            have numbers has not.
    """
    table.require_embeddings()
    _check_polygons(table)
    _check_numbers(table)
    remedy = "explore the scene the regions were made of, or make regions of this one (--model)"
    if (table.crs is None) != (crs is None) or (crs is not None and table.crs != crs):
        raise DataError(
            f"{table.source}: regions in a different CRS than {scene}",
            expected=crs.to_string() if crs else "no CRS",
            found=table.crs.to_string() if table.crs else "no CRS",
            remedy=remedy,
        )
    left, top = bounds[:, :2].min(axis=0).round(2).tolist()
    right, bottom = bounds[:, 2:].max(axis=0).round(2).tolist()
    if min(left, top) < 0 or right > picture.width or bottom > picture.height:
        raise DataError(
            f"{table.source}: regions beyond {scene}",
            expected=f"columns 0 to {picture.width}, rows 0 to {picture.height} of the scene",
            found=f"columns {left:.10g} to {right:.10g}, rows {top:.10g} to {bottom:.10g}",
            remedy=remedy,
        )
    names = table.fields.column_names
    bands = [name for name in names if name.startswith("mean_")]
    if "pixels" not in names or not bands:
        return
    chosen = np.random.default_rng(0).permutation(len(table))[:_CHECKED]
    wanted = np.array([table.fields[name].take(chosen).to_numpy() for name in bands], float)
    pixels = table.fields["pixels"].take(chosen).to_numpy()
    shapes = apply_affine(table.geometry[chosen], ~grid)
    counts, means = zip(*(_measure(picture, shape) for shape in shapes), strict=True)
    means = np.array(means).T  # of all bands of the scene, as they are and with its tags applied
    scales, offsets = picture.tags
    means = np.vstack([means, means * scales[:, np.newaxis] + offsets[:, np.newaxis]])
    close = np.isclose(wanted[:, np.newaxis], means, rtol=_TOLERANCE, equal_nan=True)
    known = np.isfinite(wanted).all(axis=0) & np.isfinite(means).all(axis=0)
    if (pixels != counts).any() or not close[:, :, known].all(axis=2).any(axis=1).all():
        raise DataError(
            f"{table.source}: regions of a different scene than {scene}",
            expected=f"regions with the pixels and means of bands {', '.join(picture.bands)}",
            found=f"region {chosen[0]}: {pixels[0]:.0f} pixels, {bands[0]} {wanted[0, 0]:.6g}"
            + f"; the scene has {counts[0]} pixels, means "
            + ", ".join(f"{mean:.6g}" for mean in means[: len(scales), 0]),
            remedy=remedy,
        )


def _check_polygons(table: Regions) -> None:
    flat = (shapely.get_dimensions(table.geometry) == 2) & ~shapely.is_empty(table.geometry)
    if not flat.all():
        region = int(flat.argmin())
        raise DataError(
            f"{table.source}: regions without a polygon",
            expected="a polygon for each region",
            found=f"{table.geometry[region]} for region {region}",
            remedy="write the regions of the scene again with 'hook regions'",
        )


def _check_numbers(table: Regions) -> None:
    for field in table.fields.schema:
        is_number = pa.types.is_integer(field.type) or pa.types.is_floating(field.type)
        if (field.name in _NUMBERS or field.name.startswith(("mean_", "std_"))) and not is_number:
            raise DataError(
                f"{table.source}: field {field.name}",
                expected="numbers",
                found=str(field.type),
                remedy="rename or remove the field, or write the regions again with 'hook regions'",
            )


def _measure(picture: ScenePicture, shape: shapely.Geometry) -> tuple[int, np.ndarray]:
    """Count the pixels of a polygon, and return the mean of each band, NaN if some lack data."""
    left, top, right, bottom = np.rint(shape.bounds).astype(int).tolist()
    left, top = max(left, 0), max(top, 0)
    right, bottom = min(right, picture.width), min(bottom, picture.height)
    window = Window(left, top, max(right - left, 1), max(bottom - top, 1))
    place = Affine.translation(left, top)
    inside = features.geometry_mask([shape], (window.height, window.width), place, invert=True)
    values, valid = picture.read(window)
    means = values[:, inside].astype(float).mean(axis=1) if inside.any() else math.nan
    return int(inside.sum()), np.where(valid[:, inside].all(), means, math.nan)
