"""Bytes of codes as a file, and today's image codecs at as many bytes.

References:
    Bamler, "Understanding entropy coding with asymmetric numeral systems (ANS): a statistician's
    perspective", arXiv:2201.01741: the library ``constriction``, whose range coder packs codes.
"""

import importlib.util
import io
import math
import struct
import time
import zlib
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
from PIL import Image, features
from rasterio.io import MemoryFile

from hook.errors import ConfigError, DataError
from hook.geo.raster import quiet

# ------------------------------------------------------------------------------ files of codes
_MAGIC = b"HKC1"
_STEPS = 2  # of a frequency in the table, per power of two: finer ones cost more than they save
_MAX_TRIES, _FINEST = 14, 0.001  # of a quality, and its smallest change


def pack_codes(codes: np.ndarray, sizes: Sequence[int]) -> bytes:
    """Pack codes with a table of frequencies per column, which is part of the file.

    Args:
        codes: (..., Q) integers.
        sizes: Number of codes of each column.

    Raises:
        ConfigError: The library ``constriction`` is missing.
        DataError: A code is outside its codebook.
    """
    coder = load_constriction()
    codes = np.asarray(codes)
    columns = codes.reshape(-1, codes.shape[-1]).T
    if len(columns) != len(sizes) or any(
        column.size and not 0 <= column.min() <= column.max() < size
        for column, size in zip(columns, sizes, strict=False)
    ):
        raise DataError(
            "a code is outside its codebook",
            expected=f"below {tuple(sizes)}",
            remedy="pack codes with the sizes of the quantizer that made them",
        )
    parts = [_MAGIC, struct.pack(f"<B{codes.ndim}I", codes.ndim, *codes.shape)]
    for column, size in zip(columns, sizes, strict=True):
        counts = np.bincount(column, minlength=size)
        levels = np.zeros(size, np.uint8)
        levels[counts > 0] = 1 + np.rint(_STEPS * np.log2(counts[counts > 0]))
        table = zlib.compress(levels.tobytes(), 9)
        encoder = coder.stream.queue.RangeEncoder()
        encoder.encode(column.astype(np.int32), _frequencies(coder, levels))
        payload = encoder.get_compressed().astype("<u4").tobytes()
        parts += [struct.pack("<II", len(table), len(payload)), table, payload]
    return b"".join(parts)


def unpack_codes(packed: bytes) -> np.ndarray:
    """Return the (..., Q) int64 codes of :func:`pack_codes`."""
    coder = load_constriction()
    ndim = packed[len(_MAGIC)]
    shape = struct.unpack_from(f"<{ndim}I", packed, len(_MAGIC) + 1)
    start = len(_MAGIC) + 1 + 4 * ndim
    columns = []
    for _ in range(shape[-1]):
        ends = np.cumsum([start + 8, *struct.unpack_from("<II", packed, start)])
        levels = np.frombuffer(zlib.decompress(packed[ends[0] : ends[1]]), np.uint8)
        payload = np.frombuffer(packed[ends[1] : ends[2]], "<u4").astype(np.uint32)
        decoder = coder.stream.queue.RangeDecoder(payload)
        columns.append(decoder.decode(_frequencies(coder, levels), math.prod(shape[:-1])))
        start = int(ends[2])
    return np.stack(columns, axis=-1).reshape(shape).astype(np.int64)


def pack_token_ids(token_ids: np.ndarray) -> bytes:
    """Pack maps of tokens (N, h, w), up to 65,534 tokens and -1 for none, as one PNG."""
    stored = token_ids + 1
    stored = stored.astype(np.uint8 if stored.max() < 256 else np.uint16)
    mosaic = to_mosaic(stored[:, None], math.ceil(math.sqrt(len(stored))))[0]
    file = io.BytesIO()
    Image.fromarray(mosaic).save(file, "PNG", optimize=True)
    return file.getvalue()


