"""Layers of a map: encoding finished rows and writing Cloud-Optimised GeoTIFFs."""

import contextlib
import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np
import rasterio
import rasterio.shutil
from rasterio.crs import CRS
from rasterio.io import MemoryFile

from hook.errors import SceneError
from hook.geo.raster import GDAL_ERRORS, quiet, quiet_open, reason
from hook.geo.side_files import is_own_side_file
from hook.geo.staging import StagedFiles, writing
from hook.geo.styles import (
    Colour,
    is_own_style,
    map_dtype,
    write_category_names,
    write_qml,
)
from hook.scenes.blending import RowBlock
from hook.scenes.grid import Window

BLOCK_SIZE = 512
SCORE_SCALE = 0.004
"""Scale of the uint8 of a score layer: 250 is exactly 1."""
SCORE_NODATA = 255
SCORE_KINDS = ("probs", "entropy", "margin")
_GDAL_TYPES = {
    **{"uint8": "Byte", "uint16": "UInt16", "uint32": "UInt32", "uint64": "UInt64"},
    **{"int8": "Int8", "int16": "Int16", "int32": "Int32", "int64": "Int64"},
    **{"float32": "Float32", "float64": "Float64"},
}


class SceneGeometry(NamedTuple):
    """Size, CRS and transform of a scene."""

    height: int
    width: int
    crs: CRS | None
    transform: rasterio.Affine


class Layer(ABC):
    """One file of a map.

    Args:
        output: Final name.
        count: Number of bands.
        dtype: Data type of the bands, a name of NumPy.
        nodata: Nodata value; None for none.
        descriptions: One per band; empty for none.
        resampling: Resampling of the overviews, a name of GDAL.
        colormap: Value -> (red, green, blue), for a single band.
        scaling: (scale, offset) from stored to real values of each band.
        colours: Colour interpretation of each band; None for grey and undefined ones.
        tags: Metadata of the file.
        creation_options: Options of GDAL's COG driver, which override the defaults.
    """

    def __init__(
        self,
        output: Path,
        *,
        count: int,
        dtype: str,
        nodata: float | None,
        descriptions: Sequence[str],
        resampling: str,
        colormap: Mapping[int, Colour] | None = None,
        scaling: Sequence[tuple[float, float]] | None = None,
        colours: Sequence[str] | None = None,
        tags: Mapping[str, str] | None = None,
        creation_options: Mapping[str, object] | None = None,
    ) -> None:
        self.output = Path(output)
        self.count, self.dtype, self.nodata = count, dtype, nodata
        self.descriptions = list(descriptions)
        self.resampling = resampling
        self.colormap, self.scaling, self.tags = colormap, scaling, dict(tags or {})
        self.colours = colours or ["Gray", *["Undefined"] * (count - 1)]
        self.creation_options = {
            str(key).upper(): str(value) for key, value in (creation_options or {}).items()
        }

    @abstractmethod
    def encode(self, block: RowBlock) -> np.ndarray:
        """Encode finished rows as stored values (count, n, width)."""

    def add_to(self, files: StagedFiles) -> Path:
        """Add the files of the layer; return the path to write the GeoTIFF to."""
        return files.add(self.output)

    @abstractmethod
    def finish(self) -> None:
        """Write the side files of the GeoTIFF."""

    def options(self, geometry: SceneGeometry) -> dict[str, object]:
        """Return the options of GDAL's COG driver."""
        return {
            "BLOCKSIZE": _block_size(geometry),
            "COMPRESS": "DEFLATE",
            "BIGTIFF": "IF_SAFER",
            "OVERVIEW_RESAMPLING": self.resampling,
            "NUM_THREADS": "ALL_CPUS",  # blocks are written in order: deterministic bytes
            **self.creation_options,
        }

    def describe(self) -> dict[str, object]:
        """Return what determines the bytes of the file, for a fingerprint."""
        return {
            "kind": type(self).__name__,
            "bands": self.descriptions,
            "dtype": self.dtype,
            "nodata": self.nodata,
            "colours": [list(colour) for colour in (self.colormap or {}).values()],
            "creation options": self.creation_options,
        }


