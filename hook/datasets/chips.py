"""Read the pixels of chips from open files.

TorchGeo reads by coordinates through a warped view; its rounding can shift a chip by a pixel or
resample it. Here chips are pixel windows of the file unless the file needs resampling.
"""

import os
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np
from rasterio.crs import CRS
from rasterio.windows import Window

from hook.datasets.grids import clip
from hook.datasets.scene_files import MaskFile, Scene
from hook.geo.band_reader import BandReader, PixelGrid
from hook.geo.raster import alpha_bands, open_dataset, reading

OPEN_FILES = 32


class ChipReader:
    """Read chips of images and masks, and keep the files open for the next chip.

    Args:
        chip_size: (height, width) in pixels.
        metainfo: Dataset meta; see :func:`hook.geo.bands.scale_tags`.
    """

    def __init__(
        self, chip_size: tuple[int, int], metainfo: Mapping[str, Any] | None = None
    ) -> None:
        self.chip_size, self.metainfo = chip_size, dict(metainfo or {})
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
            (C, H, W) values, (C, H, W) bool validity of each band; zero and False outside the file
            and outside the scene's window.

        Raises:
            DataError: If the file cannot be read, or its scale and offset tags cannot be applied.
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
        valid = np.zeros(values.shape, bool)
        if window.width and window.height:
            with reading(file.path):
                known, known_valid = self._open(file, scene, nodata).read(window)
                valid[:, *part] = known_valid
            values = values.astype(known.dtype)
            values[:, *part] = known
        return values, valid

    def _open(self, file: Scene | MaskFile, scene: Scene, nodata: float | None) -> BandReader:
        """Open a raster, resampled to the scene's grid if its pixels differ."""
        if self._pid != os.getpid():
            # A forked worker would share file positions with its parent.
            self.open_files, self._pid = OrderedDict(), os.getpid()
        key = (file.path, scene.grid if file.offset is None else None)
        if key not in self.open_files:
            source = open_dataset(file.path)
            options: dict[str, Any] = {}
            if file is scene:
                options["metainfo"] = self.metainfo
                if self.metainfo.get("bands") is None:  # all bands, alpha included
                    options["masked_by"] = alpha_bands(source)
            if file.offset is None:
                for name, grid in (("grid", scene.grid), ("own", file.own)):
                    options[name] = PixelGrid(
                        CRS.from_wkt(grid.crs), grid.affine, grid.width, grid.height
                    )
                options["resampling"] = file.resampling
            self.open_files[key] = BandReader(source, file.indexes, nodata, **options)
            while len(self.open_files) > OPEN_FILES:
                self.open_files.popitem(last=False)[1].close()
        self.open_files.move_to_end(key)
        return self.open_files[key]
