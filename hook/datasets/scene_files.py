"""Image and mask files of a folder, and their bands and grids."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import shapely
from mmengine.logging import print_log
from rasterio import DatasetReader
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.errors import CRSError

from hook.datasets.files import by_name, list_files, names_of, pair_name, some
from hook.datasets.grids import Area, Grid, grid_of, projected_polygons
from hook.errors import ConfigError, DataError
from hook.geo.bands import image_bands, match_bands, resolve_bands, scale_tags, unsure_bands
from hook.geo.raster import (
    PICTURE_SUFFIXES,
    RASTER_SUFFIXES,
    check_complete,
    open_raster,
    unused_georeference,
)
from hook.geo.vector import VECTOR_SUFFIXES, apply_affine, is_vector_file, reproject
from hook.progress import progress_bar

PathLike = str | Path


@dataclass(frozen=True)
class SceneOptions:
    """Files of images and masks, and their pairing; see :class:`hook.datasets.GeoTIFFFolder`."""

    images: PathLike | Sequence[PathLike]
    masks: PathLike | Sequence[PathLike] | None = None
    data_root: str = ""
    split: PathLike | Sequence[str] | Mapping[str, Any] | None = None
    grid: str | Mapping[str, Any] | None = None
    image_glob: str | Sequence[str] | None = None
    mask_glob: str | Sequence[str] | None = None
    pair_by: str = "auto"
    missing_masks: str = "error"

    def __post_init__(self) -> None:
        check_choice("pair_by", self.pair_by, ("auto", "name", "location"))
        check_choice("missing_masks", self.missing_masks, ("error", "skip", "background"))
        object.__setattr__(self, "grid", _checked_grid(self.grid))


@dataclass(frozen=True)
class MaskFile:
    """A mask file.

    Attributes:
        path: The file.
        own: Its grid; None for vector files.
        georeference_file: File with the georeference: the mask, or its image.
        nodata: Its nodata value.
        offset: (row, col) of its first pixel in the scene, None if it must be resampled.
        indexes: 1-based bands.
    """

    path: str
    own: Grid | None = None
    georeference_file: str = ""
    nodata: float | None = None
    offset: tuple[int, int] | None = None
    indexes: tuple[int, ...] = (1,)
    resampling = Resampling.nearest

    @property
    def is_vector(self) -> bool:
        """Whether the file contains features rather than pixels."""
        return self.own is None


@dataclass(frozen=True)
class Scene:
    """An image, the grid of its chips, and its masks.

    Attributes:
        path: The file.
        own: Grid of the file.
        georeference_file: File with the georeference: the image, or its mask.
        indexes: 1-based bands in the model's order.
        grid: Grid of the chips.
        window: (row, col, height, width) of the split in ``grid``.
        area: Area of the split, if it is not exactly ``window``.
        masks: Its masks. Features of later masks, but pixels of earlier masks take precedence.
    """

    path: str
    own: Grid
    georeference_file: str
    indexes: tuple[int, ...]
    grid: Grid
    window: tuple[int, int, int, int]
    area: Area | None = None
    masks: tuple[MaskFile, ...] = ()
    resampling = Resampling.bilinear

    @property
    def offset(self) -> tuple[int, int] | None:
        """(0, 0) if chips are windows of the file, None if it must be resampled."""
        return (0, 0) if self.grid == self.own else None

    def outline(self, crs: str) -> shapely.Geometry:
        """Return the part of the split in a CRS (WKT)."""
        row, col, height, width = self.window
        shape = apply_affine(shapely.box(0, 0, width, height), self.grid.window_affine(row, col))
        if self.area is not None:
            shape &= shapely.union_all(projected_polygons(self.area, self.grid))
        return reproject([shape], self.grid.crs, crs, what=self.path)[0]

    def on_grid(self, grid: Grid) -> "Scene":
        """Return the scene on the given grid."""
        return replace(self, grid=grid, window=(0, 0, grid.height, grid.width))


def warn(text: str) -> None:
    """Log a warning about a folder."""
    print_log(f"GeoTIFFFolder: {text}", logger="current", level=logging.WARNING)


def check_choice(option: str, value: Any, allowed: Sequence[str]) -> None:
    """Raise :class:`~hook.errors.ConfigError` if the value of an option is not allowed."""
    if value not in allowed:
        raise ConfigError(
            f"GeoTIFFFolder: {option}={value!r}",
            expected=" or ".join(map(repr, allowed)),
            found=value,
            remedy=f"correct {option}",
        )


def _checked_grid(grid: Any) -> str | dict[str, Any] | None:
    if grid is None or grid == "image":
        return grid
    try:
        checked = {key: value for key, value in grid.items() if value is not None}
        if "crs" in checked:
            checked["crs"] = CRS.from_user_input(checked["crs"])
        if "res" in checked:
            res = checked["res"]
            xres, yres = (res, res) if isinstance(res, int | float) else res
            checked["res"] = float(xres), float(yres)
            if min(checked["res"]) <= 0:
                raise ValueError("res must be positive")
        if not checked or set(checked) - {"crs", "res"}:
            raise ValueError(f"keys: {', '.join(grid) or 'none'}")
    except (AttributeError, CRSError, TypeError, ValueError) as error:
        raise ConfigError(
            "GeoTIFFFolder: grid",
            expected="dict(crs='EPSG:...', res=<pixel size> or (x, y)), or 'image'",
            found=f"{grid} ({error})",
            remedy="correct grid",
        ) from error
    return checked


def list_scene_files(options: SceneOptions) -> tuple[list[str], list[str]]:
    """Return the sorted paths of images and masks; masks are all rasters or all vector files.

    Raises:
        ConfigError: If a file is image and mask at once, or rasters and vectors are mixed.
        DataError: If there are no files.
    """
    root, image_glob, mask_glob = options.data_root, options.image_glob, options.mask_glob
    files = list_files(options.images, root, image_glob, RASTER_SUFFIXES, "images")
    if options.masks is None:
        return files, []
    suffixes = RASTER_SUFFIXES + VECTOR_SUFFIXES
    masks = list_files(options.masks, root, mask_glob, suffixes, "masks")
    both = set(files) & set(masks)
    if both and (image_glob or not mask_glob):
        raise ConfigError(
            "GeoTIFFFolder: files are images and masks at once",
            expected="each file either image or mask",
            found=some(sorted(both)),
            remedy="separate them with image_glob and mask_glob",
        )
    files = [path for path in files if path not in both]
    if not files:
        raise DataError(
            "images: every file matches mask_glob",
            expected="at least one image",
            found=f"{len(masks)} masks",
            remedy="correct mask_glob or image_glob",
        )
    check_one_kind(masks, "masks", "select with mask_glob, e.g. '*.gpkg'")
    return files, masks


def check_one_kind(masks: Sequence[PathLike], option: str, remedy: str) -> None:
    """Check that masks are all rasters or all vector files.

    Raises:
        ConfigError: If they are mixed.
    """
    if len({is_vector_file(path) for path in masks}) > 1:
        raise ConfigError(
            f"{option}: raster and vector files are mixed",
            expected="one kind",
            found=some(masks),
            remedy=remedy,
        )


def read_scenes(
    files: Sequence[str], mask_files: Sequence[str], bands: Sequence[str | int] | None
) -> list[Scene]:
    """Read the headers of images.

    An image without georeference gets the grid of its mask; if no image has either, PNG and JPEG
    files get a grid of pixels (:meth:`hook.datasets.grids.Grid.of_picture`).

    Args:
        files: The images.
        mask_files: Masks to search for one of the same name and size.
        bands: See :func:`hook.geo.bands.resolve_bands`.

    Returns:
        The scenes on their own grids, without masks.

    Raises:
        DataError: If a file cannot be read or has no georeference, or band counts differ.
    """
    scenes, counts, borrowed, unsure, pictures = [], {}, [], [], []
    rasters: dict[str, str] | None = None
    with open_raster(files[0]) as first:
        for path in progress_bar(files, desc="images", unit="file", leave=False, delay=2):
            with open_raster(path) as src:
                check_complete(src)
                indexes = resolve_bands(src, bands)
                if scenes and (bands is not None or src.count == first.count):
                    indexes, is_sure = match_bands(first, scenes[0].indexes, src, bands)
                    unsure += [] if is_sure else [path]
                grid, shape = grid_of(src), src.shape
                is_picture = Path(path).suffix.lower() in PICTURE_SUFFIXES
                if is_picture and src.colorinterp[0].name == "palette":
                    raise DataError(
                        f"{path}: a picture with a colour table",
                        expected="an image whose values are brightness, such as red, green, blue",
                        found="numbers of colours",
                        remedy="convert it to RGB, or correct images or image_glob",
                    )
                is_picture &= not unused_georeference(src)
            counts.setdefault(len(indexes), path)
            georeference_file = path
            if grid is None:
                if rasters is None:
                    pairs = ((pair_name(p), p) for p in mask_files if not is_vector_file(p))
                    rasters = by_name(pairs, "masks")
                georeference_file = rasters.get(pair_name(path))
                if georeference_file is not None:
                    with open_raster(georeference_file) as src:
                        grid = grid_of(src) if src.shape == shape else None
                if grid is None and not is_picture:
                    raise _not_georeferenced(path, "mask")
                (borrowed if grid is not None else pictures).append(path)
                grid = grid or Grid.of_picture(*shape[::-1])
            scene = Scene(path, grid, georeference_file or path, tuple(indexes), grid, ())
            scenes.append(scene.on_grid(grid))
    if 0 < len(pictures) < len(scenes):
        raise _not_georeferenced(pictures[0], "mask")
    if unsure:
        warn(unsure_bands(unsure, files[0]))
    if borrowed:
        warn(
            f"{len(borrowed)} of {len(files)} images are not georeferenced and use the grid of "
            f"the mask of the same name and size: {names_of(borrowed)}"
        )
    if len(counts) > 1:
        raise DataError(
            "images differ in their band count",
            expected="one band count, or a selection in metainfo['bands']",
            found=some(f"{path}: {count}" for count, path in sorted(counts.items())),
            remedy="name the bands in metainfo['bands'], or separate the files with image_glob",
        )
    return scenes


def read_masks(files: Sequence[str], scenes: Sequence[Scene]) -> list[MaskFile]:
    """Read the headers of masks; a mask without georeference gets the grid of its image.

    Args:
        files: Raster or vector files.
        scenes: The scenes.

    Returns:
        The masks, without ``offset``.

    Raises:
        DataError: If a file cannot be read, has no georeference, or has several bands.
    """
    masks = []
    images: dict[str, Scene] | None = None
    for path in progress_bar(files, desc="masks", unit="file", leave=False, delay=2):
        if is_vector_file(path):
            masks.append(MaskFile(path))
            continue
        with open_raster(path) as src:
            check_complete(src)
            check_mask_format(src)
            if len(image_bands(src)) != 1:
                raise DataError(
                    f"{path}: a mask with {src.count} bands",
                    expected="one band of class labels",
                    found=f"{src.count} bands of {src.dtypes[0]}",
                    remedy="convert colours to class indexes, or correct mask_glob",
                )
            if scale_tags(src, [1]) is not None:
                raise DataError(
                    f"{path}: a mask with scale or offset tags",
                    expected="class labels as stored",
                    found=f"scale {src.scales[0]:g}, offset {src.offsets[0]:g}",
                    remedy="remove the tags from a copy: gdal_translate -a_scale 1 -a_offset 0",
                )
            grid, shape, nodata = grid_of(src), src.shape, src.nodata
        georeference_file = path
        if grid is None:
            if images is None:
                images = by_name(((pair_name(one.path), one) for one in scenes), "images")
            scene = images.get(pair_name(path))
            if scene is not None and scene.own.is_picture and scene.own.size != shape:
                raise DataError(
                    f"{path}: a mask of another size than its image",
                    expected=f"{scene.own.height} x {scene.own.width} pixels, as {scene.path}",
                    found=f"{shape[0]} x {shape[1]} pixels",
                    remedy="correct one of them; a photograph may be turned by its EXIF tag",
                )
            if scene is None or scene.own.size != shape:
                raise _not_georeferenced(path, "image")
            grid, georeference_file = scene.own, scene.georeference_file
        masks.append(MaskFile(path, grid, georeference_file, nodata))
    return masks


def check_mask_format(source: DatasetReader) -> None:
    """Check that a mask is not stored as JPEG, which changes labels at the edges of classes.

    Raises:
        DataError: If it is.
    """
    if source.driver == "JPEG":
        raise DataError(
            f"{source.name}: a mask in JPEG, which does not keep exact values",
            expected="PNG or GeoTIFF",
            found="JPEG",
            remedy="write the original labels as PNG",
        )


def _not_georeferenced(path: str, partner: str) -> DataError:
    with open_raster(path) as src:
        found = unused_georeference(src)
    return DataError(
        f"{path} is not georeferenced",
        expected=f"a CRS and a transform, here or in a {partner} of the same name and size",
        found=found or "neither",
        remedy="rectify it (gdalwarp)"
        if found
        else "write them with `rio edit-info --crs ... --transform ...`",
    )
