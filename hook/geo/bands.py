"""Bands of imagery: selection by name or colour, and conversion to the units of a model."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rasterio.io import DatasetReader

from hook.errors import ConfigError, DataError
from hook.geo.raster import alpha_bands


def resolve_bands(
    src: DatasetReader, bands: Sequence[str | int] | None, option: str = "metainfo['bands']"
) -> list[int]:
    """Return the indexes of the bands of a file that a model needs.

    Names match the band descriptions of the file (case-insensitively), or else its colour
    interpretation. A file without descriptions that has as many bands as ``bands`` is read in its
    own order.

    Args:
        src: Open raster.
        bands: Band names or 1-based indexes, in the model's order; None for all bands.
        option: Name of the option, for the errors.

    Returns:
        1-based indexes in the model's order.

    Raises:
        DataError: The file lacks a band, has two of one name, or has an unexpected band count.
    """
    if bands is None:
        return list(range(1, src.count + 1))
    described = [description or "" for description in src.descriptions]
    found = f"{src.count} bands without names"
    if any(described):
        names = [name or f"(band {i + 1})" for i, name in enumerate(described)]
        found = f"{src.count} bands: {', '.join(names)}"
    expected = f"{len(bands)} bands: {', '.join(map(str, bands))}"
    if (by_colour := _by_colour(src, bands, described)) is not None:
        return by_colour
    if any(isinstance(band, str) for band in bands) and not any(described):
        if all(isinstance(band, str) for band in bands) and len(bands) == src.count:
            return list(range(1, src.count + 1))
        raise DataError(
            f"{src.name}: its bands have no names",
            expected=expected,
            found=found,
            remedy=f"use 1-based indexes in {option}, or set the band descriptions of the file",
        )
    folded = [name.casefold() for name in described]
    indexes = []
    for band in bands:
        if isinstance(band, str):
            matches = [i + 1 for i, name in enumerate(folded) if name == band.casefold()]
            if len(matches) != 1:
                raise DataError(
                    f"{src.name}: {'no' if not matches else 'more than one'} band named {band!r}",
                    expected=expected,
                    found=found,
                    remedy=f"correct {option} or the band descriptions of the file",
                )
            indexes.append(matches[0])
        else:
            if not 1 <= int(band) <= src.count:
                raise DataError(
                    f"{src.name}: no band {band}",
                    expected=expected,
                    found=found,
                    remedy=f"choose existing bands in {option} (indexes are 1-based)",
                )
            indexes.append(int(band))
    return indexes


def _by_colour(
    src: DatasetReader, bands: Sequence[str | int], described: Sequence[str]
) -> list[int] | None:
    """Return bands by colour interpretation (red, green, ...), None where that does not apply."""
    names = [band.casefold() if isinstance(band, str) else "" for band in bands]
    if not names or {name.casefold() for name in described} & set(names):
        return None
    colours = [colour.name.casefold() for colour in src.colorinterp]
    if any(not name or colours.count(name) != 1 for name in names):
        return None
    return [colours.index(name) + 1 for name in names]


def image_bands(src: DatasetReader) -> list[int]:
    """Return the 1-based indexes of all bands except alpha."""
    alphas = alpha_bands(src)
    return [index for index in src.indexes if index not in alphas]


def band_names(src: DatasetReader) -> list[str | int]:
    """Return the descriptions of all bands except alpha; their indexes if not unique."""
    indexes = image_bands(src)
    names = [src.descriptions[index - 1] for index in indexes]
    unique = all(names) and len({name.casefold() for name in names}) == len(names)
    return names if unique else indexes


def _per_band(name: str, value: Any, num_bands: int, default: float) -> np.ndarray:
    array = np.atleast_1d(np.asarray(default if value is None else value, dtype=np.float64))
    if array.ndim != 1 or array.size not in (1, num_bands):
        raise ConfigError(
            f"metainfo[{name!r}] does not fit the image",
            expected=f"one number, or one for each of the {num_bands} bands",
            found=f"{array.size} numbers",
            remedy=f"correct {name!r} or 'bands' of the dataset meta",
        )
    return np.broadcast_to(array, (num_bands,))


def to_model_units(
    image: np.ndarray, valid: np.ndarray | None, metainfo: Mapping[str, Any]
) -> np.ndarray:
    """Convert native values to the units the model was trained in, ``value * scale + offset``.

    Invalid pixels get the band's ``mean`` (0 without one), which the model's preprocessor
    normalises to zero.

    Args:
        image: (C, H, W) or (B, C, H, W) native values.
        valid: (H, W) or (B, H, W), nonzero where valid; None if all pixels are valid.
        metainfo: Dataset meta with optional ``scale``, ``offset`` and ``mean`` (a number, or one
            per band; ``mean`` in model units).

    Returns:
        float32 array of the shape of ``image``.

    Raises:
        ConfigError: A list in ``metainfo`` does not have one number per band.
    """
    num_bands = image.shape[-3]
    shape = (num_bands, 1, 1)
    scale = _per_band("scale", metainfo.get("scale"), num_bands, 1.0).reshape(shape)
    offset = _per_band("offset", metainfo.get("offset"), num_bands, 0.0).reshape(shape)
    fill = _per_band("mean", metainfo.get("mean"), num_bands, 0.0).reshape(shape)
    # float32 represents all 8- and 16-bit integers exactly; wider types are computed in float64.
    work = np.float32 if image.dtype.itemsize <= 2 or image.dtype == np.float32 else np.float64
    values = image.astype(work)
    if np.any(scale != 1):
        values *= scale.astype(work)
    if np.any(offset != 0):
        values += offset.astype(work)
    values = values.astype(np.float32, copy=False)
    if valid is not None:
        missing = np.expand_dims(np.asarray(valid) == 0, -3)
        if missing.any():
            values = np.where(missing, fill.astype(np.float32), values)
    return values
