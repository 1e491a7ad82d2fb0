"""An autoencoder as the functions that code scenes and decode them, window by window."""

import json
import math

import numpy as np
import torch
from torch import Tensor, nn

from hook.errors import ConfigError, DataError, SceneError
from hook.geo.bands import to_model_units
from hook.inference.scenes import digest_of
from hook.scenes.codes import SUMS, CodedWindows, CodeGrid, SceneCodes

_CELLS = 32  # latents along a side of the image on which a network without a known field is tried
_WINDOW = 64  # pixels of a block, where the config does not say the size of its chips
_FAR = 8.0  # standard deviations from the mean, beyond which values are outside the training data


def codes_series(model: nn.Module) -> bool:
    """Return whether a model is a :class:`hook.models.SeriesAutoencoder`.

    By its method: importing the class takes a second, which other commands do not need.
    """
    return hasattr(model, "encode_series")


def code_grid(model: nn.Module) -> CodeGrid:
    """Return the grid of the codes of a model.

    That of single images must look at a part of a scene only; for series see :func:`series_grid`.

    Raises:
        ConfigError: It has no codes, or a module of it connects all positions of an image.
    """
    quantizer = getattr(model, "quantizer", None)
    if getattr(quantizer, "codebook_sizes", None) is None or not hasattr(model, "decode"):
        kind = type(model if quantizer is None else quantizer).__name__
        raise ConfigError(
            f"{kind} has no codes",
            expected="hook.TileAutoencoder with a quantizer that has codes, not a Gaussian",
            found=kind,
            remedy="use a config with a VectorQuantizer, a FiniteScalarQuantizer or the like",
        )
    if codes_series(model):
        return series_grid(model)
    if hasattr(model, "encode_slots"):
        raise ConfigError(
            "codes of slots have no place in a raster",
            expected="hook.TileAutoencoder or hook.SeriesAutoencoder",
            found="hook.SlotAutoencoder",
            remedy="code single images with the model's predict",
        )
    fold = _fold(model)
    if fold[0] != fold[1] or max(quantizer.codebook_sizes) > 2**31:
        raise ConfigError(
            "the codes of this model do not fit a raster",
            expected="a square fold, and at most 2**31 codes",
            found=f"fold {fold}, {max(quantizer.codebook_sizes)} codes",
            remedy="change fold, or divide codes by factors or groups",
        )
    margin, reach = (_field_of(model, name) for name in ("encoder", "decoder"))
    stride = model.stride * fold[0]
    return CodeGrid(stride, math.ceil(margin / stride), math.ceil(reach / fold[0]))


