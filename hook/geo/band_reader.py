"""Reading bands with their validity, in the units of their tags, on any grid."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyproj
import pyproj.exceptions
from affine import Affine
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.io import DatasetReader
from rasterio.warp import reproject
from rasterio.windows import Window

from hook.errors import DataError
from hook.geo.bands import rescale, scale_tags
from hook.geo.raster import Validity, alpha_bands, can_warp, finite, warped

_MAX_PIXELS = 2**24  # of a file, read at once to be resampled
# Error in pixels that GDAL may make when it interpolates coordinates (its default of 0.125 moves
# pixels; rasterio cannot open a warped view with 0).
_TOLERANCE = 1e-4


class PixelGrid(NamedTuple):
    """CRS, transform and size of a grid of pixels."""

    crs: CRS | None
    transform: Affine
    width: int
    height: int


class BandReader:
    """Reads bands of a raster with their validity, on its own or on another grid.

    Values are those of the scale and offset tags, see :func:`scale_tags`. On another grid, nearest
    neighbours keep their values and validity; other methods use the valid pixels of each band.

    Args:
        source: Open raster.
        indexes: 1-based bands.
        nodata: Replaces the nodata value of the file; NaN for none.
        metainfo: Dataset meta of the model, for its ``scale`` and ``offset``.
        masked_by: See :class:`hook.geo.raster.Validity`.
        grid: Grid to resample to; None for the file's own.
        own: Grid of the file, if it is not in the file.
        resampling: Method of resampling.

    Attributes:
        dtype: Type of the values.
        tags: Scale and offset that are applied, (C,) each; None for none.

    Raises:
        DataError: See :func:`scale_tags`; or the CRS cannot be transformed to that of the grid.
    """

    def __init__(
        self,
        source: DatasetReader,
        indexes: Sequence[int],
        nodata: float | None = None,
        metainfo: Mapping[str, Any] | None = None,
        *,
        masked_by: Sequence[int] | None = None,
        grid: PixelGrid | None = None,
        own: PixelGrid | None = None,
        resampling: Resampling = Resampling.nearest,
    ) -> None:
        self.source, self.indexes = source, list(indexes)
        self._stored = np.result_type(*(source.dtypes[index - 1] for index in self.indexes))
        self.tags = scale_tags(source, self.indexes, metainfo)
        self.dtype = self._stored if self.tags is None else np.dtype(np.float32)
        self._own = own or PixelGrid(source.crs, source.transform, source.width, source.height)
        if grid is not None and resampling != Resampling.nearest:
            masks = set(alpha_bands(source) if masked_by is None else masked_by)
            if can_warp(source, self.indexes, nodata, masks):
                source = warped(
                    source,
                    grid.crs,
                    nodata=nodata,
                    src_crs=self._own.crs,
                    src_transform=self._own.transform,
                    transform=grid.transform,
                    width=grid.width,
                    height=grid.height,
                    resampling=resampling,
                    tolerance=_TOLERANCE,
                )
                grid, nodata, masked_by = None, None, None  # of the warped view
        self._file, self._grid = source, grid
        self._validity = Validity(source, self.indexes, nodata, masked_by)
        self._resampling, self._transformer, self._margin = resampling, None, 0
        if grid is not None and grid.crs is not None and grid.crs != self._own.crs:
            try:
                systems = [pyproj.CRS.from_wkt(one.crs.to_wkt()) for one in (grid, self._own)]
                self._transformer = pyproj.Transformer.from_crs(*systems, always_xy=True)
            except pyproj.exceptions.ProjError as error:
                raise DataError(
                    f"{source.name} cannot be resampled to another CRS",
                    expected=f"a CRS that can be transformed to {grid.crs}",
                    found=error,
                    remedy="use files of one CRS",
                ) from error
        if grid is not None and resampling != Resampling.nearest:
            steps = self._measure_steps()
            self._margin = 2 + math.ceil(2 * max(steps))
            # To smooth before downsampling; by default GDAL derives them from each window.
            self._scales = (
                {} if max(steps) < 1.05 else dict(XSCALE=1 / steps[0], YSCALE=1 / steps[1])
            )

    def read(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """Read a window of the file, or of the grid: values and validity (C, height, width).

        Errors of GDAL are not translated, see :func:`hook.geo.raster.reading`.
        """
        return self._read_file(window) if self._grid is None else self._resample(window)

    def close(self) -> None:
        """Close the file, after its warped view."""
        self._file.close()
        self.source.close()

    def _read_file(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        file, options = self._file, dict(window=window, out_dtype=self._stored)
        if len({self.source.dtypes[index - 1] for index in self.indexes}) == 1:
            values = file.read(self.indexes, **options)
        else:  # rasterio reads bands of one type only
            values = np.stack([file.read(index, **options) for index in self.indexes])
        valid = self._validity.read(values, window=window)
        if self.tags is not None:
            values = rescale(values, *(tag.reshape(-1, 1, 1) for tag in self.tags))
            valid &= finite(values)
        return values, valid

    def _resample(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """Read a window of the grid; pixels outside the file are invalid."""
        size = int(window.height), int(window.width)
        values = np.zeros((len(self.indexes), *size), self.dtype)
        valid = np.zeros(values.shape, bool)
        rows, cols = np.mgrid[: size[0], : size[1]] + 0.5
        cols, rows = self._to_file(cols + window.col_off, rows + window.row_off)
        # Centres on the edge of two pixels are in the second one, whatever the rounding.
        cols, rows = np.floor(cols + 1e-6), np.floor(rows + 1e-6)
        height, width = self.source.height, self.source.width
        inside = (rows >= 0) & (rows < height) & (cols >= 0) & (cols < width)
        if not inside.any():
            return values, valid
        rows, cols = rows[inside].astype(int), cols[inside].astype(int)
        top, bottom = max(rows.min() - self._margin, 0), min(rows.max() + 1 + self._margin, height)
        left, right = max(cols.min() - self._margin, 0), min(cols.max() + 1 + self._margin, width)
        if (bottom - top) * (right - left) > _MAX_PIXELS and max(size) > 1:
            for part, half in _halves(window):
                values[part], valid[part] = self._resample(half)
            return values, valid
        found, known = self._read_file(Window(left, top, right - left, bottom - top))
        if self._resampling == Resampling.nearest:
            values[:, inside] = found[:, rows - top, cols - left]
            valid[:, inside] = known[:, rows - top, cols - left]
            return values, valid
        for band, (image, mask) in enumerate(zip(found, known, strict=True)):
            # Invalid pixels get the nodata value of the band, without one NaN.
            nodata = None if self.tags is not None else self._validity.nodata[band]
            if nodata is None and not mask.all():
                nodata = np.array(np.nan)
            if nodata is not None:
                image, nodata = np.where(mask, image, nodata), nodata.item()
            target = np.zeros(size, image.dtype)
            reproject(
                image,
                target,
                src_transform=self._own.transform @ Affine.translation(left, top),
                src_crs=self._own.crs,
                src_nodata=nodata,
                dst_transform=self._grid.transform
                @ Affine.translation(window.col_off, window.row_off),
                dst_crs=self._grid.crs,
                dst_nodata=nodata,
                resampling=self._resampling,
                tolerance=0,
                **self._scales,
            )
            valid[band] = inside & np.isfinite(target) & (nodata is None or target != nodata)
            if self.dtype.kind in "iu" and target.dtype.kind == "f":
                target = np.floor(target + 0.5)  # as GDAL rounds
            values[band][valid[band]] = target[valid[band]]
        return values, valid

    def _to_file(self, cols: Any, rows: Any) -> tuple[Any, Any]:
        """Convert columns and rows of the grid to those of the file."""
        xs, ys = self._grid.transform @ (cols, rows)
        if self._transformer is not None:
            xs, ys = self._transformer.transform(xs, ys)
        return ~self._own.transform @ (xs, ys)

    def _measure_steps(self) -> tuple[float, float]:
        """Return the columns and rows that a pixel of the grid covers at the centre of the file."""
        xs, ys = self._own.transform @ (self.source.width / 2, self.source.height / 2)
        if self._transformer is not None:
            xs, ys = self._transformer.transform(xs, ys, direction="INVERSE")
        col, row = ~self._grid.transform @ (xs, ys)
        ends = self._to_file(np.array([0, 1, 0]) + col, np.array([0, 0, 1]) + row)
        steps = (float(np.abs(end[1:] - end[0]).sum()) for end in ends)
        # As GDAL does for each window.
        near = ((step, max(round(step), 1)) for step in steps)
        return tuple(whole if abs(step - whole) < 0.05 else step for step, whole in near)


def _halves(window: Window) -> list[tuple[Any, Window]]:
    """Split a window along its longer side: parts of its arrays (..., h, w), and windows."""
    row, col, height, width = window.row_off, window.col_off, window.height, window.width
    if height >= width:
        half = height // 2
        return [
            (np.s_[..., :half, :], Window(col, row, width, half)),
            (np.s_[..., half:, :], Window(col, row + half, width, height - half)),
        ]
    half = width // 2
    return [
        (np.s_[..., :half], Window(col, row, half, height)),
        (np.s_[..., half:], Window(col + half, row, width - half, height)),
    ]
