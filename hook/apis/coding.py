"""Scenes as codes, and scenes from codes."""

import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from hook.arguments import bad_argument
from hook.engine.devices import list_devices
from hook.errors import ConfigError
from hook.geo.arrays import check_no_resume, raster_file, read_image, require_xarray
from hook.inference.codes import (
    WindowDecoder,
    WindowEncoder,
    code_grid,
    codec_digest,
    codec_of,
    codes_series,
    series_grid,
    value_limits,
)
from hook.inference.entropy import EntropyModel
from hook.inference.models import Model, load_model, model_files, name_of
from hook.inference.packed import CodeBlocks, ModelPacker, pack_file, unpacked
from hook.inference.scenes import SceneModel
from hook.inference.series_codes import (
    SeriesDecoder,
    SeriesEncoder,
    read_series,
    split_series,
)
from hook.scenes.codes import SceneCodes
from hook.scenes.coding import (
    CodingReport,
    EncodingReport,
    decode_scene,
    encode_scene,
    estimate_coding,
    plan_decoding,
    plan_encoding,
)
from hook.scenes.estimate import Estimate
from hook.scenes.request import CodingRequest, EncodingRequest

if TYPE_CHECKING:
    import xarray


def encode(
    model: Model,
    input: Any,
    output: str | os.PathLike | None = None,
    *,
    device: str = "cpu",
    threads: int | None = None,
    **options: Any,
) -> "EncodingReport | Estimate | xarray.DataArray":
    """Code a scene of any size.

    Codes are a Cloud-Optimised GeoTIFF on the scene's grid, of which each pixel is as large as
    ``stride`` pixels of the scene. Its tags say all that decoding needs but the model. A code does
    not depend on the size of the scene or on where a window starts.

    A :class:`hook.models.SeriesAutoencoder` codes a time series, each block of ``window`` pixels by
    itself, all its dates at once. The file has, for each date and band group, the codes of one
    patch; of a group of coarser pixels they stand in the upper left one of the places it covers.

    Args:
        model: An autoencoder whose codes depend on their surroundings only, or one of time series;
            a loaded model, or argument of :func:`hook.apis.load_model`.
        input: The scene: files, a TorchGeo dataset or an array, see
            :class:`hook.scenes.SceneRequest`. A time series: a file with the bands of one date
            after those of another, a file for each date, or an array with a dimension ``time``.
        output: File of codes, ``.tif`` (``.hkc`` with ``entropy``); None returns them as an array.
        device: Device of a model that is not loaded yet; a scene is distributed to several GPUs
            (``"cuda:0,1"``).
        threads: CPU threads of each process.
        **options: Of :class:`hook.scenes.request.EncodingRequest`: ``dates``, ``bounds``,
            ``bidx``, ``nodata``, ``max_error``, ``errors``, ``entropy``, ``window``,
            ``batch_size``, ``creation_options``, ``cluster``, ``workers``, ``resume``,
            ``overwrite``, ``progress``, ``dry_run``.

    Returns:
        A report with the error of each band; with ``dry_run`` an estimate; without ``output`` the
        codes (band, y, x), whose attributes are the tags.

    Raises:
        ConfigError: An option cannot be used, or the model has no codes or cannot code windows.
        DataError: The scene lacks the model's bands or dates, or errors are above ``max_error``.
        SceneError: See :func:`hook.scenes.map_scene`.

    Example:
        >>> report = encode(("config.py", "checkpoint.pth"), "scene.tif", "codes.tif")
        >>> decode("codes.tif", "decoded.tif", model=("config.py", "checkpoint.pth"))
    """
    request = EncodingRequest(input, output, **options)
    return SceneEncoder(model, device=device, threads=threads).run(request)


