"""Finished rows of a scene streamed into Cloud-Optimised GeoTIFFs."""

import contextlib
import logging
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import rasterio
import rasterio.shutil
from rasterio.crs import CRS
from rasterio.errors import NotGeoreferencedWarning

from hook.errors import SceneError
from hook.scenes.blending import RowBlock
from hook.scenes.reader import GDAL_ERRORS
from hook.scenes.staging import StagedFiles
from hook.scenes.styles import Colour, write_category_names, write_qml

BLOCK_SIZE = 512
PROBABILITY_SCALE = 0.004
"""Probability of one step of the uint8 file: 250 steps are exactly 1."""
PROBABILITY_NODATA = 255


class SceneGeometry(NamedTuple):
    """Size and place of a scene."""

    height: int
    width: int
    crs: CRS | None
    transform: rasterio.Affine


class CogSink:
    """Rows from top to bottom into one Cloud-Optimised GeoTIFF.

    Rows go to a plain tiled GeoTIFF, block by block; :meth:`finish` has GDAL's COG driver copy it
    with overviews, since a COG cannot be written in one pass. At most 512 rows are held.

    Args:
        path: The file to make; the plain one lies beside it until :meth:`finish`.
        geometry: Size and place of the scene.
        count: Number of bands.
        dtype: Data type of the bands.
        nodata: Value of pixels without data.
        descriptions: One per band.
        resampling: Of the overviews, in GDAL's words.
        colormap: Value -> (red, green, blue), for a single band.
        scale: Factor from stored to real values.
        creation_options: Options of GDAL's COG driver, over the defaults.

    Raises:
        SceneError: An option is refused by GDAL or loses values, or the disk is full.
    """

    def __init__(
        self,
        path: Path,
        geometry: SceneGeometry,
        *,
        count: int,
        dtype: str,
        nodata: int,
        descriptions: Sequence[str],
        resampling: str,
        colormap: Mapping[int, Colour] | None = None,
        scale: float | None = None,
        creation_options: Mapping[str, object] | None = None,
    ) -> None:
        self._path = path
        self._plain_path = path.with_name(f"{path.stem}.plain{path.suffix}")
        self._height = geometry.height
        self._options = {
            "BLOCKSIZE": _block_size(geometry),
            "COMPRESS": "DEFLATE",
            "BIGTIFF": "IF_SAFER",
            "OVERVIEW_RESAMPLING": resampling,
            **{str(key).upper(): value for key, value in (creation_options or {}).items()},
        }
        profile = {
            "driver": "GTiff",
            "count": count,
            "dtype": dtype,
            "nodata": nodata,
            "crs": geometry.crs,
            "transform": geometry.transform,
            "tiled": True,
            "blockxsize": BLOCK_SIZE,
            "blockysize": BLOCK_SIZE,
            "compress": "deflate",
            "zlevel": 1,
            "bigtiff": "if_safer",
            "interleave": "band",
            "photometric": "palette" if colormap else "minisblack",
        }
        self._try_options(profile)
        with _writing(self._path), _place_known():
            self._plain = rasterio.open(
                self._plain_path, "w", height=geometry.height, width=geometry.width, **profile
            )
            if colormap:
                self._plain.write_colormap(1, colormap)
            self._plain.descriptions = tuple(descriptions)
            if scale is not None:
                self._plain.scales, self._plain.offsets = (scale,) * count, (0.0,) * count
        rows = min(BLOCK_SIZE, geometry.height)
        # Whole rows of blocks only: a block written twice is compressed and stored twice.
        self._buffer = np.full((count, rows, geometry.width), nodata, dtype)
        self._filled = 0
        self._row_off = 0

    def _try_options(self, profile: Mapping[str, object]) -> None:
        """Make a tiny file first: a refused option is better known before hours of work."""
        plain = self._plain_path.with_name(f"trial.{self._plain_path.name}")
        cog = plain.with_suffix(".cog.tif")
        size = 64
        count, dtype = profile["count"], profile["dtype"]
        values = np.arange(count * size * size, dtype=np.int64) * 7 % 251
        values = values.reshape(count, size, size).astype(dtype)
        try:
            with _place_known():
                with rasterio.open(plain, "w", height=size, width=size, **profile) as target:
                    target.write(values)
                with _gdal_messages() as messages:
                    rasterio.shutil.copy(plain, cog, driver="COG", **self._options)
                with rasterio.open(cog) as source:
                    kept = np.array_equal(source.read(), values)
            if messages:
                raise ValueError(messages[0])
        except (*GDAL_ERRORS, ValueError) as error:
            raise SceneError(
                "creation options",
                expected="options of GDAL's COG driver",
                found=f"{self._options}: {error.__cause__ or error}",
                remedy="see the COG driver in GDAL's documentation",
            ) from error
        finally:
            plain.unlink(missing_ok=True)
            cog.unlink(missing_ok=True)
        if not kept:
            raise SceneError(
                "creation options",
                expected="a lossless compression, such as DEFLATE, LZW or ZSTD",
                found=self._options,
            )

    def write_rows(self, rows: np.ndarray) -> None:
        """Append rows.

        Args:
            rows: (count, n, width).

        Raises:
            SceneError: GDAL cannot write, for instance because the disk is full.
        """
        start = 0
        while start < rows.shape[1]:
            size = min(self._buffer.shape[1] - self._filled, rows.shape[1] - start)
            self._buffer[:, self._filled : self._filled + size] = rows[:, start : start + size]
            self._filled += size
            start += size
            if self._filled == self._buffer.shape[1]:
                self._flush()

    def _flush(self) -> None:
        if not self._filled:
            return
        window = rasterio.windows.Window(0, self._row_off, self._buffer.shape[2], self._filled)
        with _writing(self._path):
            self._plain.write(self._buffer[:, : self._filled], window=window)
        self._row_off += self._filled
        self._filled = 0

    def finish(self) -> None:
        """Turn the rows into the COG.

        Raises:
            SceneError: Rows are missing or GDAL cannot write.
        """
        self._flush()
        if self._row_off != self._height:
            raise SceneError(
                f"{self._path.name}: incomplete",
                expected=f"{self._height} rows",
                found=self._row_off,
            )
        with _writing(self._path), _place_known():
            self._plain.close()
            rasterio.shutil.copy(self._plain_path, self._path, driver="COG", **self._options)
            self._plain_path.unlink()
            with rasterio.open(self._path) as source:
                # A full disk may go unnoticed until a block is asked for.
                for _, window in source.block_windows(1):
                    source.read(window=window)

    def close(self) -> None:
        """Release the file, finished or not."""
        # An unfinished file is thrown away; the error that left it so is the one to see.
        with contextlib.suppress(*GDAL_ERRORS):
            self._plain.close()


