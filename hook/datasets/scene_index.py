"""Pair scenes with their masks by TorchGeo's spatial index.

TorchGeo's ``RasterDataset``, ``VectorDataset`` and ``IntersectionDataset`` index the files by
location and find overlapping images and masks.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import geopandas
import pandas as pd
import pyproj
import shapely
from rasterio.crs import CRS
from torchgeo.datasets import IntersectionDataset, RasterDataset, VectorDataset

from hook.datasets.files import by_name, names_of, pair_name, some
from hook.datasets.grids import Grid, window_of_area
from hook.datasets.labels import Labels
from hook.datasets.scene_files import (
    MaskFile,
    Scene,
    SceneOptions,
    list_scene_files,
    read_masks,
    read_scenes,
    warn,
)
from hook.datasets.splits import choose_files, split_area, split_windows
from hook.errors import DataError
from hook.geo.raster import reading
from hook.geo.vector import is_vector_file, reproject


class PlacedFiles(RasterDataset):
    """TorchGeo index of images or raster masks.

    Args:
        files: Scenes or masks.
        first: Grid with the CRS and pixel size of the index.
    """

    def __init__(self, files: Sequence[Scene | MaskFile], first: Grid) -> None:
        self.is_image = isinstance(files[0], Scene)
        placed = [file.georeference_file for file in files]
        with reading(names_of(placed)):  # TorchGeo warps them to the grid for their extents
            super().__init__(placed, crs=CRS.from_wkt(first.crs), res=first.res)
        paths = dict(zip(placed, (file.path for file in files), strict=True))
        self.index["filepath"] = [paths[source] for source in self.index["filepath"]]


class PlacedFeatures(VectorDataset):
    """TorchGeo index of vector masks, by the tables that HOOK has read from their layers.

    Args:
        tables: Tables with features, by mask.
        first: Grid with the CRS and pixel size of the index.
    """

    def __init__(self, tables: Mapping[str, geopandas.GeoDataFrame], first: Grid) -> None:
        self.paths, self.transforms, self.label_name, self.layer = [*tables], None, None, None
        self.task, self._res = "semantic_segmentation", first.res
        crs = pyproj.CRS.from_wkt(first.crs)
        boxes = [shapely.box(*table.to_crs(crs).total_bounds) for table in tables.values()]
        always = pd.IntervalIndex.from_arrays(
            *([time] * len(tables) for time in (pd.Timestamp.min, pd.Timestamp.max)),
            closed="both",
            name="datetime",
        )
        self.index = geopandas.GeoDataFrame(
            {"filepath": self.paths}, always, geometry=boxes, crs=crs
        )


class SceneIndex:
    """The scenes of a folder with their masks.

    Args:
        options: The files and their pairing.
        bands: See :func:`hook.geo.bands.resolve_bands`.
        labels: Reader of the labels; None without masks.

    Attributes:
        scenes: The scenes of the split.
        torchgeo_dataset: TorchGeo's dataset of the images, intersected with the masks if any; None
            for pictures without a georeference.

    Raises:
        ConfigError: If options contradict each other or the files.
        DataError: If files are missing, unreadable or inconsistent.
    """

    def __init__(
        self, options: SceneOptions, bands: Sequence[str | int] | None, labels: Labels | None
    ) -> None:
        self.options, self.labels = options, labels
        files, mask_files = list_scene_files(options)
        chosen = choose_files(files, options.split, options.data_root)
        scenes = self._place_on_grid(read_scenes(chosen, mask_files, bands))
        self.torchgeo_dataset: Any = None
        if not scenes[0].grid.is_picture:
            self.torchgeo_dataset = PlacedFiles(scenes, scenes[0].grid)
        if mask_files:
            by_name = self._pairs_by_name(files, mask_files)
            if self.torchgeo_dataset is None:
                _check_pictures(files, mask_files, by_name)
            scenes = self._add_masks(scenes, mask_files, by_name)
        windows = split_windows(chosen, options.split, options.data_root)
        self.scenes = self._apply_area(scenes) if windows is None else _windows_of(scenes, windows)

    # Grids --------------------------------------------------------------------------------------

    def _place_on_grid(self, scenes: list[Scene]) -> list[Scene]:
        first, grid = scenes[0], self.options.grid
        if grid == "image":
            return scenes
        for scene in scenes[1:]:
            if grid is None and not scene.grid.is_like(first.grid):
                raise DataError(
                    "images have more than one CRS or resolution",
                    expected="one, or the option grid",
                    found=f"{first.path} ({first.grid.describe()}), "
                    f"{scene.path} ({scene.grid.describe()})",
                    remedy="set the grid to resample to, e.g. "
                    "grid=dict(crs='EPSG:32633', res=10), or grid='image' to keep the image grids",
                )
            if grid is not None and "crs" not in grid and not scene.grid.same_crs(first.grid):
                raise DataError(
                    f"{scene.path}: the CRS differs from that of the first image",
                    expected=first.grid.describe(),
                    found=scene.grid.describe(),
                    remedy="set the CRS too: grid=dict(crs=..., res=...)",
                )
        if grid is None:
            return scenes
        scenes = [scene.on_grid(_target_grid(scene, **grid)) for scene in scenes]
        warped = [scene for scene in scenes if scene.offset is None]
        if warped:
            warn(
                f"{len(warped)} of {len(scenes)} images are resampled bilinearly to "
                f"{warped[0].grid.describe()}: {names_of(scene.path for scene in warped)}"
            )
        return scenes

    # Masks --------------------------------------------------------------------------------------

    def _pairs_by_name(self, files: list[str], mask_files: list[str]) -> bool:
        if self.options.pair_by != "auto":
            return self.options.pair_by == "name"
        names, mask_names = ({pair_name(path) for path in paths} for paths in (files, mask_files))
        unique = len(mask_names) == len(mask_files) and len(names) == len(files)
        shared = names & mask_names
        return unique and bool(shared) and shared in (names, mask_names)

    def _add_masks(self, scenes: list[Scene], files: list[str], by_name: bool) -> list[Scene]:
        """Add the masks that overlap each scene in TorchGeo's intersection."""
        names = {pair_name(scene.path) for scene in scenes}
        candidates = [path for path in files if not by_name or pair_name(path) in names]
        masks = read_masks(candidates, scenes)
        # A vector file without features has no extent; paired by name it means background only.
        empty = {
            mask.path
            for mask in masks
            if mask.is_vector and not len(self.labels.table(mask.path)[1])
        }
        pairs = self._intersect(scenes, [mask for mask in masks if mask.path not in empty])
        paired, missing = [], []
        for scene in scenes:
            placed = [
                self._place_mask(scene, mask)
                for mask in masks
                if (not by_name or pair_name(mask.path) == pair_name(scene.path))
                and ((scene.path, mask.path) in pairs or (by_name and mask.path in empty))
            ]
            scene = replace(scene, masks=tuple(mask for mask in placed if mask is not None))
            complete = scene.masks or self.options.missing_masks == "background"
            (paired if complete else missing).append(scene)
        if missing:
            self._report_missing(missing, scenes, files, by_name)
        if not paired:
            raise DataError(
                "no image has a mask",
                expected="at least one pair",
                found=f"{len(scenes)} images, {len(masks)} masks",
                remedy="correct images, masks or pair_by",
            )
        self._warn_about_masks(paired)
        return paired

    def _intersect(self, scenes: list[Scene], masks: list[MaskFile]) -> set[tuple[str, str]]:
        """Return the (image, mask) paths that overlap."""
        if not masks:
            return set()
        images, first = self.torchgeo_dataset, scenes[0].grid
        if images is None:
            return {(scene.path, mask.path) for scene in scenes for mask in masks}
        if masks[0].is_vector:
            tables = {mask.path: self.labels.table(mask.path)[0] for mask in masks}
            labels = PlacedFeatures(tables, first)
        else:
            labels = PlacedFiles(masks, first)
        # Columns of their own, because TorchGeo keeps `filepath_1` and `filepath_2` up to 0.8 only.
        images.index["image"], labels.index["mask"] = images.index.filepath, labels.index.filepath
        try:
            self.torchgeo_dataset = IntersectionDataset(images, labels)
        except RuntimeError as error:
            if self.options.missing_masks == "background":
                return set()
            raise DataError(
                "images and masks do not overlap",
                expected=f"masks inside {_extent(images)} of the images",
                found=f"masks inside {_extent(labels)}",
                remedy="correct the CRS of the files, or images and masks",
            ) from error
        index = self.torchgeo_dataset.index
        return set(zip(index["image"], index["mask"], strict=True))

    def _place_mask(self, scene: Scene, mask: MaskFile) -> MaskFile | None:
        """Return the mask with its offset in the scene; None if they only touch."""
        if mask.is_vector:
            return mask
        offset = scene.grid.offset_of(mask.own)
        if offset is not None:
            row, col = offset
            touches = (
                -mask.own.height < row < scene.grid.height
                and -mask.own.width < col < scene.grid.width
            )
            return replace(mask, offset=offset) if touches else None
        if self.options.grid is None and not scene.grid.is_like(mask.own):
            raise DataError(
                "image and mask differ in CRS or resolution",
                expected="one, or the option grid",
                found=f"{scene.path} ({scene.grid.describe()}), "
                f"{mask.path} ({mask.own.describe()})",
                remedy="set grid='image' to resample masks to their image, or set a grid, e.g. "
                "grid=dict(crs='EPSG:32633', res=10)",
            )
        return mask

    def _report_missing(
        self, missing: list[Scene], scenes: list[Scene], masks: list[str], by_name: bool
    ) -> None:
        if self.options.missing_masks == "skip":
            names = names_of(scene.path for scene in missing)
            warn(f"{len(missing)} images without mask are skipped: {names}")
            return
        names = {pair_name(path) for path in masks}
        apart = [scene for scene in missing if by_name and pair_name(scene.path) in names]
        elsewhere = f" that overlaps them ({len(apart)} have one of the same name elsewhere)"
        raise DataError(
            f"{len(missing)} of {len(scenes)} images have no mask" + elsewhere * bool(apart),
            expected="a mask of the same name" if by_name else "a mask that overlaps the image",
            found=some(scene.path for scene in missing),
            remedy="add the masks, correct the CRS, remove the images from the split, or set "
            "missing_masks='skip'" + " or 'background'" * is_vector_file(masks[0]),
        )

    def _warn_about_masks(self, scenes: list[Scene]) -> None:
        """Warn about resampled masks, and about a class that is the nodata value."""
        rasters = {
            mask.path: mask for scene in scenes for mask in scene.masks if not mask.is_vector
        }
        resampled = sorted(path for path, mask in rasters.items() if mask.offset is None)
        if resampled:
            warn(
                f"{len(resampled)} masks are resampled to the grid of their images "
                f"(nearest neighbour): {names_of(resampled)}"
            )
        tags = {mask.nodata: path for path, mask in rasters.items() if mask.nodata is not None}
        for nodata, path in tags.items() if self.labels.options.mask_nodata == "tag" else ():
            if 0 <= nodata < len(self.labels.classes):
                warn(
                    f"label {nodata:g} is the nodata value of the masks ({Path(path).name}) and "
                    "is ignored; set mask_nodata=None if it is a class"
                )

    # Area ---------------------------------------------------------------------------------------

    def _apply_area(self, scenes: list[Scene]) -> list[Scene]:
        """Clip the scenes to the area of the split."""
        area = split_area(self.options.split, self.options.data_root, scenes[0].grid.crs)
        if area is None:
            return scenes
        clipped = []
        for scene in scenes:
            window, exact = window_of_area(scene.grid, area)
            if window[2] > 0 and window[3] > 0:
                clipped.append(replace(scene, window=window, area=None if exact else area))
        if not clipped:
            raise DataError(
                "no image overlaps the area of the split",
                expected=f"images that overlap {tuple(round(v, 6) for v in area.bounds)} "
                f"({CRS.from_wkt(area.crs).to_string()})",
                found=f"{len(scenes)} images inside {_extent(PlacedFiles(scenes, scenes[0].grid))}",
                remedy="correct the bounds or the crs of split",
            )
        return clipped