def decode(
    codes: Any,
    output: str | os.PathLike | None = None,
    *,
    model: Model | None = None,
    entropy: Model | None = None,
    device: str = "cpu",
    threads: int | None = None,
    **options: Any,
) -> "CodingReport | Estimate | xarray.DataArray":
    """Decode the codes of a scene, or of a part of it, which is the same as in the whole.

    Args:
        codes: File of :func:`encode`, or its array with the attributes.
        output: The scene, ``.tif``; None returns it as an array.
        model: The model of the codes; None for the autoencoder of ``entropy``, or the published one
            that they name.
        entropy: The generator that packed the codes; None for the published one that they name.
        device: See :func:`encode`.
        threads: See :func:`encode`.
        **options: Of :class:`hook.scenes.request.CodingRequest`, as for :func:`encode`: ``bounds``,
            ``window``, ``batch_size``, ``creation_options``, ``cluster``, ``workers``, ``resume``,
            ``overwrite``, ``progress``, ``dry_run``.

    Returns:
        A report; with ``dry_run`` an estimate; without ``output`` the scene (band, y, x).

    Raises:
        ConfigError: An option cannot be used, or a model is not that of the codes.
        DataError: The file is not one of codes, or not complete, or a generator gives other
            probabilities here than where it packed the codes.
        SceneError: See :func:`hook.scenes.map_scene`.
    """
    request = CodingRequest(codes, output, **options)
    for name in ("bidx", "nodata"):
        if getattr(request, name) is not None:
            raise bad_argument(name, getattr(request, name), "nothing: codes have them in tags")
    if not request.has_arrays and len(request.input) != 1:
        raise bad_argument("codes", codes, "one file")
    if request.has_arrays:
        check_no_resume(request.resume, request.output)
    with ExitStack() as stack:
        # Workers on other machines see the folder of the output only.
        shared = None if request.cluster in (None, "local") else Path(output or ".").parent
        folder = stack.enter_context(TemporaryDirectory(prefix=".hook-", dir=shared))
        file = stack.enter_context(raster_file(codes if request.has_arrays else request.input[0]))
        path, blocks = stack.enter_context(unpacked(file, Path(folder)))
        own = dict(device=device, threads=threads, blocks=blocks, entropy=entropy)
        decoder = SceneDecoder(SceneCodes.read(path), model, **own)
        request = replace(request, input=path, protect=(*request.protect, file))
        return decoder.run(request)


class SceneEncoder(SceneModel):
    """The model of :func:`encode`, whose arguments it has."""

    _temporary = "codes.tif"

    def __init__(self, model: Model, *, device: str = "cpu", threads: int | None = None) -> None:
        super().__init__(code_grid, model, device, threads)
        self.grid = self.function
        self._of_series = codes_series(self.model)
        self._kind = SeriesEncoder if self._of_series else WindowEncoder

    def run(self, request: EncodingRequest) -> "EncodingReport | Estimate | xarray.DataArray":
        """Code the scene of a request; returns and raises as :func:`encode`."""
        if request.output is None and not request.dry_run:
            require_xarray("the codes")
        if request.dates is not None and not self._of_series:
            expected = "nothing: the model codes single images"
            raise bad_argument("dates", request.dates, expected)
        if self._of_series:
            request = split_series(request)
        if request.in_memory:
            return self._run_in_files(request)
        series, window = None, request.window
        request, model = self.resolved(request), self.model
        if self._of_series:
            series = read_series(model, request)
            self.grid = series_grid(model, window)
        sizes, name = tuple(model.quantizer.codebook_sizes), name_of(model)
        digest = codec_digest(model)
        pack = pack_file if request.entropy is True else None
        if request.entropy and pack is None:
            pack = self._packer(request, digest)
        parts = request, self.grid, sizes, name, digest, pack, series
        codes, scene, plan = plan_encoding(*parts)
        self._options = dict(codes=codes, grid=self.grid, errors=request.errors)
        self.function = self._kind(model, **self._options)
        if request.dry_run:
            return estimate_coding(self.function, scene, plan)
        peak = None
        if model.data_preprocessor.value_range is not None:
            low, high = value_limits(model)
            peak = (high - low) / np.abs(codes.scale)
        with self.sharing(request) as run_blocks:
            report = encode_scene(
                self.function,
                request,
                codes,
                scene,
                plan,
                peak=peak,
                fingerprint=self.fingerprint(),
                run_blocks=run_blocks,
            )
        if series is None:
            self._check_values(request, report)
        else:
            each = np.split(report.ranges[0], len(series.dates), axis=1)
            files = [f"{one.paths[0]}, {date or 'no date'}" for one, date in series.pairs]
            self._check_values(replace(request, input=files), replace(report, ranges=each))
        if report.outside:
            low, high = (np.unique(end).tolist() for end in value_limits(model))
            share = 100 * report.outside / max(report.pixels * len(codes.bands), 1)
            warnings.warn(
                f"{request.input[0]}: {report.outside} values ({share:.3g} %) outside the range of "
                f"the training data, {_span(low)} to {_span(high)}; what they decode to may be "
                "wrong",
                stacklevel=2,
            )
        return report

    def _packer(self, request: EncodingRequest, digest: str) -> ModelPacker:
        """Return what packs codes with the generator of a request."""
        generator = load_model(request.entropy, device=self._devices[0])
        model = EntropyModel(generator)
        own = codec_of(generator)
        own.dataset_meta = self.model.dataset_meta  # of the same scaling
        if (found := codec_digest(own)) != digest:
            raise ConfigError(
                "entropy: the generator has learned the codes of another autoencoder",
                expected=f"{name_of(self.model)}, SHA-256 {digest[:16]}...",
                found=f"that of {model.name}, SHA-256 {found[:16]}...",
                remedy="pass a generator that was trained with this checkpoint as codec_weights",
            )
        return ModelPacker(model, request.progress and not request.dry_run)

    def _choose_bands(self, request: EncodingRequest) -> Sequence[int] | None:
        if not self._of_series:
            return super()._choose_bands(request)
        if request.bidx is not None:
            expected = "nothing: the layers of a series are the model's bands of each date"
            raise bad_argument("bidx", request.bidx, expected)
        return None  # known with the dates

    def _read(self, path: Path) -> "xarray.DataArray":
        return read_image(path)