class ClassLayer(Layer):
    """The class of each pixel: a COG with a colour table, and class names and style in side files.

    Values are class indexes: uint8, or uint16 above 255 classes. Ties go to the lower class.

    Args:
        output: Final name of the map.
        class_names: One per class.
        palette: (red, green, blue) per class.
        nodata: Value of invalid pixels; 255, or 65535 above 255 classes, if None.
        creation_options: Options of GDAL's COG driver, which override the defaults.

    Raises:
        SceneError: The nodata value is a class or does not fit.
    """

    def __init__(
        self,
        output: Path,
        *,
        class_names: Sequence[str],
        palette: Sequence[Colour],
        nodata: int | None = None,
        creation_options: Mapping[str, object] | None = None,
    ) -> None:
        dtype, nodata = map_dtype(len(class_names), nodata)
        self.class_names, self.palette = list(class_names), list(palette)
        super().__init__(
            output,
            count=1,
            dtype=dtype,
            nodata=nodata,
            descriptions=["class"],
            resampling="MODE",
            colormap=dict(enumerate(palette)),
            creation_options=creation_options,
        )

    def encode(self, block: RowBlock) -> np.ndarray:
        """Encode finished rows as classes (1, n, width)."""
        classes = block.scores.argmax(axis=0).astype(self.dtype)
        classes[~block.valid] = self.nodata
        return classes[np.newaxis]

    def add_to(self, files: StagedFiles) -> Path:
        """Add the side files and, last, the map, so that a map is never without them."""
        side_file, style = f"{self.output}.aux.xml", self.output.with_suffix(".qml")
        self._category_path = files.add(side_file, is_own_side_file, backup=True)
        self._style_path = files.add(style, is_own_style)
        return super().add_to(files)

    def finish(self) -> None:
        """Write the class names and the style."""
        write_category_names(self._category_path, self.class_names)
        write_qml(self._style_path, self.class_names, self.palette)

    def describe(self) -> dict[str, object]:
        """Return what determines the bytes of the files, for a fingerprint."""
        return {**super().describe(), "classes": self.class_names}


class ScoreLayer(Layer):
    """Confidence of a map: a COG of uint8 bands, ``value x 0.004``, nodata 255.

    ``probs`` has a band of probabilities per class. ``entropy`` is normalised: 0 where one class
    is certain, 1 where all are equally likely. ``margin`` is the largest probability minus the
    second largest.

    Args:
        output: Final name of the file.
        class_names: One per class.
        kinds: One or more of :data:`SCORE_KINDS`, in the order of the bands.
        creation_options: Options of GDAL's COG driver, which override the defaults.

    Raises:
        SceneError: A kind is unknown.
    """

    def __init__(
        self,
        output: Path,
        *,
        class_names: Sequence[str],
        kinds: Sequence[str] = ("probs",),
        creation_options: Mapping[str, object] | None = None,
    ) -> None:
        unknown = [kind for kind in kinds if kind not in SCORE_KINDS]
        if unknown or not kinds or len(set(kinds)) < len(kinds):
            raise SceneError(
                "scores",
                expected=f"one or more of {', '.join(SCORE_KINDS)}",
                found=list(kinds),
                remedy="choose among these (--scores)",
            )
        self.kinds = tuple(kinds)
        bands: list[str] = []
        for kind in kinds:
            bands += class_names if kind == "probs" else [kind]
        super().__init__(
            output,
            count=len(bands),
            dtype="uint8",
            nodata=SCORE_NODATA,
            descriptions=bands,
            resampling="NEAREST",
            scaling=[(SCORE_SCALE, 0)] * len(bands),
            creation_options=creation_options,
        )

    def finish(self) -> None:
        """Do nothing: scores have no side files."""

    def encode(self, block: RowBlock) -> np.ndarray:
        """Encode finished rows as scaled scores (count, n, width).

        Raises:
            SceneError: A score at a valid pixel is not a probability.
        """
        scores = np.where(block.valid, block.scores, 0)
        # Rounding may leave a softmax slightly outside.
        if scores.min() < -1e-4 or scores.max() > 1 + 1e-4:
            raise SceneError(
                f"rows {block.row_off} to {block.row_off + scores.shape[1] - 1}: scores cannot be "
                "stored as probabilities",
                expected="0 to 1",
                found=f"{scores.min():g} to {scores.max():g}",
                remedy="apply softmax to the model's scores",
            )
        scores = np.clip(scores, 0, 1)
        bands = {"probs": lambda: scores, "entropy": lambda: _entropy(scores)}
        bands["margin"] = lambda: _margin(scores)
        stored = np.concatenate([bands[kind]() for kind in self.kinds])
        stored = np.rint(np.clip(stored, 0, 1) * np.float32(1 / SCORE_SCALE)).astype(np.uint8)
        stored[:, ~block.valid] = SCORE_NODATA
        return stored


def _entropy(probabilities: np.ndarray) -> np.ndarray:
    """Return the entropy over its maximum, (1, n, width); 0 for a single class."""
    if len(probabilities) == 1:
        return np.zeros_like(probabilities)
    logs = np.log(probabilities, out=np.zeros_like(probabilities), where=probabilities > 0)
    entropy = -(probabilities * logs).sum(axis=0, keepdims=True)
    return entropy / np.float32(math.log(len(probabilities)))


def _margin(probabilities: np.ndarray) -> np.ndarray:
    """Return the largest minus the second largest, (1, n, width)."""
    if len(probabilities) == 1:
        return probabilities
    second, first = np.partition(probabilities, -2, axis=0)[-2:]
    return (first - second)[np.newaxis]


