"""Scenes as codes, and scenes from codes."""

import os
import warnings
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from hook.arguments import bad_argument
from hook.errors import ConfigError
from hook.geo.arrays import check_no_resume, raster_file, read_image, require_xarray
from hook.inference.codes import (
    WindowDecoder,
    WindowEncoder,
    code_grid,
    codec_digest,
    pack_file,
    unpacked,
    value_limits,
)
from hook.inference.models import Model, model_files
from hook.inference.scenes import SceneModel
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

    Args:
        model: An autoencoder whose codes depend on their surroundings only; a loaded model, or
            argument of :func:`hook.apis.load_model`.
        input: The scene: files, a TorchGeo dataset or an array, see
            :class:`hook.scenes.SceneRequest`.
        output: File of codes, ``.tif`` (``.hkc`` with ``entropy``); None returns them as an array.
        device: Device of a model that is not loaded yet; a scene is distributed to several GPUs
            (``"cuda:0,1"``).
        threads: CPU threads of each process.
        **options: Of :class:`hook.scenes.request.EncodingRequest`: ``bounds``, ``bidx``,
            ``nodata``, ``max_error``, ``errors``, ``entropy``, ``window``, ``batch_size``,
            ``creation_options``, ``cluster``, ``workers``, ``resume``, ``overwrite``, ``progress``,
            ``dry_run``.

    Returns:
        A report with the error of each band; with ``dry_run`` an estimate; without ``output`` the
        codes (band, y, x), whose attributes are the tags.

    Raises:
        ConfigError: An option cannot be used, or the model has no codes or cannot code windows.
        DataError: The scene lacks the model's bands, or errors are above ``max_error``.
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
    device: str = "cpu",
    threads: int | None = None,
    **options: Any,
) -> "CodingReport | Estimate | xarray.DataArray":
    """Decode the codes of a scene, or of a part of it, which is the same as in the whole.

    Args:
        codes: File of :func:`encode`, or its array with the attributes.
        output: The scene, ``.tif``; None returns it as an array.
        model: The model of the codes; None for the published one that they name.
        device: See :func:`encode`.
        threads: See :func:`encode`.
        **options: Of :class:`hook.scenes.request.CodingRequest`, as for :func:`encode`: ``bounds``,
            ``window``, ``batch_size``, ``creation_options``, ``cluster``, ``workers``, ``resume``,
            ``overwrite``, ``progress``, ``dry_run``.

    Returns:
        A report; with ``dry_run`` an estimate; without ``output`` the scene (band, y, x).

    Raises:
        ConfigError: An option cannot be used, or the model is not that of the codes.
        DataError: The file is not one of codes, or not complete.
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
        path = stack.enter_context(unpacked(file, Path(folder)))
        decoder = SceneDecoder(SceneCodes.read(path), model, device=device, threads=threads)
        request = replace(request, input=path, protect=(*request.protect, file))
        return decoder.run(request)


class SceneEncoder(SceneModel):
    """The model of :func:`encode`, whose arguments it has."""

    _temporary = "codes.tif"

    def __init__(self, model: Model, *, device: str = "cpu", threads: int | None = None) -> None:
        super().__init__(code_grid, model, device, threads)
        self.grid, self._kind = self.function, WindowEncoder

    def run(self, request: EncodingRequest) -> "EncodingReport | Estimate | xarray.DataArray":
        """Code the scene of a request; returns and raises as :func:`encode`."""
        if request.output is None and not request.dry_run:
            require_xarray("the codes")
        if request.in_memory:
            return self._run_in_files(request)
        request, model = self.resolved(request), self.model
        sizes, name = tuple(model.quantizer.codebook_sizes), _name_of(model)
        digest = codec_digest(model)
        codes, scene, plan = plan_encoding(request, self.grid, sizes, name, digest, pack_file)
        self._options = dict(codes=codes, grid=self.grid, errors=request.errors)
        self.function = WindowEncoder(model, **self._options)
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
        self._check_values(request, report)
        if report.outside:
            low, high = (np.unique(end).tolist() for end in value_limits(model))
            share = 100 * report.outside / max(report.pixels * len(codes.bands), 1)
            warnings.warn(
                f"{request.input[0]}: {report.outside} values ({share:.2g} %) outside the range of "
                f"the training data, {_span(low)} to {_span(high)}; what they decode to may be "
                "wrong",
                stacklevel=2,
            )
        return report

    def _read(self, path: Path) -> "xarray.DataArray":
        return read_image(path)


class SceneDecoder(SceneModel):
    """The model of :func:`decode`, for codes of this description."""

    _temporary = "scene.tif"

    def __init__(
        self,
        codes: SceneCodes,
        model: Model | None = None,
        *,
        device: str = "cpu",
        threads: int | None = None,
    ) -> None:
        wanted = f"{codes.model}, SHA-256 {codes.digest[:16]}..."
        try:
            super().__init__(code_grid, codes.model if model is None else model, device, threads)
        except ConfigError as error:
            if model is not None:
                raise
            raise ConfigError(
                "the model of the codes is not a published one",
                expected=wanted,
                found=error.what,
                remedy="pass its config and checkpoint (--model CONFIG --checkpoint FILE)",
            ) from None
        if (digest := codec_digest(self.model)) != codes.digest:
            raise ConfigError(
                "the codes are those of another model",
                expected=wanted,
                found=f"{_name_of(self.model)}, SHA-256 {digest[:16]}...",
                remedy="pass the model that made the codes, with the same weights (--model)",
            )
        self.codes, self.grid, self._kind = codes, self.function, WindowDecoder
        self._options = dict(codes=codes, grid=self.grid)
        self.function = WindowDecoder(self.model, **self._options)

    def run(self, request: CodingRequest) -> "CodingReport | Estimate | xarray.DataArray":
        """Decode the codes of a request; returns and raises as :func:`decode`."""
        if request.output is None and not request.dry_run:
            require_xarray("the scene")
        if request.in_memory:
            return self._run_in_files(request)
        request = replace(request, protect=(*request.protect, *model_files(self.model)))
        scene, plan = plan_decoding(request, self.codes, self.grid)
        if request.dry_run:
            return estimate_coding(self.function, scene, plan)
        with self.sharing(request) as run_blocks:
            fingerprint = self.fingerprint()
            return decode_scene(
                self.function,
                request,
                scene,
                plan,
                fingerprint=fingerprint,
                run_blocks=run_blocks,
            )

    def _read(self, path: Path) -> "xarray.DataArray":
        return read_image(path)


def _name_of(model: Any) -> str:
    """Return the name of a published model, or that of its config."""
    card, config = getattr(model, "card", None), getattr(model, "cfg", None)
    return card.name if card else Path(getattr(config, "filename", None) or "model").stem


def _span(values: Iterable[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:g}" if low == high else f"{low:g}..{high:g}"
