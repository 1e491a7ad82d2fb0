"""What a file of codes says of its scene, and what blocks of codes are made of."""

import dataclasses
import json
import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rasterio.dtypes import can_cast_dtype, check_dtype

from hook.arguments import is_int, is_number, short_repr
from hook.errors import DataError
from hook.geo.arrays import CODE_TAGS
from hook.geo.dates import to_days
from hook.geo.raster import open_raster

_VERSION = 1
_OF_SERIES = ("dates", "factors", "window", "resolution")
_MAYBE = ("matrix", "masked")  # files of the first version lack them
SUMS = ("pixels", "missing", "outside", "squared_error")
"""Sums over the pixels of a block, a number for each band: valid pixels; pixels without data whose
code has some; values outside the range of training; squared errors of the decoded values."""


class CodeGrid(NamedTuple):
    """How a model codes: see :class:`hook.inference.codes.Codec`."""

    stride: int
    """Pixels along a side of a code."""
    margin: int
    """Codes around a window that its encoder must see."""
    reach: int
    """Codes around a window that its decoder must see."""
    factors: tuple[int, ...] = ()
    """Codes along a side of one of each band group, for a model of time series."""
    window: int = 0
    """Codes along a side of the blocks, each of which is coded by itself; 0: any number."""


class CodedWindows(NamedTuple):
    """Output of the function of windows."""

    planes: np.ndarray
    """(B, n, h, w) values of the bands of the file."""
    sums: np.ndarray
    """(B, len(SUMS), C) float64, see :data:`SUMS`."""
    valid: np.ndarray | None = None
    """(B, h, w) bool valid pixels, of which those that are written are counted in place of the
    first of the sums; None leaves that."""