class PartFile:
    """Consecutive rows of a layer as a plain GeoTIFF in strips, input of :func:`write_cog`."""

    STRIP_ROWS = 64
    """Rows of a strip, which is buffered before it is compressed."""

    def __init__(self, path: Path, layer: Layer, rows: int, width: int) -> None:
        self.path = path
        self._rows = rows
        with writing(path):
            self._file = quiet_open(
                path,
                "w",
                driver="GTiff",
                height=rows,
                width=width,
                count=layer.count,
                dtype=layer.dtype,
                blockysize=min(self.STRIP_ROWS, rows),
                compress="deflate",
                zlevel=1,
                bigtiff="if_safer",
                interleave="band",
            )
        # Whole strips only: a strip written twice is compressed and stored twice.
        self._buffer = np.empty((layer.count, min(self.STRIP_ROWS, rows), width), layer.dtype)
        self._filled = self._written = 0

    def write(self, rows: np.ndarray) -> None:
        """Append rows (count, n, width).

        Raises:
            SceneError: GDAL cannot write, for example because the disk is full.
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
        if self._filled:
            window = rasterio.windows.Window(0, self._written, self._buffer.shape[2], self._filled)
            with writing(self.path):
                self._file.write(self._buffer[:, : self._filled], window=window)
            self._written += self._filled
            self._filled = 0

    def finish(self) -> None:
        """Write the buffer and close the file.

        Raises:
            SceneError: Rows are missing or GDAL cannot write.
        """
        self._flush()
        with writing(self.path):
            self._file.close()
        if self._written != self._rows:
            raise SceneError(
                f"{self.path.name}: incomplete",
                expected=f"{self._rows} rows",
                found=self._written,
                remedy="discard the unfinished map (--overwrite) and map again",
            )

    def close(self) -> None:
        """Close the file, finished or not."""
        # Errors of an unfinished file would hide the original one.
        with contextlib.suppress(*GDAL_ERRORS):
            self._file.close()


class Part(NamedTuple):
    """Rows of a layer in a file."""

    row_off: int
    rows: int
    path: Path
    first_row: int = 0
    """Row of the file that is the first of these."""
    first_col: int = 0
    """Column of the file that is the first of the layer."""


def crop_parts(parts: Sequence[Part], area: Window) -> list[Part]:
    """Return those parts of rows that lie in an area, relative to it."""
    found = []
    for row_off, rows, path, *_ in parts:
        first, last = max(row_off, area.row_off), min(row_off + rows, area.row_off + area.height)
        if first < last:
            place = first - area.row_off, last - first, path
            found.append(Part(*place, first - row_off, area.col_off))
    return found


def write_cog(
    path: Path, layer: Layer, geometry: SceneGeometry, parts: Sequence[Part], scratch: Path
) -> np.ndarray:
    """Join the parts of a layer into a Cloud-Optimised GeoTIFF, and read it back once.

    A COG cannot be written in one pass: GDAL's COG driver copies a virtual raster of the parts.

    Args:
        path: The file to write.
        layer: The layer.
        geometry: Of the scene.
        parts: All rows, from top to bottom.
        scratch: Folder for the virtual raster.

    Returns:
        (maximum + 1,) number of pixels of each value, over all bands, of unsigned integers up to
        16 bits; empty for other types.

    Raises:
        SceneError: Rows are missing or GDAL cannot write.
    """
    row = 0
    for part in parts:
        if part.row_off != row:
            raise SceneError(
                f"{path.name}: incomplete",
                expected=f"row {row}",
                found=part.row_off,
                remedy="discard the unfinished map (--overwrite) and map again",
            )
        row += part.rows
    if row != geometry.height:
        raise SceneError(
            f"{path.name}: incomplete",
            expected=f"{geometry.height} rows",
            found=row,
            remedy="discard the unfinished map (--overwrite) and map again",
        )
    virtual = scratch / "joined.vrt"
    write_vrt(virtual, layer, geometry, parts)
    counted = layer.dtype in ("uint8", "uint16")
    counts = np.zeros(np.iinfo(layer.dtype).max + 1 if counted else 0, np.int64)
    with writing(path), quiet():
        rasterio.shutil.copy(virtual, path, driver="COG", **layer.options(geometry))
        virtual.unlink()
        with quiet_open(path) as source:
            # A full disk may go unnoticed until a block is read.
            for _, window in source.block_windows(1):
                values = source.read(window=window)
                if counted:
                    counts += np.bincount(values.ravel(), minlength=len(counts))
    return counts


def write_vrt(path: Path, layer: Layer, geometry: SceneGeometry, parts: Sequence[Part]) -> None:
    """Write a virtual raster (VRT) of the parts of a layer, in the folder of the parts."""
    width = str(geometry.width)
    root = ElementTree.Element("VRTDataset", rasterXSize=width, rasterYSize=str(geometry.height))
    if geometry.crs is not None:
        ElementTree.SubElement(
            root, "SRS", dataAxisToSRSAxisMapping="1,2"
        ).text = geometry.crs.to_wkt()
    if not geometry.transform.is_identity:
        numbers = ", ".join(repr(float(value)) for value in geometry.transform.to_gdal())
        ElementTree.SubElement(root, "GeoTransform").text = numbers
    if layer.tags:
        metadata = ElementTree.SubElement(root, "Metadata")
        for key, value in layer.tags.items():
            ElementTree.SubElement(metadata, "MDI", key=key).text = value
    for number in range(1, layer.count + 1):
        band = ElementTree.SubElement(
            root, "VRTRasterBand", dataType=_GDAL_TYPES[layer.dtype], band=str(number)
        )
        ElementTree.SubElement(band, "Description").text = layer.descriptions[number - 1] or ""
        if layer.nodata is not None:
            ElementTree.SubElement(band, "NoDataValue").text = str(layer.nodata)
        if layer.scaling is not None:
            scale, offset = layer.scaling[number - 1]
            ElementTree.SubElement(band, "Offset").text = repr(offset)
            ElementTree.SubElement(band, "Scale").text = repr(scale)
        interpretation = "Palette" if layer.colormap else layer.colours[number - 1]
        ElementTree.SubElement(band, "ColorInterp").text = interpretation
        if layer.colormap:
            table = ElementTree.SubElement(band, "ColorTable")
            for value in sorted(layer.colormap):
                names = dict(zip(("c1", "c2", "c3"), map(str, layer.colormap[value]), strict=True))
                ElementTree.SubElement(table, "Entry", **names, c4="255")
        for part in parts:
            source = ElementTree.SubElement(band, "SimpleSource")
            ElementTree.SubElement(
                source, "SourceFilename", relativeToVRT="1"
            ).text = part.path.name
            ElementTree.SubElement(source, "SourceBand").text = str(number)
            rows = str(part.rows)
            size = {"xSize": width, "ySize": rows}
            first = {"xOff": str(part.first_col), "yOff": str(part.first_row)}
            ElementTree.SubElement(source, "SrcRect", **first, **size)
            ElementTree.SubElement(source, "DstRect", xOff="0", yOff=str(part.row_off), **size)
    ElementTree.ElementTree(root).write(path, encoding="unicode")


def try_options(layer: Layer, geometry: SceneGeometry) -> None:
    """Check creation options on a tiny file in memory before the scene is processed.

    Raises:
        SceneError: An option is invalid, unknown, or makes the file lossy.
    """
    size = 64
    values = np.arange(layer.count * size * size, dtype=np.int64) * 7 % 251
    values = values.reshape(layer.count, size, size).astype(layer.dtype)
    options = layer.options(geometry)
    try:
        with MemoryFile(ext=".tif") as plain, MemoryFile(ext=".tif") as cog, quiet():
            part = PartFile(Path(plain.name), layer, size, size)
            part.write(values)
            part.finish()
            with _gdal_messages() as messages:
                rasterio.shutil.copy(plain.name, cog.name, driver="COG", **options)
            with quiet_open(cog.name) as source:
                kept = np.array_equal(source.read(), values)
        if messages:
            raise ValueError(messages[0])
    except (*GDAL_ERRORS, ValueError) as error:
        raise SceneError(
            "creation options",
            expected="options of GDAL's COG driver",
            found=f"{options}: {reason(error)}",
            remedy="see the COG driver in GDAL's documentation",
        ) from error
    if not kept:
        raise SceneError(
            "creation options",
            expected="a lossless compression, such as DEFLATE, LZW or ZSTD",
            found=options,
            remedy="choose a different COMPRESS: classes and scores must be lossless",
        )


def _block_size(geometry: SceneGeometry) -> int:
    """Return the block size of a COG: 512, unless rio-cogeo's validator rejects it.

    It considers an image (or overview) of over 512 rows striped if its blocks have its width.
    """
    for size in (BLOCK_SIZE, 256):
        height, width = geometry.height, geometry.width
        while height > 512 and width != size:
            height, width = math.ceil(height / 2), math.ceil(width / 2)
        if height <= 512:
            return size
    return 384  # widths that halve to 512 or 256 never halve to 384


@contextlib.contextmanager
def _gdal_messages() -> Iterator[list[str]]:
    """Collect GDAL's warnings about unknown creation options, which it ignores."""
    messages: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())
    logger = logging.getLogger("rasterio._env")
    logger.addHandler(handler)
    try:
        yield messages
    finally:
        logger.removeHandler(handler)
