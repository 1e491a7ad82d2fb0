"""Split labelled images into parts for training, validation and test."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import shapely

from hook.arguments import bad_argument, check_number
from hook.datasets.files import read_features
from hook.datasets.grids import Grid
from hook.datasets.inspection import LabelledImages
from hook.datasets.scene_files import Scene
from hook.datasets.splits import choose_files, match_names
from hook.errors import ConfigError, DataError
from hook.geo.staging import StagedFiles
from hook.geo.vector import is_vector_file, read_vectors, reproject

PARTS = ("train", "val", "test")


def split_folder(found: LabelledImages, root: Path) -> None:
    """Split a folder into train, val and test, keeping neighbouring images together.

    Uses the lists ``splits/{train,val,test}.txt`` if they exist. Otherwise three or more images are
    split by location (60 / 15 / 25 %), a single one into strips (58 / 12 / 30 %); of two images the
    smaller one is the test part.

    Args:
        found: Images and labels; ``splits`` and ``how`` are set.
        root: The folder, with the images in ``images/``.

    Raises:
        DataError: If one of the lists is missing.
    """
    lists = {part: root / "splits" / f"{part}.txt" for part in PARTS}
    missing = [part for part, path in lists.items() if not path.is_file()]
    if not missing:
        found.splits = {part: dict(split=str(path)) for part, path in lists.items()}
        found.how = "lists of the folder"
        return
    if len(missing) < 3:
        raise DataError(
            f"{root / 'splits'} is not complete",
            expected="train.txt, val.txt and test.txt",
            found=", ".join(f"{part}.txt" for part in PARTS if part not in missing),
            remedy="add the missing lists, or remove the folder to split by location",
        )
    count = len(found.scenes)
    if count >= 3:
        val, test = (max(1, round(share * count)) for share in (0.15, 0.25))
        parts = dict(zip(PARTS, _cut_images(found, (count - val - test, val, test)), strict=True))
        folder = root / "images"
        found.splits = {
            part: dict(split=[Path(path).relative_to(folder).as_posix() for path in paths])
            for part, paths in parts.items()
        }
        counts = ", ".join(f"{len(paths)} {part}" for part, paths in parts.items())
        found.how = f"by location: {counts} images"
        return
    large, *small = sorted(found.scenes, key=lambda scene: -scene.grid.width * scene.grid.height)
    strips = _strips(large.grid, (0.85, 1.0) if small else (0.58, 0.70, 1.0))
    found.splits = {
        part: dict(images=[large.path], split=strip)
        for part, strip in zip(PARTS, strips, strict=False)
    }
    if small:
        found.splits["test"] = dict(images=[small[0].path], split=None)
    found.how = f"by area: strips of {Path(large.path).name}"


def hold_out(found: LabelledImages, fraction: float, val: Any, work_dir: Path) -> None:
    """Split images into a training part and a held-out part.

    Args:
        found: Images and labels; ``splits`` and ``how`` are set.
        fraction: Fraction held out if ``val`` is None: images at one end of the region, or an area
            at one end of a single image.
        val: Held-out part: image names or a file that lists them, or an area: a vector file, a
            table of polygons, or ``dict(bounds=..., crs=...)``.
        work_dir: Folder for the areas.

    Raises:
        ConfigError: If ``val`` is invalid, or leaves nothing to train on.
        DataError: If a file cannot be read.
    """
    images = found.images
    if val is None:
        check_share("val_fraction", fraction)
        if len(images) == 1:
            train, held = _cut_image(found, fraction)
            found.splits = dict(train=dict(split=train), val=dict(split=held))
            found.how = f"by area: {100 * fraction:g} % of {Path(images[0]).name}"
            return
        count = min(max(1, round(fraction * len(images))), len(images) - 1)
        train, held = _cut_images(found, (len(images) - count, count))
        how = "name" if found.scenes[0].grid.is_picture else "location"
        found.how = f"by {how}: {len(train)} train, {len(held)} val images"
    elif _is_area(val):
        (work_dir / "arrays").mkdir(exist_ok=True)
        found.splits = _write_areas(found, _polygons(val), work_dir / "arrays" / "split.gpkg")
        found.how = "by the given area"
        return
    else:
        if isinstance(val, str | Path):
            held = choose_files(images, str(val), "")
        elif isinstance(val, Iterable):
            held = sorted(match_names([str(name) for name in val], images, "val"))
        else:
            raise bad_argument("val", val, "names of images, a file that lists them, or an area")
        train = [path for path in images if path not in held]
        if not train:
            raise ConfigError(
                "val holds out every image",
                expected="images left to train on",
                found=f"{len(held)} of {len(images)}",
                remedy="name fewer images, or an area",
            )
        found.how = f"as requested: {len(train)} train, {len(held)} val images"
    found.splits = dict(train=dict(images=train), val=dict(images=held))


def check_share(name: str, value: Any) -> float:
    """Check the fraction of the images that is held out.

    Raises:
        ConfigError: If it is not a number above 0 and below 1.
    """
    remedy = f"correct {name}: a model must be evaluated on data it was not trained on"
    return check_number(name, value, above=0, below=1, remedy=remedy)


# ------------------------------------------------------------------------------- by location
def _cut_images(found: LabelledImages, counts: Sequence[int]) -> list[list[str]]:
    """Split the images, ordered along the longer axis of the region, into parts."""
    if found.scenes[0].grid.is_picture:  # without a place; neighbours often follow each other
        names = sorted(found.images)
        return [part.tolist() for part in np.split(np.array(names), np.cumsum(counts)[:-1])]
    lon, lat = np.array([_centre(scene.grid) for scene in found.scenes]).T
    lon -= 360 * np.rint((lon - lon[0]) / 360)  # images on both sides of 180 degrees
    centres = np.column_stack([lon * np.cos(np.radians(lat)), lat])
    axis = int(np.ptp(centres, axis=0).argmax())
    order = np.lexsort((centres[:, 1 - axis], centres[:, axis]))
    parts = np.split(order, np.cumsum(counts)[:-1])
    return [[found.images[index] for index in part] for part in parts]


def _centre(grid: Grid) -> tuple[float, float]:
    (box,) = reproject([shapely.box(*grid.bounds)], grid.crs, "EPSG:4326", what="an image")
    west, south, east, north = box.bounds
    return (west + east) / 2, (south + north) / 2


def _strips(
    grid: Grid, shares: Sequence[float], box: Sequence[float] | None = None
) -> list[dict[str, Any]]:
    """Split the bounds of an image, or ``box``, along the longer side at cumulative shares."""
    left, bottom, right, top = map(float, grid.bounds if box is None else box)
    wide = grid.width >= grid.height if box is None else right - left >= top - bottom
    strips, start = [], 0.0
    for end in shares:
        if wide:
            part = (left + start * (right - left), bottom, left + end * (right - left), top)
        else:
            part = (left, top - end * (top - bottom), right, top - start * (top - bottom))
        strips.append(dict(bounds=part, crs=grid.crs))
        start = end
    return strips


def _cut_image(found: LabelledImages, fraction: float) -> list[dict[str, Any]]:
    """Hold out one end of a single image, or of its labelled part."""
    scene, share = found.scenes[0], 1 - fraction
    if found.options.get("background") != "ignore" or not is_vector_file(found.masks[0]):
        return _strips(scene.grid, (share, 1.0))
    # Sparse polygons: the fraction refers to the labelled area, not to the image.
    left, bottom, right, top = bounds = scene.grid.bounds
    layer, shapes = found.options.get("mask_layer"), []
    for mask in found.masks:
        if not len(table := read_features(mask, layer)):
            continue
        shapes += [*reproject(table.geometry, table.crs, scene.grid.crs, bounds, what=mask)]
    inside = [shape for shape in shapes if shape.intersects(shapely.box(*bounds))]
    if len(inside) < 2:
        raise DataError(
            f"{scene.path}: too few polygons to hold some out",
            expected="two or more polygons on the image",
            found=f"{len(inside)} of {len(shapes)}",
            remedy="draw more, correct the CRS of the labels, or pass val",
        )
    west, south, east, north = shapely.total_bounds(inside)
    left, bottom = max(left, west), max(bottom, south)
    right, top = min(right, east), min(top, north)
    if right - left >= top - bottom:
        along = [(shape.centroid.x - left) / (right - left) for shape in inside]
    else:
        along = [(top - shape.centroid.y) / (top - bottom) for shape in inside]
    order = np.argsort(along)
    areas = np.cumsum([inside[index].area for index in order])
    last = min(int(np.searchsorted(areas, share * areas[-1])), len(order) - 2)
    share = float(np.mean([along[index] for index in order[last : last + 2]]))
    return _strips(scene.grid, (share, 1.0), (left, bottom, right, top))


# ---------------------------------------------------------------------------------- by area
def _is_area(val: Any) -> bool:
    if isinstance(val, Mapping | geopandas.GeoDataFrame | geopandas.GeoSeries):
        return True
    return isinstance(val, str | Path) and is_vector_file(val)


def _polygons(val: Any) -> geopandas.GeoSeries:
    """Read the held-out area as polygons with a CRS."""
    if isinstance(val, Mapping):
        try:
            box = shapely.box(*(float(value) for value in val["bounds"]))
            shapes = geopandas.GeoSeries([box], crs=val["crs"])
        except Exception as error:  # errors of pyproj and shapely
            raise ConfigError(
                "val is not an area",
                expected="dict(bounds=(minx, miny, maxx, maxy), crs='EPSG:...')",
                found=f"{dict(val)} ({error})",
                remedy="correct val",
            ) from None
    else:
        table = val
        if isinstance(val, str | Path):
            table = read_vectors(val, geometries=("Polygon",))
        shapes = table.geometry
    shapes = shapes[~(shapes.isna() | shapes.is_empty)]
    if shapes.crs is None or not len(shapes) or not (shapes.area > 0).all():
        raise DataError(
            "val is not an area",
            expected="polygons with a CRS",
            found=f"{len(shapes)} shapes, CRS {shapes.crs}",
            remedy="pass polygons, and set their CRS with set_crs",
        )
    return shapes


def _write_areas(found: LabelledImages, held: geopandas.GeoSeries, file: Path) -> dict[str, Any]:
    """Write the training area and the held-out area as polygons, for the data set to read."""
    crs = found.scenes[0].grid.crs

    def footprint(scene: Scene) -> Any:
        return reproject([shapely.box(*scene.grid.bounds)], scene.grid.crs, crs, what=scene.path)[0]

    covered = shapely.union_all([footprint(scene) for scene in found.scenes])
    held = shapely.union_all(reproject(held, held.crs, crs, covered.bounds, what="val"))
    parts = dict(train=covered.difference(held), val=covered.intersection(held))
    for part, area in parts.items():
        if area.area == 0:
            raise ConfigError(
                "val holds out everything" if part == "train" else "val is outside the images",
                expected="an area that covers a part of the images",
                found=f"{100 * parts['val'].area / covered.area:.0f} % of them covered",
                remedy="correct val, or its CRS",
            )
    table = geopandas.GeoDataFrame(dict(split=list(parts)), geometry=list(parts.values()), crs=crs)
    with StagedFiles(overwrite=True) as files:
        table.to_file(files.add(file))
        files.commit()
    return {part: dict(split=dict(file=str(file), attribute="split", value=part)) for part in parts}
