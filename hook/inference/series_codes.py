"""An autoencoder of time series as the functions that code and decode them, block by block.

Attention joins all dates and places of a block, so each is coded by itself, alone in its batch.
"""

import warnings
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from rasterio.io import DatasetReader
from torch import Tensor, nn

from hook.arguments import short_repr
from hook.errors import DataError
from hook.geo.arrays import is_data_array
from hook.geo.bands import image_bands, to_model_units
from hook.geo.dates import (
    date_layers,
    date_of,
    layer_dates,
    read_dates,
    to_days,
    to_iso,
    without_date,
)
from hook.geo.raster import open_raster
from hook.inference.codes import (
    cells_of,
    check_codes,
    count_outside,
    restore_values,
    series_grid,
    value_limits,
)
from hook.inference.scenes import choose_bands, scene_resolution
from hook.scenes.codes import SUMS, CodedWindows, CodeGrid, SceneCodes
from hook.scenes.coding import Series
from hook.scenes.pipeline import Scene
from hook.scenes.request import EncodingRequest
from hook.tokenizers import ImageFacts, Packed


def split_series(request: EncodingRequest) -> EncodingRequest:
    """Return a request for an array with a dimension ``time`` as one for the arrays of its dates.

    Raises:
        DataError: The array does not say its dates.
    """
    image = request.input
    if not is_data_array(image) or "time" not in image.dims:
        parts = image if isinstance(image, list | tuple) else [image]
        times = [getattr(one, "coords", {}).get("time") for one in parts]
        if request.dates is None and all(one is not None and one.ndim == 0 for one in times):
            request = replace(request, dates=[one.values for one in times])
        return request
    dates = request.dates
    if dates is None:
        days = image.coords["time"].values if "time" in image.coords else np.arange(0)
        if days.dtype.kind != "M" or np.isnat(days).any():
            raise DataError(
                "the array's dimension time has no dates",
                expected="a coordinate of datetime64, without NaT",
                found=f"{days[:4]} of {days.dtype}" if len(days) else "no coordinate",
                remedy="assign_coords(time=...), or pass dates",
            )
        dates = np.datetime_as_string(days, "m").tolist()
    parts = [image.isel(time=number, drop=True) for number in range(image.sizes["time"])]
    return replace(request, input=parts, dates=dates)


def read_series(model: nn.Module, request: EncodingRequest) -> Series:
    """Return the dates of the files of a request, and which layers are of which date.

    Raises:
        DataError: Dates are missing, or the layers do not fit them or the model's bands.
    """
    count, paths, given = model.in_channels, request.input, request.dates
    bands = model.dataset_meta.get("bands") or range(1, count + 1)
    with open_raster(paths[0]) as source:
        layers = len(date_layers(source, count))
        several = layers != count and layers % count == 0 if given is None else len(given) > 1
        if len(paths) == 1 and several:
            dates = read_dates(source, count) if given is None else given
            layers = _layers_of(source, dates, bands)
            paths = paths * len(layers)
        else:
            layers = [_layers_of_image(model, path, bands) for path in paths]
            dates = given
    if dates is None:
        dates = []
        for path in paths:
            with open_raster(path) as source:
                dates.append(date_of(source))
    days = to_days(dates, "dates")
    unknown = [] if len(paths) == 1 else np.flatnonzero(np.isnan(days))
    if len(days) != len(paths) or len(unknown):
        raise DataError(
            f"{paths[unknown[0] if len(days) == len(paths) else 0]}: the dates of the series",
            expected=f"a date for each of {len(paths)} images, in tags or names that agree",
            found=", ".join("none" if date is None else str(date) for date in dates),
            remedy="pass them (--dates 2018-04-29,2018-05-13,...)",
        )
    if len(set(days)) < len(days):
        warnings.warn(
            f"{paths[0]}: several images of the series have the same date: "
            f"{', '.join(map(to_iso, days))}",
            stacklevel=2,
        )
    resolution, tokenizer = scene_resolution(paths[0]), model.encoder.tokenizer
    if resolution is None and tokenizer.on_ground and tokenizer.resolution is None:
        raise DataError(
            f"{paths[0]}: without resolution in metres, which the model needs",
            expected="a CRS and a transform",
            found="pixels at no place",
            remedy="assign them (gdal_edit.py -a_srs EPSG:32631 -a_ullr ...)",
        )
    own = request.nodata, request.metainfo
    return Series(
        tuple(to_iso(day) if np.isfinite(day) else None for day in days),
        tuple(Scene((path,), one, *own) for path, one in zip(paths, layers, strict=True)),
        tuple(map(str, bands)),
        tuple(tuple(group.bands) for group in tokenizer.groups),
        resolution,
    )