def unpack_token_ids(packed: bytes, count: int) -> np.ndarray:
    """Return the ``count`` maps (N, h, w) int64 of :func:`pack_token_ids`."""
    mosaic = np.asarray(Image.open(io.BytesIO(packed)))[None]
    return from_mosaic(mosaic, count, math.ceil(math.sqrt(count)))[:, 0].astype(np.int64) - 1


def _frequencies(coder: Any, levels: np.ndarray) -> Any:
    weights = np.where(levels > 0, 2.0 ** ((levels - 1.0) / _STEPS), 0)
    if len(weights) == 1:  # the coder wants two symbols
        weights = np.append(weights, 0)
    total = weights.sum() or 1.0
    return coder.stream.model.Categorical((weights / total).astype(np.float64), perfect=False)


def load_constriction() -> Any:
    """Import the library of the range coder.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        import constriction
    except ImportError:
        raise _missing("codes are packed by constriction", "constriction") from None
    return constriction


def _missing(what: str, library: str) -> ConfigError:
    return ConfigError(
        f"{what}, which is not installed",
        expected=library,
        remedy="pip install hook-rs[codecs]",
    )


# ------------------------------------------------------------------------------ image codecs
@dataclass(frozen=True)
class ImageCodec:
    """A codec of images of today, at its slow setting.

    Attributes:
        name: Name in tables.
        encode: ((C, H, W) integers, quality) -> file.
        decode: File -> (C, H, W).
        qualities: Lowest and highest quality.
        bands: Number of bands it takes; None for any.
        draft: A faster ``encode`` to files of about the same size. The quality is then searched
            among integers, with it first.
    """

    name: str
    encode: Callable[[np.ndarray, float], bytes]
    decode: Callable[[bytes], np.ndarray]
    qualities: tuple[float, float]
    bands: int | None = 3
    draft: Callable[[np.ndarray, float], bytes] | None = None

    def takes(self, image: np.ndarray) -> bool:
        """Return whether the codec takes an image (C, H, W)."""
        if self.bands is None:
            return image.dtype in (np.uint8, np.uint16, np.int16)
        return image.dtype == np.uint8 and len(image) == self.bands

    def within(
        self, image: np.ndarray, budget: float, tolerance: float = 0.005
    ) -> tuple[bytes, float] | None:
        """Return the largest file within a budget of bytes.

        Args:
            image: (C, H, W).
            budget: Bytes.
            tolerance: Share of the budget that may stay unused, where the quality is a number.

        Returns:
            The file and the seconds that coding it took, the mean of all that were tried; None if
            no quality above the lowest fits, where a codec is not meant to be used.
        """
        times: list[float] = []

        def encode(quality: float) -> bytes:
            start = time.perf_counter()
            file = self.encode(image, quality)
            times.append(time.perf_counter() - start)
            return file

        if self.draft is None:
            file = self._narrow(encode, budget, tolerance)
        else:
            file = self._guess(encode, partial(self.draft, image), budget)
        return None if file is None else (file, float(np.mean(times)))

    def _narrow(
        self, encode: Callable[[float], bytes], budget: float, tolerance: float
    ) -> bytes | None:
        """Halve the range and interpolate in it by turns."""
        low, high = self.qualities
        smaller, larger = len(encode(low)), math.inf
        if smaller > budget:
            return None
        best, aim = None, (1 - tolerance / 2) * budget
        for number in range(_MAX_TRIES):
            if high - low < _FINEST * abs(high):  # sizes jump there
                break
            share = 0.5
            if number % 2 and larger < math.inf:
                share = min(0.999, max(0.001, (aim - smaller) / (larger - smaller)))
            quality = low + share * (high - low)
            file = encode(quality)
            if len(file) > budget:
                high, larger = quality, len(file)
                continue
            low, smaller = quality, len(file)
            best = file if best is None or len(file) >= len(best) else best
            if len(file) > (1 - tolerance) * budget:
                break
        return best

    def _guess(
        self, encode: Callable[[float], bytes], draft: Callable[[float], bytes], budget: float
    ) -> bytes | None:
        """Try the quality that drafts find, then that of drafts as much larger as it was."""
        low, high = self.qualities
        draft_size = cache(lambda quality: len(draft(quality)))

        def search(ratio: float) -> int:
            qualities = range(low + 1, high + 1)
            return low + bisect_right(qualities, budget, key=lambda q: ratio * draft_size(q))

        best, lost, quality = None, high + 1, max(low + 1, search(1.0))
        fitting = low
        while fitting < quality < lost:
            file = encode(quality)
            if len(file) <= budget:
                best, fitting = file, quality
            else:
                lost = quality
            quality = min(search(len(file) / draft_size(quality)), lost - 1)
        return best


def _pillow(kind: str, options: dict, image: np.ndarray, quality: float) -> bytes:
    buffer = io.BytesIO()
    picture = Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0)))
    picture.save(buffer, kind, quality=quality, **options)
    return buffer.getvalue()


def _jpeg(image: np.ndarray, quality: float) -> bytes:
    """Encode with the library's tables, scaled as for a quality that need not be an integer."""
    percent = 5000 / quality if quality < 50 else 200 - 2 * quality
    tables = [
        [int(min(255, max(1, (value * percent + 50) // 100))) for value in table]
        for table in _jpeg_tables()
    ]
    picture = Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0)))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", qtables=tables, optimize=True, progressive=True)
    return buffer.getvalue()


@cache
def _jpeg_tables() -> tuple[list[int], list[int]]:
    """Return the quantization tables of quality 50, which are scaled for the others."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "JPEG", quality=50)
    tables = Image.open(buffer).quantization
    return tables[0], tables[1]


def _read_pillow(file: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(file)).convert("RGB")).transpose(2, 0, 1)


def _jpeg2000(image: np.ndarray, quality: float, **options: Any) -> bytes:
    bands, height, width = image.shape
    shape = dict(count=bands, height=height, width=width, dtype=image.dtype)
    plain = dict(REVERSIBLE="NO", GEOJP2="NO", GMLJP2="NO", WRITE_METADATA="NO")
    # One block: blocks have their own wavelets, and show.
    block = dict(BLOCKXSIZE=width, BLOCKYSIZE=height)
    # The standard's five levels of wavelets; GDAL stops at overviews of about 128 pixels.
    block |= dict(RESOLUTIONS=min(6, int(math.log2(min(height, width)))))
    with quiet(), MemoryFile() as memory:
        with memory.open(
            driver="JP2OpenJPEG", QUALITY=quality, **shape, **plain, **block, **options
        ) as sink:
            sink.write(image)
        return memory.read()


def _read_jpeg2000(file: bytes) -> np.ndarray:
    with quiet(), MemoryFile(file) as memory, memory.open() as source:
        return source.read()


def _rotated_jpeg2000(image: np.ndarray, quality: float) -> bytes:
    """Encode principal components of the bands, which are in the file with mean and rotation."""
    bands = len(image)
    values = image.reshape(bands, -1).astype(np.float64)
    mean = values.mean(axis=1)
    rotation = np.linalg.eigh(np.cov(values).reshape(bands, bands))[1][:, ::-1]
    rotation, mean = rotation.astype("<f4"), mean.astype("<f4")
    components = rotation.T @ (values - mean[:, None])
    low = components.min(axis=1).astype("<f4")
    # One step for all components, so that the codec weighs their errors alike.
    step = np.array(max(1e-6, float((components - low[:, None]).max()) / 65000), "<f4")
    scaled = np.rint((components - low[:, None]) / step).clip(0, 65535).astype(np.uint16)
    head = struct.pack("<Bc", bands, image.dtype.char.encode())
    tables = b"".join(part.tobytes() for part in (rotation, mean, low, step))
    return head + tables + _jpeg2000(scaled.reshape(image.shape), quality, YCC="NO")


def _read_rotated(file: bytes) -> np.ndarray:
    bands, kind = struct.unpack_from("<Bc", file)
    dtype = np.dtype(kind.decode())
    counts = np.cumsum([0, bands**2, bands, bands, 1])
    start = struct.calcsize("<Bc")
    tables = np.frombuffer(file, "<f4", counts[-1], start)
    rotation, mean, low, step = (tables[a:b] for a, b in zip(counts, counts[1:], strict=False))
    scaled = _read_jpeg2000(file[start + 4 * counts[-1] :])
    components = scaled.reshape(bands, -1) * step + low[:, None]
    values = rotation.reshape(bands, bands).astype(np.float64) @ components + mean[:, None]
    limits = np.iinfo(dtype)
    return np.rint(values).clip(limits.min, limits.max).astype(dtype).reshape(scaled.shape)


def _jpegxl(image: np.ndarray, quality: float) -> bytes:
    import imagecodecs

    pixels = np.ascontiguousarray(image.transpose(1, 2, 0))
    return imagecodecs.jpegxl_encode(pixels, distance=-quality, effort=9, lossless=False)


def _read_jpegxl(file: bytes) -> np.ndarray:
    import imagecodecs

    return imagecodecs.jpegxl_decode(file).transpose(2, 0, 1)


IMAGE_CODECS: dict[str, ImageCodec] = {
    "jpeg": ImageCodec("JPEG", _jpeg, _read_pillow, (1.0, 100.0)),
    "webp": ImageCodec(
        "WebP", partial(_pillow, "WEBP", dict(method=6)), _read_pillow, (0.0, 100.0)
    ),
    "avif": ImageCodec(
        "AVIF",
        partial(_pillow, "AVIF", dict(speed=0)),
        _read_pillow,
        (0, 100),
        draft=partial(_pillow, "AVIF", dict(speed=6)),
    ),
    # GDAL's quality is the percentage of the bytes that the pixels have.
    "jpeg2000": ImageCodec("JPEG 2000", _jpeg2000, _read_jpeg2000, (0.01, 60.0), bands=None),
    "jpeg2000pca": ImageCodec(
        "JPEG 2000, principal components", _rotated_jpeg2000, _read_rotated, (0.01, 60.0), None
    ),
    # The quality is Butteraugli's distance with the other sign.
    "jpegxl": ImageCodec("JPEG XL", _jpegxl, _read_jpegxl, (-25.0, -0.05)),
}


def installed_codecs() -> dict[str, ImageCodec]:
    """Return the codecs of :data:`IMAGE_CODECS` whose libraries are installed."""
    there = {
        "avif": features.check("avif"),
        "webp": features.check("webp"),
        "jpegxl": importlib.util.find_spec("imagecodecs") is not None,
    }
    return {name: codec for name, codec in IMAGE_CODECS.items() if there.get(name, True)}


# ------------------------------------------------------------------------------ mosaics
def to_mosaic(tiles: np.ndarray, columns: int) -> np.ndarray:
    """Lay tiles (N, C, h, w) out row by row, (C, rows * h, columns * w).

    Places that are left over in the last row repeat the last tile.
    """
    rows = -(-len(tiles) // columns)
    numbers = np.minimum(np.arange(rows * columns), len(tiles) - 1)
    grid = tiles[numbers].reshape(rows, columns, *tiles.shape[1:])
    return grid.transpose(2, 0, 3, 1, 4).reshape(
        tiles.shape[1], rows * tiles.shape[2], columns * tiles.shape[3]
    )


def from_mosaic(mosaic: np.ndarray, count: int, columns: int) -> np.ndarray:
    """Return the first tiles (count, C, h, w) of a mosaic."""
    bands, height, width = mosaic.shape
    rows = -(-count // columns)
    grid = mosaic.reshape(bands, rows, height // rows, columns, width // columns)
    return grid.transpose(1, 3, 0, 2, 4).reshape(-1, bands, height // rows, width // columns)[
        :count
    ]
