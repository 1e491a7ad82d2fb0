"""Layers of a map: what finished rows become, and how they become Cloud-Optimised GeoTIFFs."""

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

from hook.errors import SceneError
from hook.geo.raster import GDAL_ERRORS, quiet, quiet_open, reason
from hook.geo.staging import StagedFiles
from hook.geo.styles import Colour, map_dtype, write_category_names, write_qml
from hook.scenes.blending import RowBlock

BLOCK_SIZE = 512
SCORE_SCALE = 0.004
"""What one step of a score layer's uint8 is worth: 250 steps are exactly 1."""
SCORE_NODATA = 255
SCORE_KINDS = ("probs", "entropy", "margin")
_GDAL_TYPES = {"uint8": "Byte", "uint16": "UInt16"}


class SceneGeometry(NamedTuple):
    """Size and place of a scene."""

    height: int
    width: int
    crs: CRS | None
    transform: rasterio.Affine


class Layer(ABC):
    """One file of a map.

    Args:
        output: Its final name.
        count: Number of bands.
        dtype: Data type of the bands, uint8 or uint16.
        nodata: Value of pixels without data.
        descriptions: One per band.
        resampling: Of the overviews, in GDAL's words.
        colormap: Value -> (red, green, blue), for a single band.
        scale: Factor from stored to real values.
        creation_options: Options of GDAL's COG driver, over the defaults.
    """

    def __init__(
        self,
        output: Path,
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
        self.output = Path(output)
        self.count, self.dtype, self.nodata = count, dtype, nodata
        self.descriptions = list(descriptions)
        self.resampling = resampling
        self.colormap, self.scale = colormap, scale
        self.creation_options = {
            str(key).upper(): str(value) for key, value in (creation_options or {}).items()
        }

    @abstractmethod
    def encode(self, block: RowBlock) -> np.ndarray:
        """Turn finished rows into stored values (count, n, width)."""

    def add_to(self, files: StagedFiles) -> Path:
        """Claim the layer's names; return where the GeoTIFF is to be written."""
        for ending in (".ovr", ".msk"):  # GDAL would take these for the new file's
            files.supersede(f"{self.output}{ending}")
        return files.add(self.output)

    @abstractmethod
    def finish(self) -> None:
        """Write the files beside the GeoTIFF."""

    def options(self, geometry: SceneGeometry) -> dict[str, object]:
        """Give the options of GDAL's COG driver."""
        return {
            "BLOCKSIZE": _block_size(geometry),
            "COMPRESS": "DEFLATE",
            "BIGTIFF": "IF_SAFER",
            "OVERVIEW_RESAMPLING": self.resampling,
            "NUM_THREADS": "ALL_CPUS",  # blocks are written in order: the bytes are the same
            **self.creation_options,
        }

    def describe(self) -> dict[str, object]:
        """Give what decides the bytes of the file, for a fingerprint."""
        return {
            "kind": type(self).__name__,
            "bands": self.descriptions,
            "dtype": self.dtype,
            "nodata": self.nodata,
            "colours": [list(colour) for colour in (self.colormap or {}).values()],
            "creation options": self.creation_options,
        }


class ClassLayer(Layer):
    """The class of each pixel: a COG with a colour table, class names beside it, and a style.

    Values are class indexes: uint8, or uint16 above 255 classes. Pixels that are not valid hold
    ``nodata``. Ties go to the lower class.

    Args:
        output: Final name of the map.
        class_names: One per class.
        palette: (red, green, blue) per class.
        nodata: Value of pixels without data; 255, or 65535 above 255 classes, if None.
        creation_options: Options of GDAL's COG driver, over the defaults.

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
        """Turn finished rows into classes (1, n, width)."""
        classes = block.scores.argmax(axis=0).astype(self.dtype)
        classes[~block.valid] = self.nodata
        return classes[np.newaxis]

    def add_to(self, files: StagedFiles) -> Path:
        """Claim the names of the side files and, last, of the map: where it is, all is."""
        self._category_path = files.add(f"{self.output}.aux.xml")
        self._style_path = files.add(self.output.with_suffix(".qml"))
        return super().add_to(files)

    def finish(self) -> None:
        """Write the class names and the style."""
        write_category_names(self._category_path, self.class_names)
        write_qml(self._style_path, self.class_names, self.palette)

    def describe(self) -> dict[str, object]:
        """Give what decides the bytes of the files, for a fingerprint."""
        return {**super().describe(), "classes": self.class_names}


class ScoreLayer(Layer):
    """How sure a map is: a COG of uint8 bands, ``value x 0.004``, nodata 255.

    ``probs`` has a band per class, its probability. ``entropy`` is the entropy of the
    probabilities over that of K equal ones, 0 where one class is certain and 1 where all are
    alike; ``margin`` is the largest probability less the second largest.

    Args:
        output: Final name of the file.
        class_names: One per class.
        kinds: One or more of :data:`SCORE_KINDS`, whose bands follow each other.
        creation_options: Options of GDAL's COG driver, over the defaults.

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
                remedy="choose scores among these (--scores)",
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
            scale=SCORE_SCALE,
            creation_options=creation_options,
        )

    def add_to(self, files: StagedFiles) -> Path:
        """Claim the file's name."""
        files.supersede(f"{self.output}.aux.xml")
        return super().add_to(files)

    def finish(self) -> None:
        """Do nothing: no file lies beside the scores."""

    def encode(self, block: RowBlock) -> np.ndarray:
        """Turn finished rows into steps of the scale (count, n, width).

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
        scores = np.clip(scores, 0, 1)
        bands = {"probs": lambda: scores, "entropy": lambda: _entropy(scores)}
        bands["margin"] = lambda: _margin(scores)
        stored = np.concatenate([bands[kind]() for kind in self.kinds])
        stored = np.rint(np.clip(stored, 0, 1) * np.float32(1 / SCORE_SCALE)).astype(np.uint8)
        stored[:, ~block.valid] = SCORE_NODATA
        return stored


def _entropy(probabilities: np.ndarray) -> np.ndarray:
    """Entropy over its largest value, (1, n, width); 0 for a single class."""
    if len(probabilities) == 1:
        return np.zeros_like(probabilities)
    logs = np.log(probabilities, out=np.zeros_like(probabilities), where=probabilities > 0)
    entropy = -(probabilities * logs).sum(axis=0, keepdims=True)
    return entropy / np.float32(math.log(len(probabilities)))


def _margin(probabilities: np.ndarray) -> np.ndarray:
    """Largest less second largest, (1, n, width); the only one for a single class."""
    if len(probabilities) == 1:
        return probabilities
    second, first = np.partition(probabilities, -2, axis=0)[-2:]
    return (first - second)[np.newaxis]


class PartFile:
    """Consecutive rows of a layer as a plain GeoTIFF in strips, from which the layer is made.

    Args:
        path: The file to write.
        layer: The layer.
        rows: Number of rows.
        width: Width of the scene.
    """

    STRIP_ROWS = 64
    """Rows of a strip: what is buffered before it is compressed."""

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
        if self._filled:
            window = rasterio.windows.Window(0, self._written, self._buffer.shape[2], self._filled)
            with writing(self.path):
                self._file.write(self._buffer[:, : self._filled], window=window)
            self._written += self._filled
            self._filled = 0

    def finish(self) -> None:
        """Write what is buffered and close the file.

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
                remedy="throw away what was left (--overwrite) and map again",
            )

    def close(self) -> None:
        """Release the file, finished or not."""
        # An unfinished file is thrown away; the error that left it so is the one to see.
        with contextlib.suppress(*GDAL_ERRORS):
            self._file.close()