class ClassMapSink(CogSink):
    """The class of each pixel: a COG with a colour table, class names beside it, and a style.

    Values are class indexes: uint8, or uint16 above 254 classes. Pixels that are not valid hold
    ``nodata``. Ties go to the lower class.

    Args:
        files: Takes the map, its ``.aux.xml`` and its ``.qml``.
        output: Final name of the map.
        geometry: Size and place of the scene.
        class_names: One per class.
        palette: (red, green, blue) per class.
        nodata: Value of pixels without data; 255, or 65535 above 254 classes, if None.
        creation_options: Options of GDAL's COG driver, over the defaults.

    Raises:
        SceneError: The nodata value is a class or does not fit, or an output exists already.
    """

    def __init__(
        self,
        files: StagedFiles,
        output: Path,
        geometry: SceneGeometry,
        *,
        class_names: Sequence[str],
        palette: Sequence[Colour],
        nodata: int | None = None,
        creation_options: Mapping[str, object] | None = None,
    ) -> None:
        self.class_pixels = np.zeros(len(class_names), np.int64)
        self._names, self._palette = list(class_names), list(palette)
        self._dtype, self._nodata = map_dtype(len(class_names), nodata)
        # The map is added last and thus moved last: where it is, all is.
        self._category_path = files.add(f"{output}.aux.xml")
        self._style_path = files.add(output.with_suffix(".qml"))
        super().__init__(
            files.add(output),
            geometry,
            count=1,
            dtype=self._dtype,
            nodata=self._nodata,
            descriptions=["class"],
            resampling="MODE",
            colormap=dict(enumerate(palette)),
            creation_options=creation_options,
        )
        # GDAL would take these for the overviews and the mask of the new file.
        files.supersede(f"{output}.ovr")
        files.supersede(f"{output}.msk")

    def write(self, block: RowBlock) -> None:
        """Append the classes of finished rows."""
        classes = block.scores.argmax(axis=0).astype(self._dtype)
        self.class_pixels += np.bincount(classes[block.valid], minlength=len(self.class_pixels))
        classes[~block.valid] = self._nodata
        self.write_rows(classes[np.newaxis])

    def finish(self) -> None:
        """Write the COG and its side files."""
        super().finish()
        write_category_names(self._category_path, self._names)
        write_qml(self._style_path, self._names, self._palette)


