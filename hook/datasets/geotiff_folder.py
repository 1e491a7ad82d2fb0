"""Folders of GeoTIFFs and their masks as one MMEngine dataset.

TorchGeo finds where images and masks lie and which belong together (``RasterDataset``,
``VectorDataset``, ``IntersectionDataset``). Pixels are read here, by whole-pixel windows of each
image's own grid: TorchGeo reads by coordinates through a warped view, and its rounding can move a
chip by a pixel or resample it, which a file that needs no resampling must not suffer.
"""

import copy
import logging
import math
import os
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pyproj
import rasterio
import rasterio.features
import rasterio.warp
import shapely
import torch
from mmengine.dataset import BaseDataset
from mmengine.logging import print_log
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.errors import CRSError, NotGeoreferencedWarning, RasterioError
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window
from torchgeo.datasets import IntersectionDataset, RasterDataset, VectorDataset

from hook.datasets.bands import parse_nodata, read_valid, resolve_bands, valid_values
from hook.datasets.files import (
    RASTER_SUFFIXES,
    VECTOR_SUFFIXES,
    check_complete,
    is_vector_file,
    list_files,
    names_of,
    open_raster,
    pair_name,
    some,
    unreadable,
)
from hook.datasets.grids import Area, Grid, clip, cover, grid_of, inside_area, window_of_area
from hook.datasets.samplers import ChipPlacer, ChipQuery, chips_per_epoch
from hook.datasets.splits import choose_files, split_area
from hook.errors import ConfigError, DataError
from hook.progress import progress_bar
from hook.registry import DATASETS

OPEN_FILES = 32
# Pixels by which GDAL may be off when it interpolates coordinates (its 0.125 moves labels; rasterio
# cannot open a warped view with 0).
WARP_TOLERANCE = 1e-4


class ImageFiles(RasterDataset):
    """Images as TorchGeo sees them.

    Args:
        placed: For each image the file that tells where it lies: itself, or its mask.
        crs: CRS of the index.
        res: Pixel size in units of that CRS.
    """

    is_image = True

    def __init__(self, placed: Mapping[str, str], crs: CRS, res: tuple[float, float]) -> None:
        super().__init__(list(placed.values()), crs=crs, res=res)
        names = {source: path for path, source in placed.items()}
        self.index["filepath"] = [names[source] for source in self.index["filepath"]]


class MaskFiles(ImageFiles):
    """Raster masks as TorchGeo sees them."""

    is_image = False


@dataclass(frozen=True)
class MaskFile:
    """A mask: its file, its grid (None for vectors), and its offset on a scene's own pixels.

    ``placed_by`` is the file that tells where it lies: itself, or its image.
    """

    path: str
    grid: Grid | None = None
    offset: tuple[int, int] | None = None
    placed_by: str = ""

    @property
    def is_vector(self) -> bool:
        """Whether it holds features rather than pixels."""
        return self.grid is None


@dataclass(frozen=True)
class Scene:
    """One image on the grid it is sampled on.

    ``own`` is the grid of the file, ``grid`` the one of the chips; ``placed_by`` is the file that
    tells where it lies: itself, or its mask.
    """

    path: str
    own: Grid
    grid: Grid
    placed_by: str
    indexes: tuple[int, ...]
    masks: tuple[MaskFile, ...] = ()
    window: tuple[int, int, int, int] = (0, 0, 0, 0)
    area: Area | None = None

    @property
    def native(self) -> bool:
        """Whether chips are taken from the file's own pixels."""
        return self.grid == self.own


def _not_georeferenced(path: str, partner: str) -> DataError:
    return DataError(
        f"{path} is not georeferenced",
        expected=f"a CRS and a transform, here or in a {partner} of the same name and size",
        found="neither",
        remedy="write them with `rio edit-info --crs ... --transform ...`",
    )


