"""Reading windows of a scene as arrays with validity masks."""

import math
import warnings
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import rasterio
import shapely
import shapely.affinity
from rasterio import features
from rasterio.crs import CRS
from rasterio.windows import Window as RasterioWindow

from hook.errors import SceneError
from hook.geo.band_reader import BandReader, PixelGrid
from hook.geo.bands import (
    image_bands,
    match_bands,
    merge_ranges,
    resolve_bands,
    unsure_bands,
    value_range,
)
from hook.geo.dates import acquisition_time
from hook.geo.measure import full_turn, grid_bounds, horizontal_crs
from hook.geo.raster import (
    GDAL_ERRORS,
    describe,
    nodata_of,
    open_dataset,
    open_raster,
    parse_nodata,
    reason,
    unused_georeference,
)
from hook.geo.side_files import identity, side_file_settings
from hook.geo.sources import local_files
from hook.geo.vector import apply_affine, only_polygons, reproject
from hook.scenes.grid import Window
from hook.scenes.journal import fingerprint_of_file

_ADDED_LATER = (".ovr", ".rrd", ".aux", "-wal", "-shm", "-journal")


class WindowData(NamedTuple):
    """One window, the input of a model.

    ``image`` (C, size, size) and ``valid`` (size, size) are padded by reflection beyond the scene;
    ``covered`` (h, w) is the part inside the scene.
    """

    image: np.ndarray
    """Native values, native dtype."""
    valid: np.ndarray
    """True where all bands are valid."""
    covered: np.ndarray
    """True where at least one band is valid: pixels that get a class in the map."""


class AreaOfInterest(NamedTuple):
    """Area to be mapped."""

    shapes: tuple[Any, ...]
    """Shapely polygons."""
    crs: CRS | None = None
    """Their CRS; None for that of the scene."""