class SceneDecoder(SceneModel):
    """The model of :func:`decode`, for codes of this description.

    Args:
        codes: The description.
        model: See :func:`decode`.
        device: See :func:`decode`.
        threads: See :func:`decode`.
        blocks: Blocks of codes that a generator packed.
        entropy: The generator, see :func:`decode`.

    Attributes:
        tags: Metadata of the files that are written; None for none.
    """

    _temporary = "scene.tif"

    def __init__(
        self,
        codes: SceneCodes,
        model: Model | None = None,
        *,
        device: str = "cpu",
        threads: int | None = None,
        blocks: CodeBlocks | None = None,
        entropy: Model | None = None,
    ) -> None:
        wanted = f"{codes.model}, SHA-256 {codes.digest[:16]}..."
        if blocks is not None:
            name = f"{blocks.facts['name']}, SHA-256 {blocks.facts['digest'][:16]}..."
            with _published(entropy, "generator that packed the codes", name, "--entropy"):
                first = list_devices(device)[0]
                generator = load_model(entropy or blocks.facts["name"], device=first)
            blocks.use(EntropyModel(generator), progress=False)
            model = codec_of(generator) if model is None else model
        elif entropy is not None:
            raise bad_argument("entropy", entropy, "nothing: no generator packed these codes")
        with _published(model, "model of the codes", wanted, "--model"):
            super().__init__(code_grid, codes.model if model is None else model, device, threads)
        if (digest := codec_digest(self.model)) != codes.digest:
            raise ConfigError(
                "the codes are those of another model",
                expected=wanted,
                found=f"{name_of(self.model)}, SHA-256 {digest[:16]}...",
                remedy="pass the model that made the codes, with the same weights (--model)",
            )
        self._kind = SeriesDecoder if codes.dates else WindowDecoder
        self.codes, self.grid = codes, self.function._replace(window=codes.window)
        self._blocks, self.tags = blocks, None
        self._options = dict(codes=codes, grid=self.grid)
        self.function = self._kind(self.model, **self._options)

    def run(self, request: CodingRequest) -> "CodingReport | Estimate | xarray.DataArray":
        """Decode the codes of a request; returns and raises as :func:`decode`."""
        if request.output is None and not request.dry_run:
            require_xarray("the scene")
        if self.codes.dates and request.window is not None:
            expected = "nothing: the blocks of a series are those in which it was coded"
            raise bad_argument("window", request.window, expected)
        if request.in_memory:
            return self._run_in_files(request)
        request = replace(request, protect=(*request.protect, *model_files(self.model)))
        scene, plan = plan_decoding(request, self.codes, self.grid)
        plan.layers[0].tags = self.tags or plan.layers[0].tags
        if self._blocks is not None:
            self._blocks.progress = request.progress and not request.dry_run
        if request.dry_run:
            return estimate_coding(self.function, scene, plan, self._blocks)
        with self.sharing(request) as run_blocks:
            fingerprint = self.fingerprint()
            return decode_scene(
                self.function,
                request,
                scene,
                plan,
                fingerprint=fingerprint,
                run_blocks=run_blocks,
                unpack=self._blocks,
            )

    def _read(self, path: Path) -> "xarray.DataArray":
        return read_image(path, self.codes.dates)


@contextmanager
def _published(given: Model | None, what: str, wanted: str, option: str) -> Iterator[None]:
    """Say how to pass a model, if none is given and the one that a file names is not published."""
    try:
        yield
    except ConfigError as error:
        if given is not None:
            raise
        checkpoint = {"--model": "--checkpoint"}.get(option, f"{option}-checkpoint")
        raise ConfigError(
            f"the {what} is not a published one",
            expected=wanted,
            found=error.what,
            remedy=f"pass its config and checkpoint ({option} CONFIG {checkpoint} FILE)",
        ) from None


def _span(values: Iterable[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:g}" if low == high else f"{low:g}..{high:g}"
