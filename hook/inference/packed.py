"""Files of packed codes, ``.hkc``: by a table of frequencies, or by a generator's probabilities.

A file has a header in JSON with tags, CRS, transform and size; then, for parts of the rows, the
codes (:func:`hook.evaluation.rates.pack_codes`) with a checksum, or which places have one, and the
validity bands in zlib. With a generator there follow an index and blocks of codes, each of which is
packed alone.
"""

import json
import math
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import rasterio
from rasterio.windows import Window

from hook.errors import ConfigError, DataError
from hook.geo.arrays import CODE_TAGS
from hook.geo.raster import open_raster, quiet_open
from hook.inference.entropy import EntropyModel
from hook.progress import progress_bar

_MAGIC = b"HKS1"
_CHUNK = 1 << 22  # codes that are packed at once
_TILES = 8  # of a generator, along a side of a block
_INDEX = np.dtype([("size", "<u4"), ("sum", "<u4"), ("codes", "<u4")])  # of each block, with CRC-32


# ------------------------------------------------------------------------------------ writing
def pack_file(path: Path) -> None:
    """Replace a GeoTIFF of codes by a file of the same codes packed with tables of frequencies."""
    from hook.evaluation.rates import pack_codes  # imports Pillow

    packed = path.with_name("packed")
    with open_raster(path) as source, packed.open("wb") as file:
        header = _header(source)
        sizes = json.loads(header["tags"]["HOOK_SIZES"])
        _write(file, "<I", zlib.compress(json.dumps(header).encode(), 9), _MAGIC)
        for window in _strips(header):
            values = source.read(window=window)
            codes = np.moveaxis(values[: len(sizes)], 0, -1).astype(np.int64)
            part = pack_codes(codes, [max(sizes) + 1] * len(sizes))
            _write(file, "<Q", part + struct.pack("<I", zlib.crc32(part)))
            _write_words(file, values[len(sizes) :])
    packed.replace(path)


@dataclass
class ModelPacker:
    """Replaces a GeoTIFF of codes by a file that a generator packed.

    Attributes:
        model: The generator.
        progress: Show a progress bar.
        samples: Windows of an estimate, fewer than without a generator.
    """

    model: EntropyModel
    progress: bool = False
    samples: int = field(default=4, init=False)

    @property
    def digest(self) -> str:
        """That of the generator."""
        return self.model.digest

    def __call__(self, path: Path) -> dict[str, float]:
        """Pack a file; return the values of a report: bytes, expected bytes and the model's."""
        packed, blocks, index, bits = path.with_name("packed"), [], [], 0.0
        with open_raster(path) as source, packed.open("wb") as file:
            header, model = _header(source), self.model
            count = len(json.loads(header["tags"]["HOOK_SIZES"]))
            own = dict(name=model.name, digest=model.digest, tile=model.tile, tiles=_TILES)
            header["model"] = own | dict(versions=model.versions)
            windows = _block_windows(header)
            for window in progress_bar(
                windows, desc="packing", unit="block", show=self.progress, leave=False
            ):
                codes, known, _ = _tiles(source.read(window=window), header)
                payload = b""
                if known.any():
                    payload, needed = model.pack(codes, known)
                    bits += needed
                blocks.append(payload)
                index.append((len(payload), zlib.crc32(payload), _checksum(codes)))
            table = np.array(index, _INDEX).tobytes()
            header["model"]["index"] = zlib.crc32(table)  # damage would leave blocks out
            _write(file, "<I", zlib.compress(json.dumps(header).encode(), 9), _MAGIC)
            for window in _strips(header):
                values = source.read(window=window)
                known = values[0] != source.nodata
                _write(file, "<Q", zlib.compress(np.packbits(known).tobytes(), 9))
                _write_words(file, values[count:])
            file.write(b"".join([table, *blocks]))
        packed.replace(path)
        size = sum(map(len, blocks)) + _INDEX.itemsize * len(blocks)
        return dict(code_bytes=size, expected_bytes=bits / 8, model_bytes=model.bytes)