def _windows_of(
    scenes: Sequence[Scene], windows: Mapping[str, Sequence[tuple[int, int, int, int]]]
) -> list[Scene]:
    """Divide the scenes into the windows of the split, each a scene of its own."""
    for scene in scenes:
        for row, col, height, width in windows[scene.path]:
            rows, cols = scene.grid.size
            if min(row, col) < 0 or row + height > rows or col + width > cols:
                raise DataError(
                    f"{scene.path}: a window of the split is not inside the image",
                    expected=f"{rows} x {cols} pixels",
                    found=f"{height} x {width} from row {row}, column {col}",
                    remedy="correct x, y or size of split",
                )
    return [replace(s, window=window) for s in scenes for window in windows[s.path]]


def _check_pictures(images: Sequence[str], masks: Sequence[str], paired: bool) -> None:
    """Check that pictures without a georeference can be paired with their masks, by name."""
    for files, what in ((images, "images"), (masks, "masks")):
        by_name(((pair_name(path), path) for path in files), what)
    if not paired or is_vector_file(masks[0]):
        raise DataError(
            f"{images[0]} is not georeferenced",
            expected="a CRS and a transform, or a raster mask of the same name for each picture",
            found=f"images {names_of(images)}; masks {names_of(masks)}",
            remedy="name the masks as the pictures, and convert polygons to masks",
        )