@DATASETS.register_module()
class GeoTIFFFolder(BaseDataset):
    """Folders of GeoTIFFs, with masks as rasters or as vector files, for semantic segmentation.

    Two ways to take chips:

    - ``mode='cover'``: a deterministic cover. Each scene is cut into chips side by side, the last
      ones padded; every pixel is in exactly one chip. Small scenes are padded, never skipped.
    - ``mode='random'``: chips at random places, weighted by area, whole inside the scene wherever
      it is large enough. Together with :class:`hook.datasets.RandomGeoSampler` draws are the same
      for any number of workers and ranks; with another sampler every item is drawn afresh.

    No chip crosses from one file to another. Where image and mask share a grid, their values are
    those of the files, bit for bit. Files of several CRS or resolutions need ``grid``; images are
    then resampled bilinearly, labels always by nearest neighbour, and the log says so.

    Each sample holds ``img`` (H, W, C) in native values and band order of ``metainfo['bands']``,
    ``valid`` (H, W) uint8, ``gt_seg_map`` (H, W) where there are masks (ignore index where nothing
    is known, where the image has no data, and in padding), and ``geo``: ``crs`` (WKT),
    ``transform`` (a, b, c, d, e, f) and size of the chip, ``source``, ``window`` (row, col, height,
    width of the chip in the scene; the chip may reach beyond it), ``scene_transform`` and
    ``scene_shape``.

    Args:
        images: Folder(s) or file(s) with the images; folders are searched through and through.
        masks: Folder(s) or file(s) with the masks: rasters of one band, or vector files, which are
            rasterised on the image's grid. None for images without labels.
        data_root: Folder for relative paths.
        metainfo: Dataset meta; ``classes`` is needed where there are masks.
        pipeline: Transforms.
        chip_size: Side of a chip in pixels, or (height, width).
        mode: ``'random'`` or ``'cover'``; default ``'cover'`` in test mode, else ``'random'``.
        split: Which part of the data: a list file or a list of file names (with or without folder
            and suffix); ``dict(attribute=..., value=...)`` for the images whose GeoTIFF tag has
            that value (or one of several); the same with ``file=``, a CSV whose first column names
            images, or a vector file whose polygons with that value are the split's area;
            ``dict(bounds=(minx, miny, maxx, maxy), crs=...)`` for the pixels in a box.
        grid: None where all files have one CRS and resolution; ``dict(crs=..., res=...)`` for the
            grid to resample others to; ``'image'`` to keep every image as it is and resample masks
            only.
        image_glob: Pattern(s) for image names in folders.
        mask_glob: Pattern(s) for mask names in folders.
        pair_by: ``'name'``: an image's mask has its name (endings such as ``_image`` and ``_mask``
            aside); ``'location'``: all masks where it lies; ``'auto'``: by name where the names
            allow it.
        missing_masks: What becomes of an image without a mask: ``'error'``, ``'skip'``, or
            ``'background'``.
        label_map: Class (index, name, or ``'ignore'``) for each value in the masks or in
            ``label_field``. Values that it does not name are errors.
        label_field: Attribute of vector files that holds the class (index or name).
        label: Class of every feature where there is no ``label_field``.
        background: Class where no feature lies, or ``'ignore'``.
        mask_layer: Layer of the vector files; default their first.
        all_touched: Burn every pixel that a feature touches, not only those whose centre it covers.
        mask_nodata: ``'tag'`` to ignore pixels with the masks' own nodata value, a number to ignore
            in place of it, or None where the masks have no nodata whatever their tag says.
        ignore_index: Label of pixels that count nowhere; default ``metainfo['ignore_index']``, else
            255.
        length: Chips per epoch in random mode; default as many as cover the data.
        indices: Use only these chips of the cover, or the first so many.
        test_mode: As in :class:`mmengine.dataset.BaseDataset`.
        lazy_init: As in :class:`mmengine.dataset.BaseDataset`.
        serialize_data: As in :class:`mmengine.dataset.BaseDataset`.
        max_refetch: As in :class:`mmengine.dataset.BaseDataset`.

    Raises:
        ConfigError: If options contradict each other or name an unknown class, band or attribute.
        DataError: If files are missing, unreadable, not what the config says, or do not overlap.
    """

    def __init__(
        self,
        images: str | Path | Sequence[str | Path],
        masks: str | Path | Sequence[str | Path] | None = None,
        data_root: str | None = "",
        metainfo: Mapping[str, Any] | None = None,
        pipeline: Sequence[dict | Callable] = (),
        chip_size: int | Sequence[int] = 256,
        mode: str | None = None,
        split: str | Path | Sequence[str] | Mapping[str, Any] | None = None,
        grid: str | Mapping[str, Any] | None = None,
        image_glob: str | Sequence[str] | None = None,
        mask_glob: str | Sequence[str] | None = None,
        pair_by: str = "auto",
        missing_masks: str = "error",
        label_map: Mapping[Any, int | str | None] | None = None,
        label_field: str | None = None,
        label: int | str = 1,
        background: int | str = 0,
        mask_layer: str | int | None = None,
        all_touched: bool = False,
        mask_nodata: float | str | None = "tag",
        ignore_index: int | None = None,
        length: int | None = None,
        indices: int | Sequence[int] | None = None,
        test_mode: bool = False,
        lazy_init: bool = False,
        serialize_data: bool = True,
        max_refetch: int = 1000,
    ) -> None:
        meta = dict(metainfo or {})
        if "classes" in meta:
            meta["classes"] = tuple(meta["classes"])
        if ignore_index is None:
            ignore_index = meta.get("ignore_index", 255)
        meta.setdefault("ignore_index", int(ignore_index))
        self.ignore_index = int(ignore_index)
        self.nodata = parse_nodata(meta.get("nodata"))
        self.images, self.masks = images, masks
        self.image_glob, self.mask_glob = image_glob, mask_glob
        self.split = split
        self.grid = _checked_grid(grid)
        self.chip_size = _checked_chip_size(chip_size)
        self.mode = mode or ("cover" if test_mode else "random")
        self.pair_by, self.missing_masks = pair_by, missing_masks
        for option, value, allowed in (
            ("mode", self.mode, ("random", "cover")),
            ("pair_by", pair_by, ("auto", "name", "location")),
            ("missing_masks", missing_masks, ("error", "skip", "background")),
        ):
            if value not in allowed:
                raise ConfigError(
                    f"GeoTIFFFolder: {option}={value!r}",
                    expected=" or ".join(map(repr, allowed)),
                    found=value,
                    remedy=f"correct {option}",
                )
        if length is not None and int(length) < 1:
            raise ConfigError(
                f"GeoTIFFFolder: length={length}",
                expected="at least 1 chip per epoch",
                found=length,
                remedy="correct length, or leave it out",
            )
        self.length = None if length is None else int(length)
        self.classes = meta.get("classes", ())
        self.label_field, self.mask_layer = label_field, mask_layer
        self.all_touched = all_touched
        self.mask_nodata = mask_nodata
        if masks is not None:
            if not self.classes:
                raise ConfigError(
                    "GeoTIFFFolder: metainfo names no classes",
                    expected="metainfo=dict(classes=(...))",
                    found=sorted(meta),
                    remedy="name the classes in the order of their labels",
                )
            self.label_map = (
                None
                if label_map is None
                else {
                    key: self._class_index(value, "label_map") for key, value in label_map.items()
                }
            )
            self.background = self._class_index(background, "background")
            self.label = label
        self.scenes: list[Scene] = []
        self._windows: list[tuple[int, int, int, int]] = []
        self._grid_crs: str | None = None
        self.torchgeo_dataset: RasterDataset | IntersectionDataset | None = None
        self._open_files: OrderedDict[tuple, Any] = OrderedDict()
        self._features: dict[tuple[str, str], tuple] = {}
        self._pid = os.getpid()
        super().__init__(
            metainfo=meta,
            data_root=data_root or "",
            data_prefix={},
            indices=indices,
            serialize_data=serialize_data,
            pipeline=list(pipeline),
            test_mode=test_mode,
            lazy_init=lazy_init,
            max_refetch=max_refetch,
        )

    @classmethod
    def _load_metainfo(cls, metainfo: Mapping[str, Any] | None = None) -> dict:
        # MMEngine's takes any text in the meta for the name of a file to load.
        return {**cls.METAINFO, **(metainfo or {})}

    # Building -----------------------------------------------------------------------------------

    def load_data_list(self) -> list[dict]:
        """Find the scenes and their masks, and list the chips of the deterministic cover."""
        files, mask_files = self._list_files()
        mask_names = {pair_name(path) for path in mask_files}
        image_names = [pair_name(path) for path in files]
        chosen = choose_files(files, self.split, self.data_root)
        scenes = self._build_scenes(chosen, mask_files)
        if mask_files:
            by_name = self._pairs_by_name(image_names, mask_names, mask_files)
            scenes = self._add_masks(scenes, mask_files, by_name)
        else:
            self.torchgeo_dataset = self._image_dataset(scenes)
        self.scenes = self._apply_area(scenes)
        self._windows = [_labelled_window(scene) for scene in self.scenes]
        data_list = [
            self._chip_info(index, row, col)
            for index, scene in enumerate(self.scenes)
            for row, col in cover(scene.window, self.chip_size)
        ]
        if self.length is None:
            self.length = chips_per_epoch(self.sampling_windows, self.chip_size)
        return data_list

    def _chip_info(self, index: int, row: int, col: int) -> dict:
        scene = self.scenes[index]
        info = {"scene": index, "row": row, "col": col, "img_path": scene.path}
        if scene.masks:
            info["seg_map_path"] = scene.masks[0].path
        return info

    def _list_files(self) -> tuple[list[str], list[str]]:
        files = list_files(self.images, self.data_root, self.image_glob, RASTER_SUFFIXES, "images")
        if self.masks is None:
            return files, []
        masks = list_files(
            self.masks, self.data_root, self.mask_glob, RASTER_SUFFIXES + VECTOR_SUFFIXES, "masks"
        )
        both = set(files) & set(masks)
        if both and self.mask_glob and not self.image_glob:
            files = [path for path in files if path not in both]
        elif both:
            raise ConfigError(
                "GeoTIFFFolder: files are images and masks at once",
                expected="each file one of the two",
                found=some(sorted(both)),
                remedy="separate them with image_glob and mask_glob",
            )
        if not files:
            raise DataError(
                "images: every file matches mask_glob",
                expected="at least one image",
                found=f"{len(masks)} masks",
                remedy="correct mask_glob or image_glob",
            )
        kinds = {is_vector_file(path) for path in masks}
        if len(kinds) > 1:
            raise ConfigError(
                "masks: raster and vector files side by side",
                expected="one kind",
                found=some(masks),
                remedy="choose with mask_glob, such as '*.gpkg'",
            )
        return files, masks

    def _build_scenes(self, files: list[str], mask_files: list[str]) -> list[Scene]:
        bands = self._metainfo.get("bands")
        scenes, counts, borrowed = [], {}, []
        by_name = {pair_name(path): path for path in mask_files}
        progress = progress_bar(files, desc="images", unit="file", leave=False, delay=2)
        for path in progress:
            with open_raster(path) as src:
                check_complete(src)
                indexes = tuple(resolve_bands(src, bands))
                counts.setdefault(len(indexes), path)
                grid, placed_by, shape = grid_of(src), path, src.shape
            if grid is None:
                placed_by = by_name.get(pair_name(path), "")
                grid = self._borrowed_grid(placed_by, shape)
                if grid is None:
                    raise _not_georeferenced(path, "mask")
                borrowed.append(path)
            scenes.append(Scene(path, grid, grid, placed_by, indexes))
        if borrowed:
            print_log(
                f"GeoTIFFFolder: {len(borrowed)} of {len(files)} images are not georeferenced and "
                f"take the grid of the mask of their name and size: {names_of(borrowed)}",
                logger="current",
                level=logging.WARNING,
            )
        if len(counts) > 1:
            raise DataError(
                "images differ in their band count",
                expected="one band count, or metainfo['bands'] to choose",
                found=some(f"{path}: {count}" for count, path in sorted(counts.items())),
                remedy="name the bands in metainfo['bands'], or separate the files with image_glob",
            )
        return self._place_on_grid(scenes)

    def _borrowed_grid(self, path: str, shape: tuple[int, int]) -> Grid | None:
        if not path or is_vector_file(path):
            return None
        with open_raster(path) as src:
            return grid_of(src) if src.shape == shape else None

    def _place_on_grid(self, scenes: list[Scene]) -> list[Scene]:
        if self.grid is None:
            first = scenes[0]
            for scene in scenes[1:]:
                if not (scene.grid.same_crs(first.grid) and scene.grid.same_res(first.grid)):
                    raise DataError(
                        "images have more than one CRS or resolution",
                        expected="one, or the option grid",
                        found=f"{first.path} ({first.grid.describe()}), "
                        f"{scene.path} ({scene.grid.describe()})",
                        remedy="name the grid to resample to, such as "
                        "grid=dict(crs='EPSG:32633', res=10), or grid='image' to keep every image "
                        "as it is",
                    )
            placed = scenes
        elif self.grid == "image":
            placed = scenes
        else:
            placed = [self._warped_scene(scene) for scene in scenes]
        warped = [scene for scene in placed if not scene.native]
        if warped:
            print_log(
                f"GeoTIFFFolder: {len(warped)} of {len(placed)} images are resampled bilinearly to "
                f"{warped[0].grid.describe()}: {names_of(scene.path for scene in warped)}",
                logger="current",
                level=logging.WARNING,
            )
        return [
            replace(scene, window=(0, 0, scene.grid.height, scene.grid.width)) for scene in placed
        ]

    def _warped_scene(self, scene: Scene) -> Scene:
        own = scene.grid
        crs = CRS.from_user_input(self.grid.get("crs") or CRS.from_wkt(own.crs))
        res = self.grid.get("res")
        xres, yres = own.res if res is None else res
        target = Grid(crs.to_wkt(), (xres, 0, 0, 0, -yres, 0), 1, 1)
        if "crs" not in self.grid and self._grid_crs is not None:
            if not own.same_crs(Grid(self._grid_crs, own.transform, 1, 1)):
                raise DataError(
                    f"{scene.path}: another CRS than the images before it",
                    expected=Grid(self._grid_crs, own.transform, 1, 1).describe(),
                    found=own.describe(),
                    remedy="name the CRS too: grid=dict(crs=..., res=...)",
                )
        self._grid_crs = crs.to_wkt()
        if own.same_crs(target) and own.same_res(target, 1e-6):
            return scene
        try:
            left, bottom, right, top = rasterio.warp.transform_bounds(
                CRS.from_wkt(own.crs), crs, *own.bounds, densify_pts=21
            )
        except (CRSError, RasterioError) as error:
            raise DataError(
                f"{scene.path} cannot be projected to {crs.to_string()}",
                expected="an image inside the area of use of grid's CRS",
                found=" ".join(str(error).split()),
                remedy="choose another CRS in grid",
            ) from error
        # Snapped to multiples of the resolution, so that neighbours share one grid.
        col0, row0 = math.floor(left / xres + 1e-6), math.ceil(top / yres - 1e-6)
        width = max(math.ceil(right / xres - 1e-6) - col0, 1)
        height = max(row0 - math.floor(bottom / yres + 1e-6), 1)
        grid = Grid(crs.to_wkt(), (xres, 0.0, col0 * xres, 0.0, -yres, row0 * yres), width, height)
        return replace(scene, grid=grid)

    # Masks --------------------------------------------------------------------------------------

    def _class_index(self, value: Any, option: str) -> int:
        """Turn a class index, a class name or 'ignore' into a label."""
        if value is None or value == "ignore" or value == self.ignore_index:
            return self.ignore_index
        if isinstance(value, str) and not value.lstrip("-").isdigit():
            folded = [name.casefold() for name in self.classes]
            if value.casefold() in folded:
                return folded.index(value.casefold())
            raise ConfigError(
                f"{option}: unknown class name {value!r}",
                expected=f"one of {', '.join(self.classes)}, or 'ignore'",
                found=value,
                remedy=f"correct {option} or metainfo['classes']",
            )
        if not isinstance(value, str | int | np.integer) and not (
            isinstance(value, float | np.floating) and float(value).is_integer()
        ):
            raise ConfigError(
                f"{option}: {value!r} is no class",
                expected="a class index, a class name or 'ignore'",
                found=value,
                remedy=f"correct {option}",
            )
        if not 0 <= int(value) < len(self.classes):
            raise ConfigError(
                f"{option}: no class {int(value)}",
                expected=f"0 to {len(self.classes) - 1} ({', '.join(self.classes)})",
                found=value,
                remedy=f"correct {option}, or name all classes in metainfo['classes']",
            )
        return int(value)

    def _pairs_by_name(
        self, image_names: list[str], mask_names: set[str], masks: list[str]
    ) -> bool:
        if self.pair_by != "auto":
            return self.pair_by == "name"
        unique = len(mask_names) == len(masks) and len(set(image_names)) == len(image_names)
        same = set(image_names) & mask_names
        return unique and bool(same) and (same == mask_names or same == set(image_names))

    def _image_dataset(self, scenes: list[Scene]) -> RasterDataset:
        first = scenes[0].grid
        placed = {scene.path: scene.placed_by for scene in scenes}
        return ImageFiles(placed, CRS.from_wkt(first.crs), first.res)

    def _mask_dataset(self, masks: list[MaskFile], first: Grid) -> RasterDataset | VectorDataset:
        if not masks[0].is_vector:
            placed = {mask.path: mask.placed_by for mask in masks}
            return MaskFiles(placed, CRS.from_wkt(first.crs), first.res)
        return VectorDataset(
            [mask.path for mask in masks],
            crs=pyproj.CRS.from_wkt(first.crs),
            res=first.res,
            label_name=self.label_field,
            layer=self.mask_layer,
        )

    def _add_masks(self, scenes: list[Scene], masks: list[str], by_name: bool) -> list[Scene]:
        """Tell each scene its masks, by TorchGeo's intersection of the two."""
        is_vector = is_vector_file(masks[0])
        if by_name:
            names = {pair_name(scene.path) for scene in scenes}
            masks = [path for path in masks if pair_name(path) in names]
        described, empty = self._describe_masks(masks, scenes)
        pairs = self._intersect(scenes, [described[path] for path in masks if path not in empty])
        paired, missing = [], []
        for scene in scenes:
            name = pair_name(scene.path)
            mine = [
                described[path]
                for path in masks
                if (not by_name or pair_name(path) == name)
                and ((scene.path, path) in pairs or (by_name and path in empty))
            ]
            mine = [placed for mask in mine if (placed := self._place_mask(scene, mask))]
            if mine:
                paired.append(replace(scene, masks=tuple(mine)))
            elif self.missing_masks == "background":
                paired.append(scene)
            else:
                missing.append(scene)
        if missing and self.missing_masks == "error":
            apart = [
                scene.path
                for scene in missing
                if by_name and any(pair_name(path) == pair_name(scene.path) for path in masks)
            ]
            raise DataError(
                f"{len(missing)} of {len(scenes)} images have no mask"
                + (
                    f" that overlaps them ({len(apart)} have one of their name elsewhere)"
                    * bool(apart)
                ),
                expected="a mask of the same name" if by_name else "a mask where the image lies",
                found=some(scene.path for scene in missing),
                remedy="add the masks, correct the CRS, leave the images out of the split, or set "
                "missing_masks='skip'" + (" or 'background'" * is_vector),
            )
        if missing:
            print_log(
                f"GeoTIFFFolder: {len(missing)} images without mask are left out: "
                f"{names_of(scene.path for scene in missing)}",
                logger="current",
                level=logging.WARNING,
            )
        if not paired:
            raise DataError(
                "no image has a mask",
                expected="at least one pair",
                found=f"{len(scenes)} images, {len(masks)} masks",
                remedy="correct images, masks or pair_by",
            )
        self._log_resampled_masks(paired)
        return paired

    def _describe_masks(
        self, masks: list[str], scenes: list[Scene]
    ) -> tuple[dict[str, MaskFile], set[str]]:
        described, empty = {}, set()
        by_name = {pair_name(scene.path): scene for scene in scenes}
        for path in progress_bar(masks, desc="masks", unit="file", leave=False, delay=2):
            if is_vector_file(path):
                described[path] = MaskFile(path)
                if not len(self._features_of(path, scenes[0].grid.crs)[0]):
                    empty.add(path)
                continue
            with open_raster(path) as src:
                check_complete(src)
                if src.count != 1:
                    raise DataError(
                        f"{path}: a mask of {src.count} bands",
                        expected="one band of class labels",
                        found=f"{src.count} bands of {src.dtypes[0]}",
                        remedy="convert colours to class indexes, or correct mask_glob",
                    )
                grid, placed_by, shape = grid_of(src), path, src.shape
            if grid is None:
                scene = by_name.get(pair_name(path))
                if scene is None or (scene.own.height, scene.own.width) != shape:
                    raise _not_georeferenced(path, "image")
                grid, placed_by = scene.own, scene.placed_by
            described[path] = MaskFile(path, grid, placed_by=placed_by)
        return described, empty

    def _intersect(self, scenes: list[Scene], masks: list[MaskFile]) -> set[tuple[str, str]]:
        images = self._image_dataset(scenes)
        self.torchgeo_dataset = images
        if not masks:
            return set()
        labels = self._mask_dataset(masks, scenes[0].grid)
        try:
            both = IntersectionDataset(images, labels)
        except RuntimeError as error:
            if self.missing_masks == "background":
                return set()
            raise DataError(
                "images and masks do not overlap",
                expected=f"masks inside {_extent(images)} of the images",
                found=f"masks inside {_extent(labels)}",
                remedy="correct the CRS of the files, or images and masks",
            ) from error
        self.torchgeo_dataset = both
        index = both.index
        return set(zip(index["filepath_1"], index["filepath_2"], strict=True))

    def _place_mask(self, scene: Scene, mask: MaskFile) -> MaskFile | None:
        """Tell where a mask lies on a scene's grid; None where they only touch."""
        if mask.is_vector:
            return mask
        offset = scene.grid.offset_of(mask.grid)
        if offset is not None:
            row, col = offset
            touches = (
                row < scene.grid.height
                and col < scene.grid.width
                and row + mask.grid.height > 0
                and col + mask.grid.width > 0
            )
            return replace(mask, offset=offset) if touches else None
        mixed = not (scene.grid.same_crs(mask.grid) and scene.grid.same_res(mask.grid))
        if mixed and self.grid is None:
            raise DataError(
                "image and mask have another CRS or resolution",
                expected="one, or the option grid",
                found=f"{scene.path} ({scene.grid.describe()}), "
                f"{mask.path} ({mask.grid.describe()})",
                remedy="set grid='image' to resample masks to their image, or name a grid such as "
                "grid=dict(crs='EPSG:32633', res=10)",
            )
        return mask

    def _log_resampled_masks(self, scenes: list[Scene]) -> None:
        resampled = sorted(
            {
                mask.path
                for scene in scenes
                for mask in scene.masks
                if not mask.is_vector and mask.offset is None
            }
        )
        if resampled:
            print_log(
                f"GeoTIFFFolder: {len(resampled)} masks are resampled to the grid of their images "
                f"(nearest neighbour): {names_of(resampled)}",
                logger="current",
                level=logging.WARNING,
            )
        tagged: dict[float, str] = {}
        for scene in scenes:
            for mask in scene.masks[:1]:
                if mask.is_vector or self.mask_nodata != "tag":
                    return
                with self._raster(mask.path) as src:
                    if src.nodata is not None and 0 <= src.nodata < len(self.classes):
                        tagged.setdefault(src.nodata, mask.path)
            if tagged:
                break
        for value, path in tagged.items():
            print_log(
                f"GeoTIFFFolder: label {value:g} is the nodata value of the masks "
                f"({Path(path).name}) and is ignored; set mask_nodata=None if it is a class",
                logger="current",
                level=logging.WARNING,
            )

    def _features_of(self, path: str, crs: str) -> tuple[np.ndarray, np.ndarray, shapely.STRtree]:
        """Load a vector file once: geometries in ``crs``, their labels, and a spatial index."""
        key = (path, crs)
        if key in self._features:
            return self._features[key]
        try:
            if path.lower().endswith(".parquet"):
                table = gpd.read_parquet(path)
            else:
                layer = {} if self.mask_layer is None else {"layer": self.mask_layer}
                table = gpd.read_file(path, **layer)
        except Exception as error:
            # pyogrio, fiona, pyarrow and GDAL each have exceptions of their own.
            raise unreadable(path, error, "a vector file") from error
        if self.label_field is not None and self.label_field not in table.columns:
            raise ConfigError(
                f"{path} has no attribute {self.label_field!r}",
                expected="label_field to be one of: "
                + ", ".join(str(name) for name in table.columns if name != "geometry"),
                found=self.label_field,
                remedy="correct label_field",
            )
        table = table[~(table.geometry.isna() | table.geometry.is_empty)]
        if len(table) and table.crs is None:
            raise DataError(
                f"{path} has no CRS",
                expected="a coordinate reference system",
                found="none",
                remedy="add it (a .prj file for a shapefile)",
            )
        labels = self._feature_labels(path, table)
        if len(table):
            table = table.to_crs(crs)
        shapes = np.asarray(table.geometry.values, dtype=object)
        self._features[key] = (shapes, labels, shapely.STRtree(shapes))
        return self._features[key]

    def _feature_labels(self, path: str, table: gpd.GeoDataFrame) -> np.ndarray:
        if self.label_field is None:
            return np.full(len(table), self._class_index(self.label, "label"), dtype=np.int64)
        labels = []
        for value in table[self.label_field]:
            if isinstance(value, np.generic):
                value = value.item()
            try:
                labels.append(self._mapped(value))
            except (KeyError, ConfigError) as error:
                known = self.label_map or self.classes
                raise DataError(
                    f"{path}: {self.label_field}={value!r} is no known class",
                    expected=", ".join(map(str, known)),
                    found=some(sorted({str(each) for each in table[self.label_field]})),
                    remedy="correct metainfo['classes'], or map the values with label_map",
                ) from error
        return np.asarray(labels, dtype=np.int64)

    def _mapped(self, value: Any) -> int:
        if self.label_map is None:
            if value is None or value == "ignore":
                raise KeyError(value)
            return self._class_index(value, self.label_field or "label")
        if value in self.label_map:
            return self.label_map[value]
        as_text = {str(key): index for key, index in self.label_map.items()}
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        return as_text[str(value)]

    # Area ---------------------------------------------------------------------------------------

    def _apply_area(self, scenes: list[Scene]) -> list[Scene]:
        area = split_area(self.split, self.data_root, scenes[0].grid.crs)
        if area is None:
            return scenes
        cut = []
        for scene in scenes:
            window, exact = window_of_area(scene.grid, area)
            if window[2] > 0 and window[3] > 0:
                cut.append(replace(scene, window=window, area=None if exact else area))
        if not cut:
            raise DataError(
                "no image lies in the area of the split",
                expected=f"images that reach into {tuple(round(v, 6) for v in area.bounds)} "
                f"({CRS.from_wkt(area.crs).to_string()})",
                found=f"{len(scenes)} images inside {_extent(self._image_dataset(scenes))}",
                remedy="correct the bounds or the crs of split",
            )
        return cut

    # Sampling -----------------------------------------------------------------------------------

    @property
    def sampling_windows(self) -> list[tuple[int, int, int, int]]:
        """(row, col, height, width) per scene from which random chips are taken.

        Where raster masks cover only a part of an image, it is the part around them.
        """
        return self._windows

    def random_query(self) -> ChipQuery:
        """Draw one random chip, weighted by area, from PyTorch's global random numbers."""
        windows = self.sampling_windows
        areas = torch.tensor([height * width for _, _, height, width in windows]).double()
        scene = int(torch.multinomial(areas, 1))
        return ChipQuery(scene, *ChipPlacer(windows[scene], self.chip_size).draw())

    def __len__(self) -> int:
        """Return the chips of an epoch: drawn ones in random mode, else those of the cover."""
        chips = super().__len__()
        return self.length if self.mode == "random" else chips

    def get_data_info(self, idx: int | ChipQuery) -> dict:
        """Tell which chip an index or a query means, without reading it.

        Args:
            idx: Index of a chip, or a query of :class:`hook.datasets.RandomGeoSampler`. In random
                mode an index stands for a chip drawn at random.

        Returns:
            dict with ``scene``, ``row``, ``col``, ``img_path``, ``seg_map_path`` and
            ``sample_idx``.
        """
        if not self._fully_initialized:
            self.full_init()
        if not isinstance(idx, tuple) and self.mode == "cover":
            return super().get_data_info(idx)
        if not isinstance(idx, tuple) and not -len(self) <= idx < len(self):
            raise IndexError(idx)  # else a plain loop over the dataset would never end
        query = ChipQuery(*idx) if isinstance(idx, tuple) else self.random_query()
        info = self._chip_info(*query)
        info["sample_idx"] = query.scene if isinstance(idx, tuple) else int(idx)
        return info

    def prepare_data(self, idx: int | ChipQuery) -> Any:
        """Read a chip and send it through the pipeline."""
        return self.pipeline(self.load_sample(idx))

    def load_sample(self, idx: int | ChipQuery) -> dict[str, Any]:
        """Read a chip.

        Args:
            idx: Index, or query of a sampler.

        Returns:
            The sample dictionary described at the class.

        Raises:
            DataError: If a file cannot be read or holds labels outside the range.
        """
        results = self.get_data_info(idx)
        scene = self.scenes[results.pop("scene")]
        row, col = results.pop("row"), results.pop("col")
        height, width = self.chip_size
        image, valid = self._read_image(scene, row, col)
        inside = np.zeros((height, width), dtype=bool)
        inside[clip(row, col, (height, width), scene.window)[0]] = True
        if scene.area is not None:
            inside &= inside_area(scene.grid, scene.area, row, col, (height, width))
        valid &= inside
        # Not even the pixels of another split may reach the model through its receptive field.
        image[:, ~inside] = 0
        results.update(
            img=np.ascontiguousarray(image.transpose(1, 2, 0)),
            valid=valid.astype(np.uint8),
            seg_fields=["valid"],
            img_shape=(height, width),
            ori_shape=(height, width),
            reduce_zero_label=False,
            dataset_meta=self._metainfo,
            geo={
                "crs": scene.grid.crs,
                "transform": tuple(scene.grid.window_affine(row, col))[:6],
                "width": width,
                "height": height,
                "source": scene.path,
                "window": (row, col, height, width),
                "scene_transform": scene.grid.transform,
                "scene_shape": (scene.grid.height, scene.grid.width),
            },
        )
        if self.masks is not None:
            labels = self._read_labels(scene, row, col)
            labels[~valid] = self.ignore_index
            small = len(self.classes) <= 255 and 0 <= self.ignore_index <= 255
            results["gt_seg_map"] = labels.astype(np.uint8 if small else np.int32)
            results["seg_fields"] = ["gt_seg_map", "valid"]
        return results

    # Reading ------------------------------------------------------------------------------------

    @contextmanager
    def _raster(
        self, path: str, own: Grid | None = None, grid: Grid | None = None, **vrt: Any
    ) -> Iterator[Any]:
        """Open a raster, or its view on another grid; kept open for the next chip."""
        if self._pid != os.getpid():
            # A forked worker shares file positions with its parent: it opens files of its own.
            self._open_files, self._pid = OrderedDict(), os.getpid()
        key = (path, grid)
        try:
            if key not in self._open_files:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", NotGeoreferencedWarning)
                    src = rasterio.open(path)
                if grid is not None:
                    src = WarpedVRT(
                        src,
                        src_crs=CRS.from_wkt(own.crs),
                        src_transform=own.affine,
                        crs=CRS.from_wkt(grid.crs),
                        transform=grid.affine,
                        width=grid.width,
                        height=grid.height,
                        **vrt,
                    )
                self._open_files[key] = src
                while len(self._open_files) > OPEN_FILES:
                    self._open_files.popitem(last=False)[1].close()
            self._open_files.move_to_end(key)
            yield self._open_files[key]
        except (RasterioError, CRSError) as error:
            raise unreadable(path, error) from error

    def _read_image(self, scene: Scene, row: int, col: int) -> tuple[np.ndarray, np.ndarray]:
        """Read (C, H, W) values and (H, W) validity; zero and False beyond the scene's window."""
        height, width = self.chip_size
        part, window = clip(row, col, (height, width), scene.window)
        indexes = list(scene.indexes)
        if scene.native:
            with self._raster(scene.path) as src:
                values = src.read(indexes, window=window)
                known = read_valid(src, indexes, values, window, self.nodata)
        else:
            values, known = self._read_warped(scene, window)
        image = np.zeros((len(indexes), height, width), dtype=values.dtype)
        valid = np.zeros((height, width), dtype=bool)
        image[:, part[0], part[1]] = values
        valid[part] = known
        return image, valid

    def _read_warped(self, scene: Scene, window: Window) -> tuple[np.ndarray, np.ndarray]:
        with self._raster(scene.path) as src:
            nodata = src.nodata if self.nodata is None else self.nodata
        if nodata is None:
            options = {"add_alpha": True}
        else:
            options = {"src_nodata": nodata, "nodata": nodata}
        indexes = list(scene.indexes)
        with self._raster(
            scene.path,
            scene.own,
            scene.grid,
            resampling=Resampling.bilinear,
            tolerance=WARP_TOLERANCE,
            **options,
        ) as vrt:
            values = vrt.read(indexes, window=window)
            if nodata is None:
                valid = valid_values(values, None) & (vrt.dataset_mask(window=window) > 0)
            else:
                valid = read_valid(vrt, indexes, values, window)
        return values, valid

    def _read_labels(self, scene: Scene, row: int, col: int) -> np.ndarray:
        """Read (H, W) labels; the ignore index where no mask knows better."""
        if not scene.masks or scene.masks[0].is_vector:
            return self._rasterise(scene, row, col)
        labels = np.full(self.chip_size, self.ignore_index, dtype=np.int64)
        known = np.zeros(self.chip_size, dtype=bool)
        for mask in scene.masks:
            values, part, valid = self._read_mask(scene, mask, row, col)
            if values is None:
                continue
            decoded = self._decode(values, valid, mask.path)
            fresh = valid & ~known[part]
            labels[part][fresh] = decoded[fresh]
            known[part] |= fresh
        return labels

    def _read_mask(
        self, scene: Scene, mask: MaskFile, row: int, col: int
    ) -> tuple[np.ndarray | None, tuple[slice, slice], np.ndarray | None]:
        nodata = None if self.mask_nodata in (None, "tag") else float(self.mask_nodata)
        if mask.offset is not None:
            top, left = mask.offset
            area = (top, left, mask.grid.height, mask.grid.width)
            part, window = clip(row, col, self.chip_size, area)
            if window.width <= 0 or window.height <= 0:
                return None, part, None
            window = Window(
                window.col_off - left, window.row_off - top, window.width, window.height
            )
            with self._raster(mask.path) as src:
                values = src.read(1, window=window)
                valid = self._valid_labels(src, values, window, nodata)
            return values, part, valid
        part, window = clip(row, col, self.chip_size, (0, 0, scene.grid.height, scene.grid.width))
        with self._raster(mask.path) as src:
            tag = src.nodata
        value = tag if self.mask_nodata == "tag" else nodata
        if value is None:
            options = {"add_alpha": True, "src_nodata": None, "nodata": None}
        else:
            options = {"src_nodata": value, "nodata": value}
        with self._raster(
            mask.path,
            mask.grid,
            scene.grid,
            resampling=Resampling.nearest,
            tolerance=WARP_TOLERANCE,
            **options,
        ) as vrt:
            values = vrt.read(1, window=window)
            valid = vrt.dataset_mask(window=window) > 0
        return values, part, valid

    def _valid_labels(
        self, src: Any, values: np.ndarray, window: Window, nodata: float | None
    ) -> np.ndarray:
        if self.mask_nodata == "tag":
            return read_valid(src, [1], values[None], window)
        return valid_values(values[None], nodata)

    def _decode(self, values: np.ndarray, valid: np.ndarray, path: str) -> np.ndarray:
        """Turn the values of a raster mask into labels."""
        num_classes = len(self.classes)
        found = np.unique(values[valid])
        if found.dtype.kind == "f" and not np.array_equal(found, np.round(found)):
            raise DataError(
                f"{path}: the mask holds no class labels",
                expected="whole numbers",
                found=some(f"{value:g}" for value in found),
                remedy="use a mask with one class per pixel",
            )
        table = {}
        wrong = []
        for value in found.tolist():
            if self.label_map is None:
                label = int(value)
                if label != self.ignore_index and not 0 <= label < num_classes:
                    wrong.append(label)
            else:
                try:
                    label = self._mapped(value)
                except KeyError:
                    wrong.append(int(value))
                    continue
            table[value] = label
        if wrong:
            expected = (
                f"0 to {num_classes - 1} ({num_classes} classes), or {self.ignore_index} to ignore"
                if self.label_map is None
                else f"the values of label_map: {some(self.label_map)}"
            )
            raise DataError(
                f"{path}: labels outside the range",
                expected=expected,
                found=some(int(value) for value in found.tolist()),
                remedy="map the values with label_map, such as {1: 0, 2: 1, 0: 'ignore'}, "
                "or name all classes in metainfo['classes']",
            )
        labels = np.full(values.shape, self.ignore_index, dtype=np.int64)
        for value, label in table.items():
            labels[valid & (values == value)] = label
        return labels

    def _rasterise(self, scene: Scene, row: int, col: int) -> np.ndarray:
        """Burn the features of a scene's vector masks into (H, W) labels; later ones lie on top."""
        height, width = self.chip_size
        affine = scene.grid.window_affine(row, col)
        corners = [affine * corner for corner in ((0, 0), (width, 0), (width, height), (0, height))]
        outline = shapely.Polygon(corners)
        burned: list[tuple[Any, int]] = []
        for mask in scene.masks:
            shapes, labels, tree = self._features_of(mask.path, scene.grid.crs)
            hits = np.sort(tree.query(outline))
            burned += [(shapes[hit], int(labels[hit])) for hit in hits]
        labels = np.full((height, width), self.background, dtype=np.int32)
        if burned:
            rasterio.features.rasterize(
                burned, out=labels, transform=affine, all_touched=self.all_touched
            )
        return labels.astype(np.int64)

    # Copies for workers -------------------------------------------------------------------------

    def __getstate__(self) -> dict:
        # Open files and loaded features stay behind: a worker opens its own.
        return {**self.__dict__, "_open_files": OrderedDict(), "_features": {}}

    def __deepcopy__(self, memo: dict) -> "GeoTIFFFolder":
        clone = type(self).__new__(type(self))
        memo[id(self)] = clone
        for key, value in self.__getstate__().items():
            clone.__dict__[key] = copy.deepcopy(value, memo)
        return clone

    def _copy_without_annotation(self, memo: dict | None = None) -> "GeoTIFFFolder":
        clone = type(self).__new__(type(self))
        for key, value in self.__getstate__().items():
            if key not in ("data_list", "data_address", "data_bytes"):
                clone.__dict__[key] = copy.deepcopy(value, memo or {})
        return clone