def _layers_of_image(model: nn.Module, path: str, bands: Sequence[str | int]) -> tuple[int, ...]:
    """Return the 1-based layers of a file of one date, in the model's order of bands."""
    with open_raster(path) as source:
        layers = date_layers(source, len(bands))
        if any(layer_dates(source, layers)):
            return _layers_of(source, [None], bands)[0]
        own = image_bands(source)
        if len(own) == len(bands) and not any(isinstance(band, str) for band in bands):
            return tuple(own)  # in order, as in training and in a file of all dates
    return tuple(choose_bands(model, path, None, option=None))


def _layers_of(
    source: DatasetReader, dates: Sequence[str | float | None], bands: Sequence[str | int]
) -> list[tuple[int, ...]]:
    """Return the 1-based layers of each date, in the model's order of bands."""
    count, layers, found = len(bands), date_layers(source, len(bands)), []
    if len(layers) != len(dates) * count:
        raise DataError(
            f"{source.name}: its layers do not fit the dates",
            expected=f"{len(dates)} dates of {count} bands, one date after the other",
            found=f"{len(layers)} layers",
            remedy="correct the dates",
        )
    texts = [source.descriptions[layer - 1] or "" for layer in layers]
    names = [without_date(text).casefold() for text in texts]
    wanted, stamps = [str(band).casefold() for band in bands], layer_dates(source, layers)
    named = any(isinstance(band, str) for band in bands)
    for first in range(0, len(layers), count):
        part = slice(first, first + count)
        own, order = names[part], range(count)
        displaced = any(a in wanted and a != b for a, b in zip(own, wanted, strict=True))
        wrong = sorted(own) != sorted(wanted) if all(own) else displaced
        if (named and wrong) or len({*stamps[part]}) > 1:
            raise DataError(
                f"{source.name}: the layers of a date are of other bands than the model's, or of "
                "several dates",
                expected=f"one date, and {', '.join(map(str, bands))}",
                found=", ".join(text or "no name" for text in texts[part]),
                remedy="correct the descriptions of the layers, or remove them if the order is "
                "that of the model",
            )
        if named and all(own):
            order = [own.index(name) for name in wanted]
        found.append(tuple(layers[first + place] for place in order))
    return found