def _target_grid(
    scene: Scene, crs: CRS | None = None, res: tuple[float, float] | None = None
) -> Grid:
    """Return the grid that a scene is resampled to: its own grid if that matches."""
    own = scene.own
    crs = crs or CRS.from_wkt(own.crs)
    xres, yres = res or own.res
    target = Grid(crs.to_wkt(), (xres, 0, 0, 0, -yres, 0), 1, 1)
    if own.same_crs(target) and own.same_res(target, 1e-6):
        return own
    outline = reproject([shapely.box(*own.bounds)], own.crs, crs, what=scene.path)
    left, bottom, right, top = outline[0].bounds
    # Aligned to multiples of the resolution, so that neighbouring scenes share a grid.
    col0, row0 = math.floor(left / xres + 1e-6), math.ceil(top / yres - 1e-6)
    width = max(math.ceil(right / xres - 1e-6) - col0, 1)
    height = max(row0 - math.floor(bottom / yres + 1e-6), 1)
    return Grid(target.crs, (xres, 0.0, col0 * xres, 0.0, -yres, row0 * yres), width, height)


def _extent(dataset: RasterDataset | VectorDataset) -> str:
    left, bottom, right, top = dataset.index.total_bounds
    crs = dataset.crs
    name = f"EPSG:{crs.to_epsg()}" if crs.to_epsg() else crs.name
    return f"({left:.6g}, {bottom:.6g}, {right:.6g}, {top:.6g}) in {name}"