@dataclass(frozen=True)
class SceneCodes:
    """What the tags of a file of codes say of its scene and model.

    Each attribute is a tag, ``HOOK_STRIDE`` and so on, in JSON. Stored values are
    ``(model units - offset) / scale``.
    """

    model: str
    """Name of the model."""
    digest: str
    """SHA-256 of its weights and scaling."""
    sizes: tuple[int, ...]
    """Number of codes of each band (depth or group)."""
    stride: int
    """Pixels along a side of a code."""
    height: int
    """Rows of the scene in pixels."""
    width: int
    dtype: str
    """Of the scene."""
    nodata: float | None
    """Value of invalid pixels of the scene; None if all are valid."""
    bands: tuple[str | None, ...]
    """Names of the scene's bands."""
    colours: tuple[str, ...]
    """Their colour interpretation."""
    scale: tuple[float, ...]
    offset: tuple[float, ...]
    tagged: bool = False
    """Whether the scene has ``scale`` and ``offset`` in its own tags."""
    dates: tuple[str | None, ...] = ()
    """ISO dates of a time series, whose bands and codes are those of one date after those of
    another; of one date it may be None."""
    factors: tuple[int, ...] = ()
    """As of :class:`CodeGrid`: of each date the file has the codes of each band group. One of
    several pixels is in the upper left one, the others have :attr:`none`."""
    window: int = 0
    """As of :class:`CodeGrid`."""
    resolution: float | None = None
    """Metres along a pixel of a series; None: that of the model."""
    matrix: tuple[float, ...] | None = None
    """Linear part (a, b, d, e) of the transform of the codes' pixels, which tells that rows and
    columns are in their order; None: not known."""
    masked: bool | None = None
    """Whether the file has the bands of :attr:`validity_bands`; None: not known."""

    @property
    def none(self) -> int:
        """Code of places without data."""
        return max(self.sizes)

    @property
    def fill(self) -> float:
        """Value of pixels without data: the nodata value, else NaN, or 0 for integers."""
        if self.nodata is not None:
            return self.nodata
        return math.nan if np.dtype(self.dtype).kind == "f" else 0

    @property
    def code_dtype(self) -> np.dtype:
        """Smallest unsigned type that holds all codes and :attr:`none`."""
        return np.min_scalar_type(self.none)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of codes."""
        return math.ceil(self.height / self.stride), math.ceil(self.width / self.stride)

    @property
    def images(self) -> int:
        """Number of dates, 1 without any."""
        return max(len(self.dates), 1)

    @property
    def validity_bands(self) -> int:
        """Number of bands whose bits are the valid pixels of a code, row by row, of all dates."""
        return self.images * math.ceil(self.stride**2 / (8 * self.code_dtype.itemsize))

    def pack_validity(self, valid: np.ndarray) -> np.ndarray:
        """Pack (..., h, w, stride * stride) bool of a date into (..., bands, h, w) words."""
        size = self.validity_bands // self.images * self.code_dtype.itemsize
        packed = np.packbits(valid, axis=-1, bitorder="little")
        packed = np.pad(packed, [(0, 0)] * (packed.ndim - 1) + [(0, size - packed.shape[-1])])
        return np.moveaxis(packed.view(self.code_dtype.newbyteorder("<")), -1, -3)

    def unpack_validity(self, words: np.ndarray) -> np.ndarray:
        """Undo :meth:`pack_validity`."""
        packed = np.ascontiguousarray(np.moveaxis(words, -3, -1), self.code_dtype.newbyteorder("<"))
        bits = np.unpackbits(packed.view(np.uint8), -1, self.stride**2, bitorder="little")
        return bits.astype(bool)

    def to_stored(self, values: np.ndarray, valid: np.ndarray) -> np.ndarray:
        """Return values of model units (..., C, H, W) in units and type of the scene.

        Valid pixels, (..., H, W) or as the values, never have the nodata value, but the next one.
        """
        dtype, shape = np.dtype(self.dtype), (-1, 1, 1)
        scale, offset = (np.reshape(one, shape) for one in (self.scale, self.offset))
        stored = values
        if (scale != 1).any() or (offset != 0).any():
            stored = (values - offset) / scale
        if dtype.kind in "iu":
            limits = np.iinfo(dtype)
            if dtype.itemsize > 2:  # float32 does not hold its limits
                stored = stored.astype(np.float64)
            stored = np.rint(stored).clip(limits.min, limits.max)
        stored = stored.astype(dtype)
        if self.nodata is not None:
            nodata = np.asarray(self.nodata).astype(dtype)
            if dtype.kind == "f":
                near = np.nextafter(nodata, dtype.type(0) if nodata else dtype.type(1))
            else:
                near = nodata - 1 if nodata == limits.max else nodata + 1
            stored[stored == nodata] = near
        if not valid.all():
            fill = np.asarray(self.fill).astype(dtype)
            valid = valid if valid.ndim == stored.ndim else np.expand_dims(valid, -3)
            np.copyto(stored, fill, where=~valid)
        return stored

    def errors_of(self, stored: np.ndarray, read: np.ndarray) -> np.ndarray:
        """Return stored values (..., C, H, W) minus those that were read, which had their tags."""
        precise = np.result_type(stored, np.float32)  # exact for integers of 16 bits
        original = read.astype(precise)
        if self.tagged:  # values were read in the units of the tags
            scale, offset = (np.reshape(one, (-1, 1, 1)) for one in (self.scale, self.offset))
            original = (original - offset) / scale
        return stored.astype(precise) - original

    def _check(self) -> None:
        """Raise ValueError if a value is not one that :meth:`tags` writes."""
        count = len(self.bands) if isinstance(self.bands, tuple) else 0
        dtype, number = np.dtype(self.dtype), self.nodata
        whole = dtype.kind in "iu"

        def all_of(values: object, check: Callable[[Any], bool], length: int = count) -> bool:
            return isinstance(values, tuple) and len(values) == length and all(map(check, values))

        right = {
            "sizes": bool(self.sizes) and all_of(self.sizes, _is_count, np.size(self.sizes)),
            **{name: _is_count(getattr(self, name)) for name in ("stride", "height", "width")},
            "dtype": check_dtype(self.dtype) and dtype.kind in "iuf",
            "bands": count > 0 and all_of(self.bands, lambda one: isinstance(one, str | None)),
            "colours": all_of(self.colours, lambda one: isinstance(one, str)),
            "scale": all_of(self.scale, lambda one: is_number(one) and one != 0),
            "offset": all_of(self.offset, is_number),
            "nodata": number is None
            or (is_number(number) and (not whole or can_cast_dtype(number, self.dtype)))
            or (isinstance(number, float) and not whole),  # NaN or infinity
            "tagged": isinstance(self.tagged, bool),
            "dates": all_of(self.dates, _is_date, np.size(self.dates))
            and (None not in self.dates or self.images == 1)
            and count % self.images == 0,
            "factors": all_of(self.factors, _is_count, np.size(self.factors))
            and bool(self.factors) == bool(self.dates),
            "window": is_int(self.window)
            and (self.window > 0) == bool(self.dates)
            and not any(self.window % factor for factor in self.factors),
            "resolution": self.resolution is None
            or (is_number(self.resolution) and self.resolution > 0),
            "matrix": self.matrix is None or all_of(self.matrix, is_number, 4),
            "masked": self.masked is None or isinstance(self.masked, bool),
        }
        for name, is_right in right.items():
            if not is_right:
                value = short_repr(getattr(self, name))
                raise ValueError(f"{CODE_TAGS}{name.upper()}={value}")

    def tags(self) -> dict[str, str]:
        """Return the tags of the file."""
        names = [one.name for one in dataclasses.fields(self)]
        kept = names if self.dates else [name for name in names if name not in _OF_SERIES]
        values = {"codes": _VERSION, **{name: getattr(self, name) for name in kept}}
        return {
            f"{CODE_TAGS}{name.upper()}": value if isinstance(value, str) else json.dumps(value)
            for name, value in values.items()
        }

    @classmethod
    def read(cls, path: str | Path) -> "SceneCodes":
        """Read the tags of a file.

        Raises:
            DataError: It cannot be read, or is not a complete file of codes.
        """
        with open_raster(path) as source:
            tags, found = source.tags(), f"{source.count} bands {source.dtypes[0]}"
            shape, count, dtypes = source.shape, source.count, set(source.dtypes)
            matrix = tuple(getattr(source.transform, name) for name in "abde")
        try:
            if json.loads(tags[f"{CODE_TAGS}CODES"]) != _VERSION:
                raise ValueError(f"version {tags[f'{CODE_TAGS}CODES']} of the format")
            names = [one.name for one in dataclasses.fields(cls)]
            if f"{CODE_TAGS}DATES" not in tags:
                names = [name for name in names if name not in _OF_SERIES]
            keys = {name: f"{CODE_TAGS}{name.upper()}" for name in names}
            known = (name for name in names if name not in _MAYBE or keys[name] in tags)
            values = {name: tags[keys[name]] for name in known}
            texts = ("model", "digest", "dtype")
            values |= {k: json.loads(v) for k, v in values.items() if k not in texts}
            values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
            codes = cls(**values)
            codes._check()
            number, more = len(codes.sizes), codes.validity_bands
            counts = {None: (number, number + more), True: (number + more,), False: (number,)}
            counts = counts[codes.masked]
        except (KeyError, ValueError, TypeError, ZeroDivisionError) as error:
            raise DataError(
                f"{path}: is not a file of codes",
                expected="a file of hook encode, with its tags HOOK_...",
                found=f"{type(error).__name__} {error}; {found}",
                remedy="pass a file that hook encode wrote, not a copy without its tags",
            ) from None
        if shape != codes.grid or count not in counts or dtypes != {codes.code_dtype.name}:
            raise DataError(
                f"{path}: its pixels are not the codes that its tags describe",
                expected=f"{' or '.join(map(str, counts))} bands {codes.code_dtype}, "
                f"{' x '.join(map(str, codes.grid))} pixels",
                found=f"{found}, {' x '.join(map(str, shape))} pixels",
                remedy="use the file as hook encode wrote it, without another one's .aux.xml",
            )
        own = codes.matrix or matrix
        if not np.allclose(matrix, own, rtol=0, atol=max(map(abs, own)) / 1000):
            raise DataError(
                f"{path}: its rows or columns are not those of its tags",
                expected=f"a transform with {' '.join(f'{value:g}' for value in own)}",
                found=" ".join(f"{value:g}" for value in matrix),
                remedy="pass the codes in their own order, and turn or warp the decoded scene",
            )
        return codes


def _is_date(value: Any) -> bool:
    with suppress(DataError):
        return value is None or (isinstance(value, str) and len(to_days([value], "")) == 1)
    return False


def _is_count(value: Any) -> bool:
    return is_int(value) and value > 0
