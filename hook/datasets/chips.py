"""Read the pixels of chips from open files.

TorchGeo reads by coordinates through a warped view; its rounding can shift a chip by a pixel or
resample it. Here chips are pixel windows of the file unless the file needs resampling.
"""

import os
from collections import OrderedDict
from typing import Any

import numpy as np
from rasterio.crs import CRS
from rasterio.windows import Window

from hook.datasets.grids import Grid, clip
from hook.datasets.scene_files import MaskFile, Scene
from hook.geo.raster import Validity, open_dataset, reading, warped

OPEN_FILES = 32
# Error in pixels that GDAL may make when it interpolates coordinates (its default of 0.125 moves
# labels; rasterio cannot open a warped view with 0).
WARP_TOLERANCE = 1e-4


class ChipReader:
    """Read chips of images and masks, and keep the files open for the next chip.

    Args:
        chip_size: (height, width) in pixels.
    """

    def __init__(self, chip_size: tuple[int, int]) -> None:
        self.chip_size = chip_size
        self.open_files: OrderedDict[tuple, Any] = OrderedDict()
        self._pid = os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        # Open files are not pickled: each worker opens its own.
        return {**self.__dict__, "open_files": OrderedDict()}

    def read(
        self, file: Scene | MaskFile, scene: Scene, row: int, col: int, nodata: float | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Read a chip of a scene or of one of its masks.

        Args:
            file: The scene itself, or the mask.
            scene: The scene.
            row: First row of the chip in the scene's grid.
            col: First column.
            nodata: Nodata value, NaN for none; None uses the file's nodata value.

        Returns:
            (C, H, W) values, (H, W) bool validity; zero and False outside the file and outside the
            scene's window.

        Raises:
            DataError: If the file cannot be read.
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
        window = Window(window.col_off - left, window.row_off - top, window.width, window.height)
        values = np.zeros((len(file.indexes), height, width), np.uint8)
        valid = np.zeros((height, width), bool)
        if window.width and window.height:
            with reading(file.path):
                source, validity = self._open(file, scene.grid, nodata)
                known = source.read(list(file.indexes), window=window)
                valid[part] = validity.read(known, window=window).all(axis=0)
            values = values.astype(known.dtype)
            values[:, *part] = known
        return values, valid

    def _open(
        self, file: Scene | MaskFile, grid: Grid, nodata: float | None
    ) -> tuple[Any, Validity]:
        """Open a raster, warped to the scene's grid if its pixels differ."""
        if self._pid != os.getpid():
            # A forked worker would share file positions with its parent.
            self.open_files, self._pid = OrderedDict(), os.getpid()
        key = (file.path, grid if file.offset is None else None)
        if key not in self.open_files:
            source = open_dataset(file.path)
            if file.offset is None:
                source = warped(
                    source,
                    CRS.from_wkt(grid.crs),
                    nodata=nodata,
                    src_crs=CRS.from_wkt(file.own.crs),
                    src_transform=file.own.affine,
                    transform=grid.affine,
                    width=grid.width,
                    height=grid.height,
                    resampling=file.resampling,
                    tolerance=WARP_TOLERANCE,
                )
                nodata = None  # set on the warped view
            self.open_files[key] = source, Validity(source, file.indexes, nodata)
            while len(self.open_files) > OPEN_FILES:
                self.open_files.popitem(last=False)[1][0].close()
        self.open_files.move_to_end(key)
        return self.open_files[key]