class SeriesCodec:
    """What coding and decoding of series have in common.

    Args:
        model: The model, in evaluation mode.
        codes: What its codes say of the scene.
        grid: Of :func:`series_grid`.

    Raises:
        DataError: The series lacks what the model must know.
    """

    def __init__(self, model: nn.Module, codes: SceneCodes, grid: CodeGrid) -> None:
        from hook.models.parts import check_facts  # a model is there, and its imports are

        of_model = series_grid(model)
        sizes = tuple(model.quantizer.codebook_sizes) * codes.images * len(of_model.factors)
        bands = codes.images * model.in_channels
        expected = of_model.stride, of_model.factors, sizes, bands
        found = codes.stride, codes.factors, codes.sizes, len(codes.bands)
        if expected != found:
            raise DataError(
                "the tags of the codes contradict the model",
                expected=f"stride, factors, sizes and bands {expected}",
                found=short_repr(found),
                remedy="use the file as hook encode wrote it",
            )
        self.model, self.codes, self.grid = model, codes, grid
        self.device = next(model.parameters()).device
        self._dates = None
        if None not in codes.dates:
            days = to_days(codes.dates, "dates of the codes")
            self._dates = torch.tensor([days], dtype=torch.float64, device=self.device)
        waves, self._waves = model.dataset_meta.get("wavelengths"), None
        if waves is not None:
            try:
                self._waves = torch.tensor([float(one) for one in waves], dtype=torch.float64)
                fits = len(self._waves) == model.in_channels
            except (TypeError, ValueError):
                fits = False
            if not fits:
                raise DataError(
                    "the model's wavelengths do not fit its bands",
                    expected=f"a number of nanometres for each of {model.in_channels} bands",
                    found=short_repr(waves),
                    remedy="correct wavelengths in the metainfo of its data set",
                )
        side = codes.window * codes.stride
        self._blank = torch.zeros(1, codes.images, model.in_channels, side, side).to(self.device)
        check_facts(model.encoder.tokenizer, self._blank, self._facts())
        with torch.inference_mode():
            self._cells = model.encoder.tokenizer.cells(self._blank, self._facts())

    def _facts(self, valid: Tensor | None = None) -> ImageFacts:
        return ImageFacts(valid, self.codes.resolution, self._dates, self._waves)

    def _corners(self, places: Tensor) -> tuple[Tensor, ...]:
        """Return date, band group, row and column in the file of the codes of patches."""
        steps, rows, columns, groups = places.T
        factors = torch.tensor(self.codes.factors, device=places.device)[groups]
        return steps, groups, rows * factors, columns * factors

    def _maps(self, planes: np.ndarray) -> np.ndarray:
        """Return planes (dates * groups * depth, h, w) as (dates, groups, h, w, depth)."""
        shape = self.codes.images, len(self.codes.factors), -1, *planes.shape[1:]
        return np.moveaxis(planes.reshape(shape), 2, -1)

    @torch.inference_mode()
    def _values(self, planes: np.ndarray) -> np.ndarray:
        """Decode the codes of a block, (dates * groups * depth, h, w); return (T, C, H, W)."""
        maps = torch.from_numpy(self._maps(planes).astype(np.int64)).to(self.device)
        rows = maps[self._corners(self._cells.places)]
        known = (rows != self.codes.none).all(dim=1)
        quantizer = self.model.quantizer
        indices = rows[known][None]
        indices = indices[..., 0] if quantizer.indices_kind == "single" else indices
        packed = self._cells.where(known).with_values(quantizer.decode(indices)[0])
        side = self.codes.window * self.codes.stride
        images, _ = self.model.decode_series(packed, (self.codes.images, side, side))
        return restore_values(self.model, images)[0]

    def _known(self, planes: np.ndarray) -> np.ndarray:
        """Return where the finest band group has codes, (T, h, w) bool."""
        finest = int(np.argmin(self.codes.factors))
        return (self._maps(planes)[:, finest] != self.codes.none).all(axis=-1)