# Helpers ----------------------------------------------------------------------------------------


def _checked_chip_size(chip_size: int | Sequence[int]) -> tuple[int, int]:
    size = (chip_size, chip_size) if isinstance(chip_size, int) else tuple(chip_size)
    if len(size) != 2 or any(not isinstance(side, int) or side < 1 for side in size):
        raise ConfigError(
            f"GeoTIFFFolder: chip_size={chip_size!r}",
            expected="a positive whole number of pixels, or (height, width)",
            found=chip_size,
            remedy="correct chip_size",
        )
    return size


def _checked_grid(grid: str | Mapping[str, Any] | None) -> str | dict[str, Any] | None:
    if grid is None or grid == "image":
        return grid
    problem = None
    if not isinstance(grid, Mapping) or not grid or set(grid) - {"crs", "res"}:
        problem = grid
    else:
        checked: dict[str, Any] = {}
        try:
            if grid.get("crs") is not None:
                checked["crs"] = CRS.from_user_input(grid["crs"])
            res = grid.get("res")
            if res is not None:
                pair = (res, res) if isinstance(res, int | float) else tuple(res)
                checked["res"] = tuple(float(side) for side in pair)
                if len(pair) != 2 or min(checked["res"]) <= 0:
                    problem = grid
        except (CRSError, TypeError, ValueError) as error:
            problem = f"{dict(grid)} ({error})"
        if problem is None and checked:
            return checked
    raise ConfigError(
        "GeoTIFFFolder: grid",
        expected="dict(crs='EPSG:...', res=<pixel size> or (x, y)), or 'image'",
        found=problem if problem is not None else grid,
        remedy="correct grid",
    )


def _extent(dataset: RasterDataset | VectorDataset) -> str:
    left, bottom, right, top = dataset.index.total_bounds
    crs = dataset.crs
    name = f"EPSG:{crs.to_epsg()}" if crs.to_epsg() else crs.name
    return f"({left:.6g}, {bottom:.6g}, {right:.6g}, {top:.6g}) in {name}"


def _labelled_window(scene: Scene) -> tuple[int, int, int, int]:
    if not scene.masks or scene.masks[0].is_vector:
        return scene.window
    top, left, bottom, right = math.inf, math.inf, -math.inf, -math.inf
    for mask in scene.masks:
        if mask.offset is None:
            return scene.window
        row, col = mask.offset
        top, left = min(top, row), min(left, col)
        bottom, right = max(bottom, row + mask.grid.height), max(right, col + mask.grid.width)
    row, col, height, width = scene.window
    top, left = max(top, row), max(left, col)
    bottom, right = min(bottom, row + height), min(right, col + width)
    if bottom <= top or right <= left:
        return scene.window
    return top, left, bottom - top, right - left