class Part(NamedTuple):
    """Rows of a layer in a file."""

    row_off: int
    rows: int
    path: Path


def write_cog(
    path: Path, layer: Layer, geometry: SceneGeometry, parts: Sequence[Part], scratch: Path
) -> np.ndarray:
    """Join the parts of a layer into its Cloud-Optimised GeoTIFF, and read it once.

    A COG cannot be written in one pass, so GDAL's COG driver copies the parts, which a virtual
    raster presents as one.

    Args:
        path: The file to make.
        layer: The layer.
        geometry: Size and place of the scene.
        parts: All rows, from top to bottom.
        scratch: Folder for the virtual raster.

    Returns:
        (largest value + 1,) number of pixels of each value, over all bands.

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
                remedy="throw away what was left (--overwrite) and map again",
            )
        row += part.rows
    if row != geometry.height:
        raise SceneError(
            f"{path.name}: incomplete",
            expected=f"{geometry.height} rows",
            found=row,
            remedy="throw away what was left (--overwrite) and map again",
        )
    virtual = scratch / f"{path.stem}.vrt"
    write_vrt(virtual, layer, geometry, parts)
    counts = np.zeros(np.iinfo(layer.dtype).max + 1, np.int64)
    with writing(path), quiet():
        rasterio.shutil.copy(virtual, path, driver="COG", **layer.options(geometry))
        virtual.unlink()
        with quiet_open(path) as source:
            # A full disk may go unnoticed until a block is asked for.
            for _, window in source.block_windows(1):
                values = source.read(window=window)
                counts += np.bincount(values.ravel(), minlength=len(counts))
    return counts


def write_vrt(path: Path, layer: Layer, geometry: SceneGeometry, parts: Sequence[Part]) -> None:
    """Write GDAL's virtual raster of the parts of a layer.

    Args:
        path: The ``.vrt``, in the folder of the parts.
        layer: The layer.
        geometry: Size and place of the scene.
        parts: All rows, from top to bottom.
    """
    width = str(geometry.width)
    root = ElementTree.Element("VRTDataset", rasterXSize=width, rasterYSize=str(geometry.height))
    if geometry.crs is not None:
        ElementTree.SubElement(
            root, "SRS", dataAxisToSRSAxisMapping="1,2"
        ).text = geometry.crs.to_wkt()
    if not geometry.transform.is_identity:
        numbers = ", ".join(repr(float(value)) for value in geometry.transform.to_gdal())
        ElementTree.SubElement(root, "GeoTransform").text = numbers
    for number in range(1, layer.count + 1):
        band = ElementTree.SubElement(
            root, "VRTRasterBand", dataType=_GDAL_TYPES[layer.dtype], band=str(number)
        )
        ElementTree.SubElement(band, "Description").text = layer.descriptions[number - 1]
        ElementTree.SubElement(band, "NoDataValue").text = str(layer.nodata)
        if layer.scale is not None:
            ElementTree.SubElement(band, "Offset").text = "0"
            ElementTree.SubElement(band, "Scale").text = repr(layer.scale)
        interpretation = "Palette" if layer.colormap else "Gray" if number == 1 else "Undefined"
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
            place = {"xOff": "0", "xSize": width, "ySize": rows}
            ElementTree.SubElement(source, "SrcRect", yOff="0", **place)
            ElementTree.SubElement(source, "DstRect", yOff=str(part.row_off), **place)
    ElementTree.ElementTree(root).write(path, encoding="unicode")


def try_options(layer: Layer, geometry: SceneGeometry, scratch: Path) -> None:
    """Make a tiny file first: a refused option is better known before hours of work.

    Raises:
        SceneError: GDAL refuses an option, does not know it, or it loses values.
    """
    size = 64
    plain, cog = scratch / "trial.tif", scratch / "trial.cog.tif"
    values = np.arange(layer.count * size * size, dtype=np.int64) * 7 % 251
    values = values.reshape(layer.count, size, size).astype(layer.dtype)
    options = layer.options(geometry)
    try:
        part = PartFile(plain, layer, size, size)
        part.write(values)
        part.finish()
        with quiet():
            with _gdal_messages() as messages:
                rasterio.shutil.copy(plain, cog, driver="COG", **options)
            with quiet_open(cog) as source:
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
    finally:
        plain.unlink(missing_ok=True)
        cog.unlink(missing_ok=True)
    if not kept:
        raise SceneError(
            "creation options",
            expected="a lossless compression, such as DEFLATE, LZW or ZSTD",
            found=options,
            remedy="choose another COMPRESS: classes and scores must come back as they were",
        )


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
def writing(path: Path) -> Iterator[None]:
    """Tell errors of GDAL as errors of the file being written."""
    try:
        yield
    except GDAL_ERRORS as error:
        raise SceneError(
            f"{path.name}: cannot be written",
            found=reason(error),
            remedy="check the free space of the disk and the folder's permissions",
        ) from error