class SeriesEncoder(SeriesCodec):
    """The function that :func:`hook.scenes.coding.encode_scene` calls for a series.

    Args:
        errors: Also decode the codes, to measure errors.
    """

    def __init__(
        self, model: nn.Module, codes: SceneCodes, grid: CodeGrid, errors: bool = True
    ) -> None:
        super().__init__(model, codes, grid)
        self._errors, self._limits = errors, value_limits(model)

    def __call__(self, windows: np.ndarray, valid: np.ndarray) -> CodedWindows:
        """Code blocks (B, T * C, side, side) of validity (B, T, side, side), and measure them."""
        found = [self._encode(*one) for one in zip(windows, valid, strict=True)]
        planes, sums = zip(*found, strict=True)
        return CodedWindows(np.stack(planes), np.stack(sums))

    @torch.inference_mode()
    def _encode(self, window: np.ndarray, valid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        codes, model = self.codes, self.model
        images = window.reshape(codes.images, -1, *window.shape[1:])
        values = to_model_units(images, valid, model.dataset_meta)
        inputs = torch.from_numpy(values)[None].to(self.device)
        inputs = model.data_preprocessor({"inputs": inputs}, False)["inputs"]
        known = torch.from_numpy(valid > 0)[None].to(self.device)
        packed, quantized = model.encode_series(inputs, self._facts(known))
        planes = self._planes(packed, quantized.indices)
        if not known.any():  # a series without data has the code of one patch
            planes[:] = codes.none
        cells = cells_of(valid, codes.stride)
        has_data = cells.any(axis=-1)
        words = codes.pack_validity(cells > 0)
        real, bands = valid == 1, len(codes.bands) // codes.images
        sums = np.zeros((len(SUMS), codes.images, bands))
        sums[0] = real.sum(axis=(1, 2))[:, None]
        sums[1] = ((cells == 0) & has_data[..., None]).sum(axis=(1, 2, 3))[:, None]
        sums[2] = count_outside(values, real, self._limits)
        if self._errors:
            shown = np.repeat(real, bands, axis=0)
            decoded = self._values(planes).reshape(window.shape)
            error = codes.errors_of(codes.to_stored(decoded, shown), window)
            error[~shown] = 0
            sums[3] = np.square(error, dtype=np.float64).sum(axis=(1, 2)).reshape(-1, bands)
        planes = np.concatenate([planes, words.reshape(-1, *words.shape[-2:])])
        return planes, sums.reshape(len(SUMS), -1)

    def _planes(self, packed: Packed, indices: Tensor) -> np.ndarray:
        """Return the codes of a block as they are in the file, (dates * groups * depth, h, w)."""
        codes = self.codes
        depth = len(codes.sizes) // (codes.images * len(codes.factors))
        shape = codes.images, len(codes.factors), codes.window, codes.window, depth
        maps = np.full(shape, codes.none, codes.code_dtype)
        places = tuple(one.cpu().numpy() for one in self._corners(packed.places))
        maps[places] = indices.reshape(-1, depth).cpu().numpy().astype(codes.code_dtype)
        return np.moveaxis(maps, -1, 2).reshape(-1, codes.window, codes.window)


class SeriesDecoder(SeriesCodec):
    """The function that :func:`hook.scenes.coding.decode_scene` calls for a series."""

    def __call__(self, windows: np.ndarray, valid: np.ndarray) -> CodedWindows:
        """Decode blocks (B, bands of the file, h, w) of codes.

        Raises:
            DataError: A code is not one of the model.
        """
        found = [self._decode(one) for one in windows]
        stored, real = map(np.stack, zip(*found, strict=True))
        sums = np.zeros((len(windows), len(SUMS), len(self.codes.bands)))
        return CodedWindows(stored, sums, real.any(axis=1))

    def _decode(self, window: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        codes = self.codes
        planes, words = np.split(window, [len(codes.sizes)])
        check_codes(planes, codes, planes != codes.none)
        self._check_complete(planes)
        known = self._known(planes)
        pixels = np.repeat(known[..., None], codes.stride**2, axis=-1)
        if len(words):
            words = words.reshape(codes.images, -1, *words.shape[1:]).astype(codes.code_dtype)
            pixels &= codes.unpack_validity(words)
        side = codes.window
        pixels = pixels.reshape(-1, side, side, codes.stride, codes.stride).swapaxes(2, 3)
        real = pixels.reshape(-1, side * codes.stride, side * codes.stride)
        bands = len(codes.bands) // codes.images
        values = self._values(planes).reshape(len(codes.bands), *real.shape[1:])
        return codes.to_stored(values, np.repeat(real, bands, axis=0)), real

    def _check_complete(self, planes: np.ndarray) -> None:
        """Raise DataError if a patch lacks some of its codes, or those of coarser band groups."""
        absent = self._maps(planes) == self.codes.none
        whole = (absent.any(axis=-1) == absent.all(axis=-1)).all()
        there = self._known(planes)
        for group, factor in enumerate(self.codes.factors):
            coarse = ~absent[:, group, ::factor, ::factor].any(axis=-1)
            around = coarse.repeat(factor, axis=1).repeat(factor, axis=2)
            whole &= around[:, : there.shape[1], : there.shape[2]][there].all()
        if not whole:
            raise DataError(
                "codes of a patch are missing",
                expected=f"all depths and band groups, or {self.codes.none} in all of them",
                found=f"{self.codes.none} in some of them",
                remedy="the file is damaged or was changed; write it again with hook encode",
            )
