"""Pixels of chips, from open files.

TorchGeo reads by coordinates through a warped view, and its rounding can move a chip by a pixel or
resample it; here chips are windows of a file's own pixels wherever the file needs no resampling.
"""

import os
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import rasterio
from rasterio.crs import CRS
from rasterio.errors import CRSError, NotGeoreferencedWarning, RasterioError
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from hook.datasets.grids import Grid, clip
from hook.datasets.scene_files import MaskFile, Scene
from hook.geo.raster import read_valid, unreadable, valid_values

OPEN_FILES = 32
# Pixels by which GDAL may be off when it interpolates coordinates (its 0.125 moves labels; rasterio
# cannot open a warped view with 0).
WARP_TOLERANCE = 1e-4


class ChipReader:
    """Reads chips of images and masks, and keeps the files open for the next one.

    Args:
        chip_size: (height, width) in pixels.
    """

    def __init__(self, chip_size: tuple[int, int]) -> None:
        self.chip_size = chip_size
        self.open_files: OrderedDict[tuple, Any] = OrderedDict()
        self._pid = os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        # Open files stay behind: a worker opens its own.
        return {**self.__dict__, "open_files": OrderedDict()}

    def read(
        self, file: Scene | MaskFile, scene: Scene, row: int, col: int, nodata: float | str | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Read a chip of a scene, or of one of its masks.

        Args:
            file: The scene itself, or the mask.
            scene: The scene.
            row: First row of the chip in the scene's grid.
            col: First column.
            nodata: Value that means no data, None for no such value, ``'tag'`` for what the file
                says.

        Returns:
            (C, H, W) values, (H, W) bool validity; zero and False beyond the file and beyond the
            scene's window.
        """
        height, width = self.chip_size
        top, left = file.offset or (0, 0)
        if file is scene:
            limits = scene.window
        elif file.offset is None:
            limits = (0, 0, scene.grid.height, scene.grid.width)
        else:
            limits = (top, left, file.own.height, file.own.width)
        part, window = clip(row, col, self.chip_size, limits)
        if not window.width or not window.height:
            return np.zeros((len(file.indexes), height, width)), np.zeros((height, width), bool)
        window = Window(window.col_off - left, window.row_off - top, window.width, window.height)
        indexes = list(file.indexes)
        warped = file.offset is None
        if warped and nodata == "tag":
            nodata = file.nodata
        with self._open(file, scene.grid if warped else None, nodata) as src:
            known = src.read(indexes, window=window)
            if nodata == "tag" or (warped and nodata is not None):
                known_valid = read_valid(src, indexes, known, window)
            else:
                known_valid = valid_values(known, nodata)
                if warped:
                    known_valid &= src.dataset_mask(window=window) > 0
        values = np.zeros((len(indexes), height, width), dtype=known.dtype)
        valid = np.zeros((height, width), dtype=bool)
        values[:, *part], valid[part] = known, known_valid
        return values, valid

    @contextmanager
    def _open(
        self, file: Scene | MaskFile, grid: Grid | None, nodata: float | str | None
    ) -> Iterator[Any]:
        """Open a raster, or its view on another grid."""
        if self._pid != os.getpid():
            # A forked worker shares file positions with its parent: it opens files of its own.
            self.open_files, self._pid = OrderedDict(), os.getpid()
        key = (file.path, grid)
        try:
            if key not in self.open_files:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", NotGeoreferencedWarning)
                    src = rasterio.open(file.path)
                if grid is not None:
                    src = WarpedVRT(
                        src,
                        src_crs=CRS.from_wkt(file.own.crs),
                        src_transform=file.own.affine,
                        crs=CRS.from_wkt(grid.crs),
                        transform=grid.affine,
                        width=grid.width,
                        height=grid.height,
                        resampling=file.resampling,
                        tolerance=WARP_TOLERANCE,
                        src_nodata=nodata,
                        nodata=nodata,
                        add_alpha=nodata is None,
                    )
                self.open_files[key] = src
                while len(self.open_files) > OPEN_FILES:
                    self.open_files.popitem(last=False)[1].close()
            self.open_files.move_to_end(key)
            yield self.open_files[key]
        except (RasterioError, CRSError) as error:
            raise unreadable(file.path, error) from error