def packed_size(
    model: EntropyModel, codes: np.ndarray, tiles: int = _TILES**2
) -> tuple[int, float]:
    """Pack the codes of tiles in blocks, and unpack them again.

    Args:
        model: The generator.
        codes: (T, N, Q), all known.
        tiles: Tiles of a block.

    Returns:
        Bytes with the index of the blocks, and the bits by the model's probabilities.

    Raises:
        DataError: Codes came back as others.
    """
    size, bits = 0, 0.0
    for start in range(0, len(codes), tiles):
        part = codes[start : start + tiles]
        known = np.ones(part.shape[:2], bool)
        payload, needed = model.pack(part, known)
        if not np.array_equal(model.unpack(payload, known), part):
            raise DataError(
                "packed codes came back as others",
                expected="the codes that were packed",
                remedy="report it with these versions: " + model.versions,
            )
        size, bits = size + len(payload) + _INDEX.itemsize, bits + needed
    return size, bits


def _header(source: Any) -> dict[str, Any]:
    return {
        "tags": {k: v for k, v in source.tags().items() if k.startswith(CODE_TAGS)},
        "crs": source.crs and source.crs.to_wkt(),
        "transform": list(source.transform)[:6],
        "shape": [source.count, *source.shape],
        "rows": max(1, _CHUNK // source.width),
    }


def _strips(header: dict) -> Iterator[Window]:
    _, height, width = header["shape"]
    for row in range(0, height, header["rows"]):
        yield Window(0, row, width, min(header["rows"], height - row))


def _block_windows(header: dict) -> list[Window]:
    """Return the blocks of a generator's tiles, row by row."""
    _, height, width = header["shape"]
    rows, columns = (header["model"]["tiles"] * side for side in header["model"]["tile"])
    return [
        Window(column, row, min(columns, width - column), min(rows, height - row))
        for row in range(0, height, rows)
        for column in range(0, width, columns)
    ]


def _tiles(values: np.ndarray, header: dict) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the codes (T, N, Q) of the tiles of a block (bands, h, w) of a file.

    With them, which places have a code (T, N), and their numbers in the block. Tiles without a code
    are left out, other codes without data are 0.
    """
    sizes = json.loads(header["tags"]["HOOK_SIZES"])
    height, width = values.shape[1:]
    rows, columns = header["model"]["tile"]
    numbers = np.arange(height * width).reshape(1, height, width)
    values = np.concatenate([values[: len(sizes)].astype(np.int64), numbers])
    pads = ((0, 0), (0, -height % rows), (0, -width % columns))
    values = np.pad(values, pads, constant_values=max(sizes))
    shape = -1, values.shape[1] // rows, rows, values.shape[2] // columns, columns
    tiles = values.reshape(shape).transpose(1, 3, 2, 4, 0).reshape(-1, rows * columns, len(values))
    known = tiles[..., 0] != max(sizes)
    tiles, known = tiles[known.any(axis=1)], known[known.any(axis=1)]
    return np.where(known[..., None], tiles[..., :-1], 0), known, tiles[..., -1]


def _checksum(codes: np.ndarray) -> int:
    return zlib.crc32(codes.astype("<u4").tobytes())


def _write(file: BinaryIO, length: str, part: bytes, before: bytes = b"") -> None:
    file.write(before + struct.pack(length, len(part)) + part)


def _write_words(file: BinaryIO, words: np.ndarray) -> None:
    if len(words):
        _write(file, "<Q", zlib.compress(words.tobytes(), 9))


# ------------------------------------------------------------------------------------ reading
@contextmanager
def unpacked(path: str | Path, folder: Path) -> Iterator[tuple[str | Path, "CodeBlocks | None"]]:
    """Yield the GeoTIFF of codes of a file: itself, or one unpacked into a folder.

    With it come the blocks that a generator packed, of which all codes are 0 until they are filled
    in; None without.

    Raises:
        DataError: The file is not complete.
    """
    source, begin = Path(path), b""
    if source.is_file():
        with source.open("rb") as file:
            begin = file.read(len(_MAGIC))
    if begin != _MAGIC:
        yield path, None
        return
    target, blocks = folder / f"{source.stem}.tif", None
    try:
        with source.open("rb") as file:
            file.seek(len(_MAGIC))
            header = json.loads(zlib.decompress(_read(file, "<I")))
            _unpack(file, header, target)
            if "model" in header:
                blocks = CodeBlocks.read(file, source, target, header)
    except (ValueError, KeyError, TypeError, struct.error, zlib.error, IndexError) as error:
        raise DataError(
            f"{path}: is not a complete file of packed codes",
            expected="a file of hook encode --entropy",
            found=str(error),
            remedy="copy it again, or write it again with hook encode",
        ) from None
    _copy_times(source, target)
    yield target, blocks


def _copy_times(source: Path, target: Path) -> None:
    """Give a file the times of another, so that a resumed run finds its input unchanged."""
    status = source.stat()
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))


def _unpack(file: BinaryIO, header: dict, target: Path) -> None:
    from hook.evaluation.rates import unpack_codes  # imports Pillow

    count, height, width = header["shape"]
    sizes = json.loads(header["tags"]["HOOK_SIZES"])
    dtype = np.min_scalar_type(max(sizes))
    profile = dict(
        driver="GTiff", count=count, height=height, width=width, dtype=dtype.name,
        nodata=max(sizes), compress="deflate", tiled=True,
        transform=rasterio.Affine(*header["transform"]),
        crs=header["crs"] and rasterio.CRS.from_wkt(header["crs"]),
    )  # fmt: skip
    with quiet_open(target, "w", **profile) as sink:
        sink.update_tags(**header["tags"])
        for window in _strips(header):
            part, shape = _read(file, "<Q"), (window.height, width)
            if "model" in header:
                bits = np.unpackbits(np.frombuffer(zlib.decompress(part), np.uint8))
                known = bits[: math.prod(shape)].reshape(shape)
                codes = np.repeat(np.where(known, 0, max(sizes))[None], len(sizes), axis=0)
            else:
                part, expected = part[:-4], struct.unpack("<I", part[-4:])[0]
                if zlib.crc32(part) != expected:  # damage gives other codes, not an error
                    raise ValueError(f"the codes of row {window.row_off} and following are damaged")
                codes = np.moveaxis(unpack_codes(part), -1, 0)
            sink.write(codes.astype(dtype), list(range(1, len(sizes) + 1)), window=window)
            if count > len(sizes):
                words = np.frombuffer(zlib.decompress(_read(file, "<Q")), dtype)
                words = words.reshape(count - len(sizes), *shape)
                sink.write(words, list(range(len(sizes) + 1, count + 1)), window=window)


def _read(file: BinaryIO, length: str) -> bytes:
    """Read a part that its length precedes."""
    return _read_bytes(file, struct.unpack(length, file.read(struct.calcsize(length)))[0])


def _read_bytes(file: BinaryIO, size: int) -> bytes:
    left = os.fstat(file.fileno()).st_size - file.tell()
    if left < size:  # not read: a damaged length is larger than the memory
        raise ValueError(f"it ends {size - left} bytes early")
    return file.read(size)


@dataclass
class CodeBlocks:
    """Blocks of codes of a file that a generator packed, each of which is unpacked alone.

    Attributes:
        path: The file.
        target: The GeoTIFF that is filled.
        header: The file's.
        index: Sizes and checksums of the blocks.
        starts: Bytes of the file in front of each.
        filled: Numbers of the blocks in ``target``.
        model: The generator, see :meth:`use`.
        progress: Show a progress bar.
    """

    path: Path
    target: Path
    header: dict
    index: np.ndarray
    starts: np.ndarray
    filled: set[int] = field(default_factory=set)
    model: EntropyModel | None = None
    progress: bool = False

    @classmethod
    def read(cls, file: BinaryIO, path: Path, target: Path, header: dict) -> "CodeBlocks":
        """Read the index of a file."""
        count = len(_block_windows(header))
        table = _read_bytes(file, count * _INDEX.itemsize)
        if zlib.crc32(table) != header["model"]["index"]:
            raise ValueError("the index of its blocks is damaged")
        index = np.frombuffer(table, _INDEX)
        sizes = index["size"].astype(np.int64)
        starts = file.tell() + np.cumsum(sizes) - sizes
        missing = file.tell() + int(sizes.sum()) - path.stat().st_size
        if missing > 0:
            raise ValueError(f"it ends {missing} bytes early")
        return cls(path, target, header, index, starts)

    @property
    def facts(self) -> dict[str, Any]:
        """Name, digest and versions of the generator, and the sizes of tiles and blocks."""
        return self.header["model"]

    def use(self, model: EntropyModel, progress: bool) -> "CodeBlocks":
        """Set the generator that unpacks, and whether a progress bar is shown.

        Raises:
            ConfigError: It is not that of the file.
        """
        if model.digest != self.facts["digest"]:
            raise ConfigError(
                f"{self.path}: the codes were packed with another generator",
                expected=f"{self.facts['name']}, SHA-256 {self.facts['digest'][:16]}...",
                found=f"{model.name}, SHA-256 {model.digest[:16]}...",
                remedy="pass the generator that packed them, with the same weights (--entropy)",
            )
        self.model, self.progress = model, progress
        return self

    def missing(self, rows: tuple[int, int], columns: tuple[int, int]) -> list[int]:
        """Return the blocks of rows and columns (first, end) of the codes that are not filled."""
        return [
            number
            for number, window in enumerate(_block_windows(self.header))
            if number not in self.filled
            and self.index["size"][number]
            and rows[0] - window.height < window.row_off < rows[1]
            and columns[0] - window.width < window.col_off < columns[1]
        ]

    def __call__(self, rows: tuple[int, int], columns: tuple[int, int]) -> int:
        """Unpack the missing blocks of rows and columns; return their number.

        Raises:
            DataError: A block is damaged, or its probabilities are others than where it was packed.
        """
        missing, windows = self.missing(rows, columns), _block_windows(self.header)
        bar = progress_bar(missing, desc="unpacking", unit="block", show=self.progress)
        with quiet_open(self.target, "r+") as sink, self.path.open("rb") as file:
            for number in bar:
                file.seek(int(self.starts[number]))
                payload = file.read(int(self.index["size"][number]))
                self._fill(sink, windows[number], number, payload)
                self.filled.add(number)
        _copy_times(self.path, self.target)
        return len(missing)

    def _fill(self, sink: Any, window: Window, number: int, payload: bytes) -> None:
        count = len(self.model.sizes)
        bands = list(range(1, count + 1))
        place = f"{self.path}: block {number} (rows {window.row_off} and following, columns "
        place += f"{window.col_off} and following, of the codes)"
        if zlib.crc32(payload) != self.index["sum"][number]:
            raise DataError(
                f"{place} is damaged",
                expected=f"the checksum {self.index['sum'][number]:08x}",
                found=f"{zlib.crc32(payload):08x}",
                remedy="copy the file again, or write it again with hook encode",
            )
        values = sink.read(bands, window=window)
        _, known, places = _tiles(values, self.header)
        codes = self.model.unpack(payload, known)
        if _checksum(codes) != self.index["codes"][number]:
            raise DataError(
                f"{place} does not decode to its codes: the generator gives other probabilities "
                "here than where they were packed",
                expected=self.facts["versions"],
                found=self.model.versions,
                remedy="decode with these versions, this number of threads (--threads) and this "
                "device (--device)",
            )
        values.reshape(count, -1)[:, places[known]] = codes[known].T
        sink.write(values, bands, window=window)