class SceneReader:
    """Reads windows of a raster that GDAL opens (GeoTIFF, COG, JPEG 2000, VRT, ``/vsi...``).

    For the validity of pixels see :class:`hook.geo.raster.Validity`. Several files form one scene
    on the grid of the first: files on a different grid are resampled (nearest), and where files
    overlap the first valid one is used. For their bands see :func:`hook.geo.bands.match_bands`.

    Args:
        paths: File or any dataset name GDAL accepts, or several.
        indexes: Names or 1-based indexes of the bands, in the order of the model; all except alpha
            if None.
        nodata: Replaces the nodata value of the files: a number, ``"nan"``, or None to keep it.
        aoi: Area of interest: the scene is cropped to its bounding box, and pixels with centres
            outside its polygons are invalid.
        metainfo: Dataset meta of the model, see :func:`hook.geo.bands.scale_tags`.

    Attributes:
        indexes: 1-based bands of the first file.

    Raises:
        SceneError: A file is missing or unreadable, a band does not exist, the files do not fit
            together, or the area of interest is outside the scene.
        DataError: A file lacks a band, or its scale and offset tags cannot be applied.
    """

    def __init__(
        self,
        paths: str | Path | Sequence[str | Path],
        indexes: Sequence[int | str] | None = None,
        nodata: float | str | None = None,
        aoi: AreaOfInterest | None = None,
        metainfo: Mapping[str, Any] | None = None,
    ) -> None:
        paths = (paths,) if isinstance(paths, str | Path) else tuple(paths)
        if not paths:
            remedy = "name the files of the scene"
            raise SceneError("input", expected="one or more rasters", found="none", remedy=remedy)
        self.path = str(paths[0])
        self._nodata = parse_nodata(nodata, "nodata", SceneError)
        self._sources: list[rasterio.DatasetReader] = []
        self._ranges: list[np.ndarray] = []
        try:
            for path in paths:
                self._sources.append(open_dataset(str(path), SceneError))
            self._source = self._sources[0]
            self._check_bands(indexes)
            self._align(metainfo)
            self._crop(aoi)
        except BaseException:
            self.close()
            raise

    def _check_bands(self, bands: Sequence[int | str] | None) -> None:
        source = self._source
        if bands is None:
            self.indexes = image_bands(source)
        elif any(isinstance(band, str) for band in bands):
            self.indexes = resolve_bands(source, bands, "--bidx")
        else:
            self.indexes = [int(band) for band in bands]
        if not self.indexes or not all(1 <= index <= source.count for index in self.indexes):
            raise SceneError(
                f"{source.name}: bands that the file does not have",
                expected=f"1-based indexes from 1 to {source.count}",
                found=self.indexes,
                remedy="choose bands of this file",
            )
        self._bands = [self.indexes]
        unsure = []
        for other in self._sources[1:]:
            found, is_sure = match_bands(source, self.indexes, other, bands, "--bidx")
            self._bands.append(found)
            unsure += [] if is_sure else [other.name]
        if unsure:
            warnings.warn(unsure_bands(unsure, source.name), stacklevel=4)
        if self._nodata is not None and not math.isnan(self._nodata):
            for other, indexes in zip(self._sources, self._bands, strict=True):
                for index in indexes:
                    self._check_nodata(other, index)
        self.block_height = max(height for height, _ in source.block_shapes)
        moments = [acquisition_time(other) for other in self._sources]
        self.times = None if None in moments else (min(moments), max(moments))
        if source.crs is None or source.transform.is_identity:
            lost = unused_georeference(source)
            what = "not georeferenced; its outputs will not be either"
            if lost:
                what = f"not georeferenced but by {lost}, which its outputs lose; rectify it first "
                what += "(gdalwarp)"
            elif not source.transform.is_identity:
                what = "not georeferenced in a CRS; its outputs have its transform only"
            warnings.warn(f"{self.path}: {what}", stacklevel=4)

    def _align(self, metainfo: Mapping[str, Any] | None) -> None:
        """Compute the common grid of all files, and the position of each file on it."""
        first = self._source
        self.crs, transform = first.crs, first.transform
        boxes = []
        for source in self._sources:
            if source is not first and (source.crs is None) != (first.crs is None):
                raise SceneError(
                    f"{source.name}: does not fit {first.name}",
                    expected=f"CRS {first.crs}",
                    found=f"CRS {source.crs}",
                    remedy="use files that all have a CRS, or none",
                )
            boxes.append(_box_on_grid(source, self.crs, transform))
        boxes = [
            _nearest_turn(box, boxes[0], source, self.crs, transform)
            for source, box in zip(self._sources, boxes, strict=True)
        ]
        left, top = (math.floor(min(box[i] for box in boxes) + 1e-3) for i in (0, 1))
        right, bottom = (math.ceil(max(box[i] for box in boxes) - 1e-3) for i in (2, 3))
        self.height, self.width = bottom - top, right - left
        self.transform = transform @ rasterio.Affine.translation(left, top)
        self._layers = []
        for source, indexes, box in zip(self._sources, self._bands, boxes, strict=True):
            grid, origin = None, (round(box[0]) - left, round(box[1]) - top)
            place = (*origin, source.width, source.height)
            if not _fits_grid(source, self.crs, transform, box):
                grid, origin = PixelGrid(self.crs, self.transform, self.width, self.height), (0, 0)
                # Its edges may be curved on this grid.
                x, y = math.floor(box[0]) - 1, math.floor(box[1]) - 1
                place = (x - left, y - top, math.ceil(box[2]) + 1 - x, math.ceil(box[3]) + 1 - y)
            reader = BandReader(source, indexes, self._nodata, metainfo, grid=grid)
            self._layers.append(_SourceOnGrid(reader, *place, *origin))
        self.dtype = np.result_type(*(layer.reader.dtype for layer in self._layers))
        # GDAL caches the blocks of all bands of pixel-interleaved files.
        self._pixel_bytes = first.count * self.dtype.itemsize
        self.row_bytes = self.width * self._pixel_bytes
        self.take_ranges()

    def _crop(self, aoi: AreaOfInterest | None) -> None:
        """Crop the scene to the area of interest."""
        self._shapes, self._origin = None, (0, 0)
        if aoi is None:
            return
        shapes = shapely.make_valid(np.array(aoi.shapes, dtype=object))
        if self.crs is not None:
            names = dict(what="area of interest", into="the scene's CRS", error=SceneError)
            shapes = reproject(shapes, aoi.crs or self.crs, self.crs, grid_bounds(self), **names)
        pixels = only_polygons(apply_affine(shapes, ~self.transform))
        area = shapely.union_all(only_polygons(shapely.make_valid(pixels)))
        (area,) = only_polygons([area & shapely.box(0, 0, self.width, self.height)])
        if area.is_empty or not area.area > 0:
            raise SceneError(
                "area of interest: outside the scene",
                expected=f"polygons that intersect {self.path}, CRS {self.crs}",
                found=f"{len(shapes)} polygons, CRS {aoi.crs or 'not given'}",
                remedy="check the CRS of both files",
            )
        left, top, right, bottom = (round(value, 6) for value in area.bounds)
        left, top = math.floor(left), math.floor(top)
        self.height, self.width = math.ceil(bottom) - top, math.ceil(right) - left
        self.transform = self.transform @ rasterio.Affine.translation(left, top)
        self._origin = (top, left)
        self._shapes = [shapely.affinity.translate(area, -left, -top)]
        shapely.prepare(self._shapes[0])
        self.row_bytes = self.width * self._pixel_bytes

    def _check_nodata(self, source: rasterio.DatasetReader, index: int) -> None:
        if nodata_of(source, index, self._nodata) is None:
            warnings.warn(
                f"{self.path}: nodata {self._nodata:g} does not fit {source.dtypes[index - 1]} and "
                "is ignored",
                stacklevel=5,
            )

    @property
    def scale_tags(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Scale and offset tags of the first file that are applied, (C,) each; None for none."""
        return self._layers[0].reader.tags

    def read(self, window: Window, size: int) -> WindowData:
        """Read a window and pad it to ``size x size`` pixels.

        Args:
            window: Part of the scene, at most ``size`` pixels high and wide.
            size: Side of the returned arrays.

        Raises:
            SceneError: A block of the file is damaged or missing.
        """
        in_aoi = self._in_aoi(window)
        if in_aoi is not None and not in_aoi.any():
            image = np.zeros((len(self.indexes), window.height, window.width), self.dtype)
            masks = np.zeros(image.shape, bool)
        else:
            image, masks = self._read_sources(window)
            if in_aoi is not None:
                masks &= in_aoi
        valid, covered = masks.all(axis=0), masks.any(axis=0)
        below, right = size - window.height, size - window.width
        if below or right:
            image, valid = _pad(image, valid, (0, below), (0, right))
        return WindowData(image, valid, covered)

    def _in_aoi(self, window: Window) -> np.ndarray | None:
        """Return the mask of pixels in the area of interest; None if all are."""
        if self._shapes is None:
            return None
        box = shapely.box(
            window.col_off,
            window.row_off,
            window.col_off + window.width,
            window.row_off + window.height,
        )
        shape = (window.height, window.width)
        if not self._shapes[0].intersects(box):
            return np.zeros(shape, bool)
        if self._shapes[0].contains(box):
            return None
        return features.geometry_mask(
            self._shapes,
            shape,
            rasterio.Affine.translation(window.col_off, window.row_off),
            invert=True,
        )

    def _read_sources(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """Read a window from all files: values and validity (C, height, width)."""
        top, left = window.row_off + self._origin[0], window.col_off + self._origin[1]
        image = masks = None
        for number, layer in enumerate(self._layers):
            first_row, first_col = max(top, layer.row_off), max(left, layer.col_off)
            last_row = min(top + window.height, layer.row_off + layer.height)
            last_col = min(left + window.width, layer.col_off + layer.width)
            if first_row >= last_row or first_col >= last_col:
                continue
            values, valid = self._read_source(
                layer,
                RasterioWindow(
                    first_col - layer.first_col,
                    first_row - layer.first_row,
                    last_col - first_col,
                    last_row - first_row,
                ),
                window,
            )
            ranges = self._ranges[number], value_range(values, valid)
            self._ranges[number] = merge_ranges(ranges)
            if values.shape[1:] == (window.height, window.width) and image is None:
                image, masks = values, valid
            else:
                if image is None:
                    image = np.zeros((len(values), window.height, window.width), self.dtype)
                    masks = np.zeros(image.shape, bool)
                part = np.s_[
                    :, first_row - top : last_row - top, first_col - left : last_col - left
                ]
                new = valid & ~masks[part]
                image[part][new] = values[new]
                masks[part] |= new
            if masks.all():
                break
        if image is None:
            image = np.zeros((len(self.indexes), window.height, window.width), self.dtype)
            masks = np.zeros(image.shape, bool)
        return image, masks

    def _read_source(
        self, layer: "_SourceOnGrid", area: RasterioWindow, window: Window
    ) -> tuple[np.ndarray, np.ndarray]:
        """Read a part of a file: values and validity (C, height, width)."""
        try:
            # libjpeg only warns of truncated blocks and fills them with grey.
            with rasterio.Env(GDAL_ERROR_ON_LIBJPEG_WARNING=True):
                image, valid = layer.reader.read(area)
        except GDAL_ERRORS as error:
            raise SceneError(
                f"{layer.reader.source.name}: cannot be read at row {window.row_off}, column "
                f"{window.col_off}",
                expected=f"{window.height} x {window.width} readable pixels",
                found=reason(error),
                remedy="the file is damaged or incomplete; fetch or write it again",
            ) from error
        return image.astype(self.dtype, copy=False), valid

    def take_ranges(self) -> list[np.ndarray]:
        """Return the range of the values read from each file since the last call.

        See :func:`hook.geo.bands.value_range`.
        """
        taken, blank = self._ranges, np.empty((len(self.indexes), 0, 0))
        self._ranges = [value_range(blank, blank > 0) for _ in self._layers]
        return taken

    def close(self) -> None:
        """Close the files."""
        for source in self._sources:
            source.close()

    def __enter__(self) -> "SceneReader":
        return self

    def __exit__(self, *exception) -> None:
        self.close()


class CellReader:
    """Reads windows centred on the cells of a scene, for a model that returns a class per window.

    Cells are squares of pixels from the upper left corner; at the right and lower border they may
    extend beyond the scene.

    Args:
        reader: The scene.
        window: Side of a window in pixels.
        cell: Side of a cell in pixels, at most ``window``.

    Raises:
        SceneError: A cell is larger than a window.
    """

    def __init__(self, reader: SceneReader, window: int, cell: int) -> None:
        if not 1 <= cell <= window:
            raise SceneError(
                "cells",
                expected=f"1 to {window} pixels, the window's side",
                found=cell,
                remedy="choose a smaller cell or more overlap",
            )
        self._reader, self._window, self._cell = reader, window, cell
        self.height = math.ceil(reader.height / cell)
        self.width = math.ceil(reader.width / cell)
        self.crs, self.times = reader.crs, reader.times
        self.transform = reader.transform @ rasterio.Affine.scale(cell)
        self.row_bytes = reader.row_bytes
        # GDAL's cache must hold the rows of a window.
        self.block_height = reader.block_height + window

    def read(self, window: Window, size: int) -> WindowData:
        """Read the window around a cell; ``window`` is 1 x 1 in rows and columns of cells.

        Raises:
            SceneError: A block of the file is damaged or missing.
        """
        reader, side = self._reader, self._window
        margin = (side - self._cell) // 2
        top = window.row_off * self._cell - margin
        left = window.col_off * self._cell - margin
        rows = _inside(top, side, reader.height)
        columns = _inside(left, side, reader.width)
        first_row, first_col = rows[0], columns[0]
        inside = Window(first_row, first_col, rows[1] - rows[0], columns[1] - columns[0])
        image, valid, covered = reader.read(inside, max(inside.height, inside.width))
        image, valid = _pad(
            image[:, : inside.height, : inside.width],
            valid[: inside.height, : inside.width],
            (max(-top, 0), max(top + side - reader.height, 0)),
            (max(-left, 0), max(left + side - reader.width, 0)),
        )
        # Crop what was read outside the window for the reflection.
        part = np.s_[max(top - first_row, 0) :, max(left - first_col, 0) :]
        image, valid = image[(slice(None), *part)], valid[part]
        image, valid = image[:, :side, :side], valid[:side, :side]
        row, col = top + margin - first_row, left + margin - first_col
        covered = covered[row : row + self._cell, col : col + self._cell]
        return WindowData(image, valid, np.array([[covered.any()]]))

    def take_ranges(self) -> list[np.ndarray]:
        """See :meth:`SceneReader.take_ranges`."""
        return self._reader.take_ranges()

    def close(self) -> None:
        """Close the files."""
        self._reader.close()

    def __enter__(self) -> "CellReader":
        return self

    def __exit__(self, *exception) -> None:
        self.close()


class SeriesReader:
    """Reads windows of a time series: the bands of one date after those of another.

    Args:
        readers: A scene for each date, all on one grid and with as many bands.

    Raises:
        SceneError: They do not fit each other.
    """

    def __init__(self, readers: Sequence[SceneReader]) -> None:
        self._readers, first = list(readers), readers[0]
        for other in readers[1:]:
            grids = [_grid_of(one) for one in (first, other)]
            moved = ~first.transform @ other.transform  # in pixels
            corners = [(x, y) for x in (0, first.width) for y in (0, first.height)]
            shifts = [np.subtract(moved @ corner, corner) for corner in corners]
            if grids[0] != grids[1] or np.abs(shifts).max() > 1e-2:
                raise SceneError(
                    f"{other.path}: does not fit {first.path}, another date of the series",
                    expected=f"{grids[0]}, {list(first.transform)[:6]}",
                    found=f"{grids[1]}, {list(other.transform)[:6]}",
                    remedy="resample all dates to one grid (gdalwarp, rio warp --like)",
                )
        self.height, self.width = first.height, first.width
        self.crs, self.transform, self.path = first.crs, first.transform, first.path
        times = [one.times for one in readers]
        self.times = None if None in times else (min(times)[0], max(times)[1])
        self.indexes = [index for one in readers for index in one.indexes]
        self.dtype = np.result_type(*(one.dtype for one in readers))
        self.row_bytes = sum(one.row_bytes for one in readers)
        self.block_height = max(one.block_height for one in readers)

    @property
    def scale_tags(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Scale and offset tags that are applied, as of :class:`SceneReader`, of all layers."""
        tags = [one.scale_tags for one in self._readers]
        if all(one is None for one in tags):
            return None
        count = len(self._readers[0].indexes)
        none = np.ones(count), np.zeros(count)
        return tuple(map(np.concatenate, zip(*(one or none for one in tags), strict=True)))

    def read(self, window: Window, size: int) -> WindowData:
        """See :meth:`SceneReader.read`; ``valid`` is (T, size, size)."""
        parts = [one.read(window, size) for one in self._readers]
        images, valid, covered = zip(*parts, strict=True)
        images = np.concatenate(images).astype(self.dtype, copy=False)
        return WindowData(images, np.stack(valid), np.any(covered, axis=0))

    def take_ranges(self) -> list[np.ndarray]:
        """Return the ranges of all layers, as those of one file."""
        return [np.concatenate([one.take_ranges()[0] for one in self._readers], axis=1)]

    def close(self) -> None:
        """Close the files."""
        for one in self._readers:
            one.close()

    def __enter__(self) -> "SeriesReader":
        return self

    def __exit__(self, *exception) -> None:
        self.close()


def _grid_of(reader: SceneReader) -> str:
    size = f"{reader.height} x {reader.width} pixels"
    return f"{len(reader.indexes)} bands of {size}, CRS {reader.crs}"


class Halo(NamedTuple):
    """How windows of a grid are read with margins from a scene on a coarser or finer grid.

    ``give`` pixels of the grid are ``take`` pixels of the scene; one of the two is 1.
    """

    take: int
    give: int
    margin: int
    """Pixels of the scene around a window, a multiple of ``take``."""
    area: Window
    """Part of the grid that is made."""
    nodata: int | None = None
    """Value that marks invalid pixels; None: as :class:`SceneReader` does."""
    marked: int = 1
    """First bands, of which a pixel is invalid if all have that value."""


class _Span(NamedTuple):
    """What is read along an axis, in pixels."""

    first: int
    count: int
    before: int
    """Pixels without data before it."""
    repeated: int
    """Pixels after it that repeat the last one, up to the end of a cell."""
    after: int
    """Pixels without data after these."""


def _span(start: int, side: int, limit: int, take: int) -> _Span:
    """Return what is read of ``side`` pixels from ``start`` of an axis of ``limit`` pixels."""
    first, last = max(start, 0), min(start + side, limit)
    repeated = min(-last % take, start + side - last) if last == limit else 0
    return _Span(first, last - first, first - start, repeated, start + side - last - repeated)


REPEATED = 2
"""Mark of valid pixels in parts of a cell beyond the scene, which repeat its last ones."""


class HaloReader:
    """Reads windows with margins, of one size wherever they are, for a grid of other pixels.

    Beyond the scene there is no data; only cells of ``take`` pixels that it covers in part are
    filled, by repeating its last rows and columns, marked by :data:`REPEATED`.

    Args:
        reader: The scene, without an area of interest.
        halo: The grid and the margin.

    Attributes:
        height: Rows of the grid in its area.
        width: Columns.
        transform: Of the area.
    """

    def __init__(self, reader: SceneReader, halo: Halo) -> None:
        self._reader, self._halo = reader, halo
        area, pixel = halo.area, halo.take / halo.give
        self.height, self.width = area.height, area.width
        self.crs, self.times, self.indexes = reader.crs, reader.times, reader.indexes
        self.dtype = reader.dtype
        self.transform = (
            reader.transform
            @ rasterio.Affine.scale(pixel)
            @ rasterio.Affine.translation(area.col_off, area.row_off)
        )
        # In rows of the grid.
        self.row_bytes = math.ceil(reader.row_bytes * pixel)
        self.block_height = math.ceil((reader.block_height + 2 * halo.margin) / pixel)

    def read(self, window: Window, size: int) -> WindowData:
        """Read a window of ``size x size`` pixels of the grid with its margin.

        Returns:
            Image and validity, with 0, 1 and :data:`REPEATED`, (T, size, size) of a series;
            ``covered`` is the same everywhere: whether a pixel of the window itself is valid.

        Raises:
            SceneError: A block of the file is damaged or missing.
        """
        halo, reader = self._halo, self._reader
        side = size * halo.take // halo.give + 2 * halo.margin
        rows, columns = (
            _span((first + offset) * halo.take // halo.give - halo.margin, side, limit, halo.take)
            for first, offset, limit in (
                (halo.area.row_off, window.row_off, reader.height),
                (halo.area.col_off, window.col_off, reader.width),
            )
        )
        inside = Window(rows.first, columns.first, rows.count, columns.count)
        image, valid, _ = reader.read(inside, max(inside.height, inside.width))
        image = image[:, : inside.height, : inside.width]
        valid = valid[..., : inside.height, : inside.width].astype(np.uint8)
        if halo.nodata is not None:
            valid = (image[: halo.marked] != halo.nodata).any(axis=0).astype(np.uint8)
        core = (
            slice(max(halo.margin - span.before, 0), side - halo.margin - span.before)
            for span in (rows, columns)
        )
        found = bool(valid[(..., *core)].any())
        leading = ((0, 0),) * (valid.ndim - 2)
        if rows.repeated or columns.repeated:
            repeated = (0, rows.repeated), (0, columns.repeated)
            image = np.pad(image, ((0, 0), *repeated), mode="edge")
            valid = np.pad(valid, (*leading, *repeated), mode="edge")
            for part in (np.s_[..., inside.height :, :], np.s_[..., inside.width :]):
                valid[part] = np.minimum(valid[part], 1) * REPEATED
        if rows.before or rows.after or columns.before or columns.after:
            around = (rows.before, rows.after), (columns.before, columns.after)
            image = np.pad(image, ((0, 0), *around), constant_values=halo.nodata or 0)
            valid = np.pad(valid, (*leading, *around))
        return WindowData(image, valid, np.full((window.height, window.width), found))

    def take_ranges(self) -> list[np.ndarray]:
        """See :meth:`SceneReader.take_ranges`."""
        return self._reader.take_ranges()

    def close(self) -> None:
        """Close the files."""
        self._reader.close()

    def __enter__(self) -> "HaloReader":
        return self

    def __exit__(self, *exception) -> None:
        self.close()


def _inside(start: int, side: int, size: int) -> tuple[int, int]:
    """Return start and stop of the part to read of a window along an axis, for the reflection."""
    before, after = max(-start, 0), max(start + side - size, 0)
    first = min(max(start, 0), size - after if after else size)
    last = max(min(start + side, size), before)
    return max(first, 0), min(last, size)


def _pad(
    image: np.ndarray, valid: np.ndarray, rows: tuple[int, int], columns: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Pad a window by reflection."""
    if any((*rows, *columns)):
        # "symmetric" works for scenes of one pixel.
        image = np.pad(image, ((0, 0), rows, columns), mode="symmetric")
        valid = np.pad(valid, (rows, columns), mode="symmetric")
    return image, valid


class _SourceOnGrid(NamedTuple):
    """A file, the part of the scene's grid it covers, and where the grid of its reader begins."""

    reader: BandReader
    col_off: int
    row_off: int
    width: int
    height: int
    first_col: int
    first_row: int


def fingerprint_of_raster(path: str) -> dict[str, Any]:
    """Return a fingerprint of a raster without reading all of it, to detect changes.

    It has the header as GDAL gives it (:func:`hook.geo.raster.describe`) and
    :func:`fingerprint_of_file` of each local file: sources of virtual rasters, masks, world files
    and other side files. Statistics and overviews are left out, because programs add them at any
    time. For a dataset without local files (``/vsicurl/...``) it has checksums of three blocks.

    Raises:
        SceneError: It cannot be read.
    """
    found = fingerprint_of_file(path)
    files = sorted(file for file, _ in local_files([path]).values() if file.is_file())
    found["files"] = [
        fingerprint_of_file(file)
        for file in files
        if not file.name.endswith((".aux.xml", *_ADDED_LATER)) and identity(file) != identity(path)
    ]
    settings = ((file, side_file_settings(file)) for file in files if file.suffix == ".xml")
    found["settings"] = {file.name: texts for file, texts in settings if texts}
    with open_raster(path, SceneError) as source:
        found["header"] = describe(source)
        if not files:
            blocks = [block for _, block in source.block_windows(1)]
            found["sums"] = [
                zlib.crc32(source.read(1, window=block).tobytes())
                for block in (blocks[0], blocks[len(blocks) // 2], blocks[-1])
            ]
    return found


def _box_on_grid(source, crs: CRS | None, transform: rasterio.Affine) -> tuple[float, ...]:
    """Return the (left, top, right, bottom) of a file in pixels of a grid."""
    outline = apply_affine(shapely.box(0, 0, source.width, source.height), source.transform)
    if source.crs != crs:
        (outline,) = reproject([outline], source.crs, crs, what=source.name, error=SceneError)
    return apply_affine(outline, ~transform).bounds


def _nearest_turn(
    box: tuple[float, ...],
    first: tuple[float, ...],
    source: rasterio.DatasetReader,
    crs: CRS | None,
    transform: rasterio.Affine,
) -> tuple[float, ...]:
    """Return the box of a file beside that of the first one, across 180 degrees, if it fits."""
    if crs is None or not crs.is_geographic:
        return box
    turn = full_turn(horizontal_crs(crs)) / abs(transform.a or math.inf)
    shift = turn * round((first[0] + first[2] - box[0] - box[2]) / 2 / turn) if turn else 0
    moved = (box[0] + shift, box[1], box[2] + shift, box[3])
    return moved if shift and _fits_grid(source, crs, transform, moved) else box


def _fits_grid(source, crs, transform: rasterio.Affine, box: tuple[float, ...]) -> bool:
    """Whether the pixels of a file are pixels of a grid."""
    same_size = np.allclose(
        (box[2] - box[0], box[3] - box[1]), (source.width, source.height), atol=1e-2
    )
    turned = ~transform @ source.transform
    upright = np.allclose((turned.a, turned.b, turned.d, turned.e), (1, 0, 0, 1), atol=1e-6)
    aligned = np.allclose(box[:2], np.round(box[:2]), atol=1e-2)
    return bool(source.crs == crs and same_size and upright and aligned)