class ProbabilitySink(CogSink):
    """The probability of each class: a COG of uint8 bands, ``value x 0.004``, nodata 255.

    Args:
        files: Takes the file.
        output: Its final name.
        geometry: Size and place of the scene.
        class_names: One per class, the descriptions of the bands.
        creation_options: Options of GDAL's COG driver, over the defaults.
    """

    def __init__(
        self,
        files: StagedFiles,
        output: Path,
        geometry: SceneGeometry,
        *,
        class_names: Sequence[str],
        creation_options: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(
            files.add(output),
            geometry,
            count=len(class_names),
            dtype="uint8",
            nodata=PROBABILITY_NODATA,
            descriptions=class_names,
            resampling="NEAREST",
            scale=PROBABILITY_SCALE,
            creation_options=creation_options,
        )
        files.supersede(f"{output}.ovr")
        files.supersede(f"{output}.msk")
        files.supersede(f"{output}.aux.xml")

    def write(self, block: RowBlock) -> None:
        """Append the probabilities of finished rows.

        Raises:
            SceneError: A score at a valid pixel is no probability.
        """
        scores = np.where(block.valid, block.scores, 0)
        # Rounding may leave a softmax a hair outside.
        if scores.min() < -1e-4 or scores.max() > 1 + 1e-4:
            raise SceneError(
                f"rows {block.row_off} to {block.row_off + scores.shape[1] - 1}: scores cannot be "
                "stored as probabilities",
                expected="0 to 1",
                found=f"{scores.min():g} to {scores.max():g}",
                remedy="apply softmax to the model's scores",
            )
        stored = np.rint(np.clip(scores, 0, 1) * np.float32(1 / PROBABILITY_SCALE))
        stored = stored.astype(np.uint8)
        stored[:, ~block.valid] = PROBABILITY_NODATA
        self.write_rows(stored)


def map_dtype(num_classes: int, nodata: int | None) -> tuple[str, int]:
    """Data type and nodata value of a map.

    Raises:
        SceneError: More classes than uint16 holds, or a nodata value that is a class or too large.
    """
    dtype = "uint8" if num_classes <= 254 else "uint16"
    largest = np.iinfo(dtype).max
    if not 1 <= num_classes <= largest:
        raise SceneError("num_classes", expected=f"1 to {largest}", found=num_classes)
    if nodata is None:
        return dtype, largest
    if nodata != int(nodata) or not num_classes <= nodata <= largest:
        raise SceneError(
            "out_nodata",
            expected=f"a whole number from {num_classes} to {largest}, no class's value",
            found=nodata,
        )
    return dtype, int(nodata)


def _block_size(geometry: SceneGeometry) -> int:
    """The side of a COG's blocks: 512, unless rio-cogeo's validator would stumble over it.

    It takes an image (or overview) more than 512 high for strips if its blocks are as wide as it.
    """
    for size in (BLOCK_SIZE, 256):
        height, width = geometry.height, geometry.width
        while height > 512 and width != size:
            height, width = math.ceil(height / 2), math.ceil(width / 2)
        if height <= 512:
            return size
    return 384  # a width that halves to 512 or 256 never does to this


@contextlib.contextmanager
def _gdal_messages() -> Iterator[list[str]]:
    """Collect what GDAL says of creation options it does not know and would ignore."""
    messages: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())
    logger = logging.getLogger("rasterio._env")
    logger.addHandler(handler)
    try:
        yield messages
    finally:
        logger.removeHandler(handler)


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Tell errors of GDAL as errors of the file being written."""
    try:
        yield
    except GDAL_ERRORS as error:
        raise SceneError(
            f"{path.name}: cannot be written",
            found=str(error.__cause__ or error),
            remedy="check the free space of the disk and the folder's permissions",
        ) from error


@contextlib.contextmanager
def _place_known() -> Iterator[None]:
    """Keep rasterio quiet about a missing georeference, of which the reader has told already.

    For the calling thread's opening and closing only: filters of warnings are shared by threads.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield
