"""Bands of imagery: selection by name or colour, and conversion to a model's units."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rasterio.io import DatasetReader

from hook.errors import ConfigError, DataError
from hook.geo.raster import alpha_bands

_ANONYMOUS = ("gray", "undefined", "palette", "alpha")  # colours that name no band


def resolve_bands(
    src: DatasetReader, bands: Sequence[str | int] | None, option: str | None = "metainfo['bands']"
) -> list[int]:
    """Return the indexes of the bands of a file that a model needs.

    Names match the band descriptions of the file (case-insensitively), or else its colour
    interpretation. A file without descriptions that has as many bands as ``bands`` is read in its
    own order.

    Args:
        src: Open raster.
        bands: Band names or 1-based indexes, in the model's order; None for all bands.
        option: Name of the option that selects bands, for the errors; None if there is none.

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
    remedy = "set the band descriptions of the file to these names"
    if option is not None:
        remedy = f"use 1-based indexes in {option}, or {remedy}"
    if (by_colour := _by_colour(src, bands, described)) is not None:
        return by_colour
    if any(isinstance(band, str) for band in bands) and not any(described):
        if all(isinstance(band, str) for band in bands) and len(bands) == src.count:
            return list(range(1, src.count + 1))
        raise DataError(
            f"{src.name}: its bands have no names",
            expected=expected,
            found=found,
            remedy=remedy,
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
                    remedy=remedy,
                )
            indexes.append(matches[0])
        else:
            if not 1 <= int(band) <= src.count:
                raise DataError(
                    f"{src.name}: no band {band}",
                    expected=expected,
                    found=found,
                    remedy=f"choose existing bands in {option} (indexes are 1-based)"
                    if option
                    else f"use a file with {max(b for b in bands if not isinstance(b, str))} bands",
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


def match_bands(
    first: DatasetReader,
    indexes: Sequence[int],
    other: DatasetReader,
    bands: Sequence[str | int] | None = None,
    option: str | None = "metainfo['bands']",
) -> tuple[list[int], bool]:
    """Find the bands of a further file that are those chosen in the first file of a set.

    By the names asked for, else the descriptions or colours of both files, else the numbers.

    Args:
        first: The first file.
        indexes: 1-based bands chosen in it.
        other: The further file.
        bands: Names or numbers that were asked for; None for all bands except alpha.
        option: Name of the option, for the errors.

    Returns:
        1-based indexes, and whether they are sure: False if the files differ in the names or the
        number of their bands.

    Raises:
        DataError: The file lacks a band.
    """
    named = bands is not None and all(isinstance(band, str) for band in bands)
    if named:
        found = resolve_bands(other, bands, option)
        if found == list(indexes) or any(_names(other)):
            return found, True
    ours, theirs = _names(first), _names(other)
    wanted = [ours[index - 1] for index in indexes]
    if all(wanted) and all(theirs.count(name) == 1 for name in wanted):
        return [theirs.index(name) + 1 for name in wanted], True
    images = [image_bands(source) for source in (first, other)]
    same_count = len(images[0]) == len(images[1])
    found = list(indexes)
    if bands is None and same_count and set(indexes) <= set(images[0]):
        found = [images[1][images[0].index(index)] for index in indexes]
    if max(found) > other.count:
        raise DataError(
            f"{other.name}: bands that the file does not have",
            expected=f"bands {', '.join(map(str, found))}, as in {first.name}",
            found=f"{other.count} bands",
            remedy="use files with the same bands, or describe the bands of both by the same names",
        )
    described = any(first.descriptions) and any(other.descriptions)
    pairs = [(name, theirs[index - 1]) for name, index in zip(wanted, found, strict=True)]
    contradict = any(
        a != b and (described or a in theirs or b in ours) for a, b in pairs if a and b
    )
    return found, same_count and not named and not contradict


def unsure_bands(files: Sequence[str], first: str) -> str:
    """Return the warning about files for which :func:`match_bands` is not sure."""
    more = f" ({len(files)} files)" if len(files) > 1 else ""
    return (
        f"{files[0]}{more}: bands are read by the numbers they have in {first}, but the files "
        "differ in the names or the number of bands; describe the bands of both by the same names"
    )


def _names(source: DatasetReader) -> list[str]:
    """Return the descriptions of all bands, or without any their colours; empty for none."""
    if any(source.descriptions):
        return [(name or "").casefold() for name in source.descriptions]
    colours = [colour.name.casefold() for colour in source.colorinterp]
    return ["" if colour in _ANONYMOUS else colour for colour in colours]


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


def per_band(name: str, value: Any, num_bands: int, default: float) -> np.ndarray:
    """Return a value of the dataset meta for each band, (C,).

    Raises:
        ConfigError: It is neither one number nor one for each band.
    """
    array = np.atleast_1d(np.asarray(default if value is None else value, dtype=np.float64))
    if array.ndim != 1 or array.size not in (1, num_bands):
        raise ConfigError(
            f"metainfo[{name!r}] does not fit the image",
            expected=f"one number, or one for each of the {num_bands} bands",
            found=f"{array.size} numbers",
            remedy=f"correct {name!r} or 'bands' of the dataset meta",
        )
    return np.broadcast_to(array, (num_bands,))


def scale_tags(
    source: DatasetReader, indexes: Sequence[int], metainfo: Mapping[str, Any] | None = None
) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the scale and offset tags to apply to stored values, (C,) each; None for none.

    Training and inference read ``value * scale + offset``, as GDAL and netCDF define these tags.
    If the dataset meta has a scale or offset too, equal tags are left to it.

    Args:
        source: Open raster.
        indexes: 1-based bands.
        metainfo: Dataset meta with optional ``scale`` and ``offset``.

    Raises:
        DataError: The tags contradict the dataset meta, or are not usable.
    """
    meta, count = metainfo or {}, len(indexes)
    tags = np.array(
        [[values[i - 1] for i in indexes] for values in (source.scales, source.offsets)]
    )
    if (tags[0] == 1).all() and (tags[1] == 0).all():
        return None
    own = np.stack(
        [
            per_band("scale", meta.get("scale"), count, 1),
            per_band("offset", meta.get("offset"), count, 0),
        ]
    )
    usable = np.isfinite(tags).all() and tags[0].all()
    if usable and (own[0] == 1).all() and (own[1] == 0).all():
        return tags[0], tags[1]
    if usable and np.allclose(own, tags, rtol=1e-6, atol=0):
        return None
    found = [f"scale {_numbers(scale)}, offset {_numbers(offset)}" for scale, offset in (tags, own)]
    raise DataError(
        f"{source.name}: scale and offset tags that cannot be applied",
        expected=f"{found[1]}, the dataset meta of the model, or no tags"
        if usable
        else "finite numbers, and a scale other than 0",
        found=found[0],
        remedy="correct the tags in a copy of the file; gdal_translate -a_scale 1 -a_offset 0 "
        "removes them",
    )


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.6g}" for value in dict.fromkeys(np.asarray(values).tolist()))


def rescale(values: np.ndarray, scale: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """Return ``values * scale + offset`` as float32; the arrays broadcast."""
    # float32 represents all 8- and 16-bit integers exactly; wider types are computed in float64.
    small = values.dtype.itemsize <= 2 or values.dtype == np.float32
    work = np.float32 if small else np.float64
    values = values.astype(work)
    with np.errstate(over="ignore", invalid="ignore"):  # of invalid pixels
        if np.any(scale != 1):
            values *= scale.astype(work)
        if np.any(offset != 0):
            values += offset.astype(work)
        return values.astype(np.float32, copy=False)


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
        DataError: The values are complex.
    """
    if image.dtype.kind == "c":
        raise DataError(
            "an image of complex values",
            expected="integers or real numbers",
            found=image.dtype,
            remedy="use their amplitude, numpy.abs(values)",
        )
    num_bands = image.shape[-3]
    shape = (num_bands, 1, 1)
    scale = per_band("scale", metainfo.get("scale"), num_bands, 1.0).reshape(shape)
    offset = per_band("offset", metainfo.get("offset"), num_bands, 0.0).reshape(shape)
    fill = per_band("mean", metainfo.get("mean"), num_bands, 0.0).reshape(shape)
    values = rescale(image, scale, offset)
    if valid is not None:
        missing = np.expand_dims(np.asarray(valid) == 0, -3)
        if missing.any():
            values = np.where(missing, fill.astype(np.float32), values)
    return values


def value_range(values: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Return number, sum, minimum and maximum of the valid values of each band, (4, C) float64.

    Args:
        values: (C, H, W).
        valid: (C, H, W) or (H, W) bool.
    """
    found = np.empty((4, len(values)))
    masks = np.broadcast_to(valid, values.shape)
    for band, (image, mask) in enumerate(zip(values, masks, strict=True)):
        known = image if mask.all() else image[mask]
        limits = (known.min(), known.max()) if known.size else (np.inf, -np.inf)
        found[:, band] = known.size, known.sum(dtype=np.float64), *limits
    return found


def merge_ranges(ranges: Sequence[np.ndarray]) -> np.ndarray:
    """Merge several of :func:`value_range`, (4, C)."""
    parts = np.stack(ranges)
    return np.stack([*parts[:, :2].sum(axis=0), parts[:, 2].min(axis=0), parts[:, 3].max(axis=0)])