def series_grid(model: nn.Module, window: int | None = None) -> CodeGrid:
    """Return the grid of the codes of a model of series.

    Args:
        model: The model.
        window: Side of a block in pixels, rounded down to whole codes of all band groups; None:
            that of the config's test chips.

    Raises:
        ConfigError: Its patches are not square, or of several dates.
    """
    tokenizer = model.encoder.tokenizer
    steps, patch, columns = tokenizer.patch
    if steps != 1 or patch != columns:
        raise ConfigError(
            "the model cannot code series of scenes",
            expected="square patches of one date",
            found=f"patch_size={tokenizer.patch}",
            remedy="train it with another patch_size",
        )
    factors = [group.factor for group in tokenizer.groups]
    stride = patch * min(factors)
    factors = tuple(factor // min(factors) for factor in factors)
    if window is None:
        test = getattr(model, "cfg", {}).get("test_dataloader") or {}
        window = int(np.min(test.get("dataset", {}).get("chip_size", _WINDOW)))
    whole = int(np.lcm.reduce(factors))
    return CodeGrid(stride, 0, 0, factors, max(window // (stride * whole), 1) * whole)


def _fold(model: nn.Module) -> tuple[int, int]:
    """Return the rows and columns of latents that share their codes."""
    return getattr(model.quantizer, "fold", (1, 1))


def _field_of(model: nn.Module, name: str) -> int:
    """Return the pixels or latents around a window that a network must see.

    Its modules are tried: a change in one corner of an image must not reach the other one.
    """
    network = getattr(model, name)
    field = getattr(network, "receptive_field", None)
    cells = _CELLS
    if field is not None:
        cells = math.ceil(sum(field) / (1 if name == "decoder" else model.stride)) + 2
    culprit = _spreads(network, cells, 1 if name == "decoder" else model.stride)
    if culprit is None and field is not None:
        return max(field)
    raise ConfigError(
        f"the model cannot code scenes window by window: {name}.{culprit or 'receptive_field'}",
        expected="a network in which a position depends on those around it only",
        found="a module that connects all positions, such as attention or a norm with statistics "
        "over positions: codes would change with the window"
        if culprit
        else f"{type(network).__name__}, whose receptive field is not known",
        remedy="use a network without, as configs/_base_/models/tile_autoencoder.py has it",
    )


@torch.inference_mode()
def _spreads(network: nn.Module, cells: int, patch: int) -> str | None:
    """Return name and class of the first module that carries a change of a corner everywhere.

    Args:
        network: An encoder or decoder.
        cells: Latents along a side of the map it is tried on.
        patch: Side of the corner that is changed, that of a latent at the input.
    """
    names, seen = {module: name for name, module in network.named_modules()}, []

    def other_corner(value: object) -> Tensor:
        if not isinstance(value, Tensor) or value.ndim < 3:
            return torch.zeros(1)
        return value[..., -1, -1].clone() if value.ndim > 3 else value[:, -1].clone()

    def note(module: nn.Module, inputs: tuple, output: object) -> None:
        seen[-1].append((module, other_corner(inputs[0] if inputs else None), other_corner(output)))

    def differ(one: Tensor, two: Tensor) -> bool:
        # Convolutions by Fourier transforms spread the noise of rounding.
        return bool((one - two).abs().max() > 1e-5 * one.abs().max())

    hooks = [module.register_forward_hook(note) for module in names]
    noise = torch.Generator().manual_seed(0)
    image = torch.randn(1, network.in_channels, *[cells * patch] * 2, generator=noise)
    image = image.to(next(network.parameters()))
    try:
        for change in (0, 8):
            seen.append([])
            image[..., :patch, :patch] += change
            network(image)
    finally:
        for hook in hooks:
            hook.remove()
    for (module, *before), (_, *after) in zip(*seen, strict=True):
        given, made = map(differ, before, after)
        if made and not given:
            return f"{names[module]} ({type(module).__name__})"
    return None


def codec_digest(model: nn.Module) -> str:
    """Return the SHA-256 of all that determines a model's codes and what they decode to."""
    parts = dict(model.named_parameters()) | dict(model.named_buffers())
    own = ("encoder.", "quantizer.", "decoder.", "data_preprocessor.")
    tensors = {name: part for name, part in parts.items() if name.startswith(own)}
    scaling = {key: model.dataset_meta.get(key) for key in ("scale", "offset")}
    scaling |= {"range": model.data_preprocessor.value_range}
    if codes_series(model):
        tokenizer = model.encoder.tokenizer
        waves = model.dataset_meta.get("wavelengths")
        scaling["wavelengths"] = tokenizer.wavelengths if waves is None else waves
        # What has no weights, and changes what codes mean.
        parts = tokenizer.patch, [(list(one.bands), one.factor) for one in tokenizer.groups]
        axes = [one.blocks.rotary for one in (tokenizer, model.decoder)]
        metres = tokenizer.resolution and float(tokenizer.resolution)
        scaling["patches"] = *parts, metres, tokenizer.nan_is_invalid
        scaling["axes"] = [one and (one.head_dims, one.ranges) for one in axes]
    return digest_of(tensors, json.dumps(scaling, default=list))


def codec_of(generator: nn.Module) -> nn.Module:
    """Return the autoencoder of a generator as a loaded model."""
    codec = generator.codec
    codec.cfg, codec.dataset_meta = generator.cfg, generator.dataset_meta
    return codec


class Codec:
    """What coding and decoding have in common: codes to values.

    Args:
        model: A :class:`hook.models.TileAutoencoder` in evaluation mode.
        codes: What its codes say of the scene.
        grid: Of :func:`code_grid`.
    """

    def __init__(self, model: nn.Module, codes: SceneCodes, grid: CodeGrid) -> None:
        self.model, self.codes, self.grid = model, codes, grid
        self.device = next(model.parameters()).device
        side = (2 * grid.margin + 1) * grid.stride
        blank = torch.zeros(1, model.in_channels, side, side, device=self.device)
        with torch.inference_mode():
            self._blank = self._indices(blank)[:, :, grid.margin, grid.margin, None, None]

    def _indices(self, inputs: Tensor) -> Tensor:
        """Return the codes (B, Q, h, w) of inputs."""
        quantized, fold = self.model.encode(inputs), _fold(self.model)[0]
        indices = quantized.indices.reshape(len(inputs), -1, len(self.codes.sizes)).mT
        return indices.unflatten(2, [side // fold for side in quantized.grid])

    def _values(self, indices: Tensor, known: Tensor) -> np.ndarray:
        """Decode codes (B, Q, h, w); return values (B, C, H, W) without the decoder's margin.

        Places without data (B, h, w) have the codes of an image of means.
        """
        quantizer, fold = self.model.quantizer, _fold(self.model)[0]
        indices = torch.where(known[:, None], indices, self._blank)
        columns = indices.flatten(2).mT
        columns = columns[..., 0] if quantizer.indices_kind == "single" else columns
        latents = tuple(side * fold for side in indices.shape[-2:])
        images = self.model.decode(quantizer.decode(columns, latents), latents)
        images = images[_cut(images, self.grid.reach * self.grid.stride)]
        return restore_values(self.model, images)


def restore_values(model: nn.Module, images: Tensor) -> np.ndarray:
    """Return decoded images in the units of the data.

    Raises:
        SceneError: A value is not finite.
    """
    values = model.data_preprocessor.restore(images).cpu().numpy()
    if not np.isfinite(values).all():
        raise SceneError(
            "the model's values are not finite",
            expected="finite values at every pixel",
            found="NaN or infinity",
            remedy="check the bands, their scaling and the checkpoint",
        )
    return values


class WindowEncoder(Codec):
    """The function that :func:`hook.scenes.coding.encode_scene` calls.

    Args:
        errors: Also decode the codes, to measure errors.
    """

    def __init__(
        self, model: nn.Module, codes: SceneCodes, grid: CodeGrid, errors: bool = True
    ) -> None:
        super().__init__(model, codes, grid)
        self._errors, self._limits = errors, value_limits(model)

    @torch.inference_mode()
    def __call__(self, windows: np.ndarray, valid: np.ndarray) -> CodedWindows:
        """Code windows (B, C, side, side), and measure them."""
        grid, codes, model = self.grid, self.codes, self.model
        values = to_model_units(windows, valid, model.dataset_meta)
        inputs = torch.from_numpy(values).to(self.device)
        inputs = model.data_preprocessor({"inputs": inputs}, False)["inputs"]
        cells = cells_of(valid, grid.stride)
        known = cells.any(axis=-1)
        if not valid.all():
            inputs = inputs.where(torch.from_numpy(valid > 0).to(self.device)[:, None], 0)
        # With the decoder's margin, and without it.
        indices = self._indices(inputs)
        around, inner = _cut(indices, grid.margin), _cut(indices, grid.margin + grid.reach)
        pixels = _cut(valid, (grid.margin + grid.reach) * grid.stride)
        cells, has_data = cells[(*inner, slice(None))], known[inner]
        places = np.where(has_data[:, None], indices[inner].cpu().numpy(), codes.none)
        words = codes.pack_validity(cells > 0)
        planes = np.concatenate([places.astype(codes.code_dtype), words], axis=1)
        real = valid[pixels] == 1
        sums = np.zeros((len(windows), len(SUMS), windows.shape[1]))
        sums[:, 0] = real.sum(axis=(1, 2))[:, None]
        sums[:, 1] = ((cells == 0) & has_data[..., None]).sum(axis=(1, 2, 3))[:, None]
        sums[:, 2] = count_outside(values[pixels], real, self._limits)
        if self._errors:
            decoded = self._values(indices[around], torch.from_numpy(known[around]).to(self.device))
            stored = codes.to_stored(decoded, real)
            error = codes.errors_of(stored, windows[pixels])
            if not real.all():
                error[~np.broadcast_to(real[:, None], error.shape)] = 0
            sums[:, 3] = np.square(error, dtype=np.float64).sum(axis=(2, 3))
        return CodedWindows(planes, sums)


def count_outside(
    values: np.ndarray, real: np.ndarray, limits: tuple[np.ndarray, np.ndarray]
) -> np.ndarray:
    """Return the number of values (B, C, H, W) outside :func:`value_limits`, (B, C)."""
    low, high = limits
    if (values.min(axis=(2, 3)) >= low).all() and (values.max(axis=(2, 3)) <= high).all():
        return np.zeros(values.shape[:2])
    low, high = (end[:, None, None] for end in limits)
    return (((values < low) | (values > high)) & real[:, None]).sum(axis=(2, 3))


class WindowDecoder(Codec):
    """The function that :func:`hook.scenes.coding.decode_scene` calls."""

    @torch.inference_mode()
    def __call__(self, windows: np.ndarray, valid: np.ndarray) -> CodedWindows:
        """Decode windows (B, bands of the file, side, side) of codes.

        Raises:
            DataError: A code is not one of the model.
        """
        codes, reach = self.codes, self.grid.reach
        known = valid > 0
        indices = windows[:, : len(codes.sizes)].astype(np.int64)
        check_codes(indices, codes, known[:, None])
        inner = slice(reach, indices.shape[-1] - reach)
        pixels = np.repeat(known[:, inner, inner, None], codes.stride**2, axis=-1)
        if windows.shape[1] > len(codes.sizes):
            words = windows[:, len(codes.sizes) :, inner, inner].astype(codes.code_dtype)
            pixels &= codes.unpack_validity(words)
        side = pixels.shape[1]
        pixels = pixels.reshape(-1, side, side, codes.stride, codes.stride).swapaxes(2, 3)
        real = pixels.reshape(-1, side * codes.stride, side * codes.stride)
        on_device = (torch.from_numpy(one).to(self.device) for one in (indices, known))
        stored = codes.to_stored(self._values(*on_device), real)
        return CodedWindows(stored, np.zeros((len(windows), len(SUMS), len(codes.bands))), real)


def check_codes(indices: np.ndarray, codes: SceneCodes, known: np.ndarray) -> None:
    """Raise DataError if a known one of codes (..., h, w) is not one of the model."""
    if ((indices >= np.reshape(codes.sizes, (-1, 1, 1))) & known).any():
        raise DataError(
            "a code that the model does not have",
            expected=f"below {codes.sizes}, or {codes.none} for no data",
            found=int(indices.max()),
            remedy="the file is damaged or was changed; write it again with hook encode",
        )


def _cut(maps: np.ndarray | Tensor, margin: int) -> tuple:
    """Return the index of maps (..., h, w) without a margin."""
    return (..., *(slice(margin, side - margin) for side in maps.shape[-2:]))


def cells_of(pixels: np.ndarray, stride: int) -> np.ndarray:
    """Return pixels (B, H, W) of each code, (B, h, w, stride * stride)."""
    rows, columns = (side // stride for side in pixels.shape[1:])
    parts = pixels.reshape(-1, rows, stride, columns, stride).swapaxes(2, 3)
    return parts.reshape(-1, rows, columns, stride**2)


def value_limits(model: nn.Module) -> tuple[np.ndarray, np.ndarray]:
    """Return the lowest and highest values of the training data in model units, (1 or C,) each.

    Without a ``value_range`` of the preprocessor, they are 8 standard deviations from the mean.
    """
    preprocessor = model.data_preprocessor
    if preprocessor.value_range is not None:
        return tuple(np.array([end], np.float32) for end in preprocessor.value_range)
    mean, std = (
        part.detach().cpu().float().numpy().ravel()
        for part in (preprocessor.mean, preprocessor.std)
    )
    return mean - _FAR * std, mean + _FAR * std
