"""Tiles of a scene in its own pixel grid."""

import io
import math
import threading
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageDraw
from rasterio.enums import Resampling
from rasterio.windows import Window

from hook.arguments import is_int
from hook.errors import ConfigError
from hook.geo.bands import band_names, image_bands
from hook.geo.raster import Validity, open_dataset, parse_nodata, reading
from hook.visualization.drawing import choose_rgb, stretch_limits, stretch_to_rgb

TILE = 256
"""Side of a tile in pixels."""
# Of a scene without overviews the pixels are reduced once to this many along the longer side.
_REDUCED = 2048
_SAMPLE = 600  # pixels that the stretch is measured on, as in show_scene


class ScenePicture:
    """Pictures of parts of a raster: any size, type and number of bands, with or without a CRS.

    The square of zoom 0 has ``256 * 2**zmax`` pixels of the scene along each side, its upper left
    corner is that of the scene. Colours are those of :func:`hook.apis.show_scene` of the whole
    scene; invalid pixels are transparent.

    Args:
        path: A raster that GDAL opens.
        nodata: Replaces its nodata value, see :class:`hook.scenes.SceneRequest`.
        report: Called with the share, from 0 to 1, of a scene without overviews that was read for
            its first picture.

    Attributes:
        bands: Name or number of each band to choose from.
        numbers: Their 1-based numbers in the file.
        rgb: Numbers of the bands shown by default.
        tags: Scale and offset of each band, (C,) each, which are not applied.
        zmax: Zoom at which a pixel of a tile is a pixel of the scene.

    Raises:
        DataError: The file cannot be read.
    """

    def __init__(
        self,
        path: str,
        nodata: float | str | None = None,
        report: Callable[[float], None] = lambda share: None,
    ) -> None:
        self.path, self._nodata, self._report = path, parse_nodata(nodata, "nodata"), report
        self._local, self._lock = threading.local(), threading.RLock()
        source = self._source()
        self.height, self.width = source.height, source.width
        self.numbers = image_bands(source) or list(source.indexes)
        self.bands = [str(name) for name in band_names(source)] or list(map(str, self.numbers))
        self.rgb = [self.numbers[k] for k in choose_rgb(self.bands, len(self.numbers))]
        chosen = [number - 1 for number in self.numbers]
        self.tags = np.array(source.scales)[chosen], np.array(source.offsets)[chosen]
        self.zmax = max(math.ceil(math.log2(max(self.height, self.width) / TILE)), 0)
        has_overviews = all(source.overviews(number) for number in self.rgb)
        larger = max(self.height, self.width) / _REDUCED
        # What is read per pixel of the reduced scene; 1 where GDAL reads overviews itself.
        self._step = 1 if has_overviews or larger <= 2 else 2 ** math.ceil(math.log2(larger))
        self._reduced: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._limits: dict[tuple[int, ...], np.ndarray | None] = {}

    def _source(self):
        """Return the raster, opened once per thread: GDAL's datasets are of one thread."""
        if not hasattr(self._local, "source"):
            self._local.source = open_dataset(self.path)
        return self._local.source

    def tile(self, z: int, x: int, y: int, bands: Sequence[int] | None = None) -> bytes | None:
        """Return a tile of 256 x 256 pixels as PNG with transparency; None beside the scene.

        Args:
            z: Zoom, at most ``zmax``.
            x: Column of the tile.
            y: Row of the tile.
            bands: Numbers of the bands shown as red, green and blue; None: ``rgb``.

        Raises:
            ConfigError: There is no such tile or band.
            DataError: A part of the file cannot be read.
        """
        self.check_tile(z, x, y)
        side = TILE << (self.zmax - z)
        if x * side >= self.width or y * side >= self.height:
            return None
        return _png(self._square(x * side, y * side, side, TILE, bands))

    def check_tile(self, z: int, x: int, y: int) -> None:
        """Raise a ConfigError if there is no tile of this zoom, column and row."""
        if not 0 <= z <= self.zmax or not (0 <= x < 2**z and 0 <= y < 2**z):
            raise ConfigError(
                f"no tile {z}/{x}/{y}",
                expected=f"zoom 0 to {self.zmax}, column and row from 0 to 2^zoom - 1",
                remedy="load the page again",
            )

    def thumbnail(
        self,
        bounds: Sequence[float],
        size: int,
        bands: Sequence[int] | None = None,
        rings: Sequence[Sequence[Sequence[float]]] = (),
    ) -> bytes:
        """Return a square around a box (first column, first row, last column, last row) as PNG.

        Args:
            bounds: The box.
            size: Side of the picture in pixels.
            bands: Shown as red, green and blue.
            rings: Columns and rows of lines that are drawn, such as the outline of a region.

        Raises:
            ConfigError: There is no such band.
            DataError: A part of the file cannot be read.
        """
        left, top, right, bottom = bounds
        side = max(math.ceil(1.3 * max(right - left, bottom - top)), 16)
        first = round((left + right - side) / 2), round((top + bottom - side) / 2)
        picture = self._square(*first, side, size, bands)
        draw, scale = ImageDraw.Draw(picture), size / side
        lines = [[tuple((np.array(point) - first) * scale) for point in ring] for ring in rings]
        for color, width in (("black", 4), ("white", 2)):
            for line in lines:
                draw.line(line, color, width)
        return _png(picture)

    def _square(
        self, left: int, top: int, side: int, size: int, bands: Sequence[int] | None
    ) -> Image.Image:
        """Return a square of ``side`` pixels, which may extend beyond the scene, in ``size``."""
        bands = self.check_bands(bands)
        first_col, first_row = max(left, 0), max(top, 0)
        last_col, last_row = min(left + side, self.width), min(top + side, self.height)
        picture = np.zeros((size, size, 4), np.uint8)
        if first_col < last_col and first_row < last_row:
            scale = size / side
            cols = [round((col - left) * scale) for col in (first_col, last_col)]
            rows = [round((row - top) * scale) for row in (first_row, last_row)]
            shape = max(rows[1] - rows[0], 1), max(cols[1] - cols[0], 1)
            window = Window(first_col, first_row, last_col - first_col, last_row - first_row)
            limits = self._limits_of(bands)
            values, valid = self._read(bands, window, shape)
            part = picture[
                min(rows[0], size - 1) : rows[0] + shape[0],
                min(cols[0], size - 1) : cols[0] + shape[1],
            ]
            part[..., :3] = stretch_to_rgb(values, valid=valid, limits=limits)
            part[..., 3] = 255 * (valid & np.isfinite(values).all(axis=0))
        return Image.fromarray(picture)

    def read(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """Read all bands of a window inside the scene: values and validity (C, h, w).

        Raises:
            DataError: A part of the file cannot be read.
        """
        return self._read_file(self.numbers, window, (window.height, window.width))

    def check_bands(self, bands: Sequence[int] | None) -> tuple[int, ...]:
        """Return three numbers of bands.

        Raises:
            ConfigError: They are not one or three bands of the scene.
        """
        bands = self.rgb if bands is None else list(bands)
        if len(bands) not in (1, 3) or not all(is_int(k) and k in self.numbers for k in bands):
            raise ConfigError(
                "bands to show",
                expected=f"one or three of {', '.join(map(str, self.numbers))}",
                found=", ".join(map(str, bands)) or "none",
                remedy="choose bands of the scene",
            )
        return tuple(bands if len(bands) == 3 else bands * 3)

    def _limits_of(self, bands: tuple[int, ...]) -> np.ndarray | None:
        """Return the values stretched to black and white, measured on the whole scene."""
        with self._lock:  # once, not in each thread
            if bands not in self._limits:
                step = max(1.0, max(self.height, self.width) / _SAMPLE)
                shape = tuple(max(1, round(side / step)) for side in (self.height, self.width))
                whole = Window(0, 0, self.width, self.height)
                values, valid = self._read(bands, whole, shape)
                self._limits[bands] = stretch_limits(values, valid=valid)
            return self._limits[bands]

    def _read(
        self, bands: tuple[int, ...], window: Window, shape: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Read a window in a shape (h, w): values (3, h, w) and validity (h, w)."""
        chosen = sorted(set(bands))
        order = [chosen.index(band) for band in bands]
        if self._step > 1 and window.height >= self._step * shape[0]:
            values, valid = self._read_reduced(chosen, window, shape)
        else:
            values, valid = self._read_file(chosen, window, shape)
        return values[order], valid.all(axis=0)

    def _read_file(
        self, bands: Sequence[int], window: Window, shape: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray]:
        source = self._source()
        with reading(self.path):
            options = {"window": window}
            if shape != (window.height, window.width):
                options["out_shape"] = (len(bands), *shape)
            larger = shape[0] > window.height
            resampling = Resampling.nearest if larger else Resampling.average
            values = source.read(list(bands), resampling=resampling, **options)
            return values, Validity(source, bands, self._nodata).read(values, **options)

    # ------------------------------------------------------------------------- without overviews
    def _read_reduced(
        self, bands: Sequence[int], window: Window, shape: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Read a window from the reduced scene, whose pixels are ``_step`` of the scene's."""
        with self._lock:
            missing = [band for band in bands if band not in self._reduced]
            if missing:
                try:
                    self._reduce(missing)
                except BaseException:
                    self._report(1.0)  # it has ended
                    raise
        first_row, first_col = window.row_off // self._step, window.col_off // self._step
        last_row = math.ceil((window.row_off + window.height) / self._step)
        last_col = math.ceil((window.col_off + window.width) / self._step)
        part = np.s_[first_row:last_row, first_col:last_col]
        found = [
            (self._reduced[band][0][part], self._reduced[band][1][part].astype(np.float32))
            for band in bands
        ]
        # Means of the valid pixels.
        shares = np.stack([_resized(share, shape) for _, share in found])
        sums = [_resized(value * share, shape) for value, share in found]
        return np.stack(sums) / np.maximum(shares, 1e-6), shares > 0

    def _reduce(self, bands: list[int]) -> None:
        """Read the whole scene once, strip by strip, in ``1 / _step`` of its size."""
        source, step = self._source(), self._step
        shape = math.ceil(self.height / step), math.ceil(self.width / step)
        values = np.zeros((len(bands), *shape), np.float32)
        valid = np.zeros(values.shape, bool)
        # Whole blocks, each of which is read once.
        rows = max(step, math.ceil(source.block_shapes[0][0] / step) * step)
        for top in range(0, self.height, rows):
            height = min(rows, self.height - top)
            window, small = Window(0, top, self.width, height), (math.ceil(height / step), shape[1])
            part = np.s_[:, top // step : top // step + small[0]]
            values[part], valid[part] = self._read_file(bands, window, small)
            self._report((top + height) / self.height)
        self._reduced |= {
            band: (np.nan_to_num(value), known)
            for band, value, known in zip(bands, values, valid, strict=True)
        }


def _png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=1)
    return file.getvalue()


def _resized(values: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return the means of the parts of an array (H, W) in a smaller shape."""
    return np.asarray(Image.fromarray(values).resize(shape[::-1], Image.Resampling.BOX))
