"""A model applied to whole scenes, common to maps and token regions."""

import hashlib
import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from mmengine.config import Config
from torch import Tensor, nn

from hook import __version__
from hook.arguments import check_int
from hook.engine.devices import list_devices
from hook.engine.models import default_window, get_num_bands
from hook.errors import ConfigError, DataError
from hook.geo.arrays import check_no_resume, raster_files
from hook.geo.bands import image_bands, resolve_bands
from hook.geo.measure import metres_per_pixel
from hook.geo.raster import open_raster
from hook.inference.images import ValueCheck
from hook.inference.models import Model, load_model, model_files
from hook.progress import progress_bar
from hook.scenes.cluster import connect, load_on_workers, on_cluster
from hook.scenes.pipeline import RunBlocks
from hook.scenes.request import SceneRequest

# Ratio of resolutions above which a warning is given.
_MAX_RESOLUTION_RATIO = 2.0


@dataclass(frozen=True)
class MakeFunction:
    """Loads a model in a worker and returns its function of windows, see :class:`SceneModel`."""

    kind: Callable[..., Any]
    cfg: dict[str, Any]
    checkpoint: str
    options: dict[str, Any]
    threads: int

    def __call__(self, device: str | None) -> Any:
        """Load the model on a device."""
        torch.set_num_threads(self.threads)
        model = load_model((Config(self.cfg), self.checkpoint), device=device or "cpu")
        return self.kind(model, **self.options)


class SceneModel:
    """A model, its devices, and its function of windows.

    Subclasses define ``run`` for a request; ``_temporary``, the default name of its output; and
    ``_read``, which reads the output.

    Args:
        kind: Class of the function that :mod:`hook.scenes` calls, made from the model and
            ``options``.
        model: A loaded model, or argument of :func:`hook.apis.load_model`.
        device: Device of a model that is not loaded yet; a scene is distributed to several GPUs
            (``"cuda:0,1"``).
        threads: CPU threads of each process; default: PyTorch's, divided by the processes of a
            local cluster.
        **options: Further arguments of ``kind``.

    Attributes:
        model: The model, in evaluation mode.
        function: The function of windows.

    Raises:
        ConfigError: The config or an option cannot be used, or the model is of a wrong kind.
        CheckpointError: See :func:`hook.apis.load_model`.
    """

    def __init__(
        self,
        kind: Callable[..., Any],
        model: Model,
        device: str,
        threads: int | None,
        **options: Any,
    ) -> None:
        self._devices = list_devices(device)
        if threads is not None:
            remedy = "omit threads for PyTorch's default"
            torch.set_num_threads(check_int("threads", threads, remedy=remedy))
        self._threads, self._given_threads = torch.get_num_threads(), threads is not None
        self.model = load_model(model, device=self._devices[0])
        # Unknown for a loaded model: its weights may have changed.
        self.checkpoint = None if isinstance(model, nn.Module) else self.model.weights_file
        self.function = kind(self.model, **options)
        self._kind, self._options = kind, options

    def _set_resolution(self, metres: float | None) -> None:
        """Set the metres per pixel of a scene, for a tokenizer trained with resolutions.

        For others, warn if they differ much from those of training.
        """
        backbone = getattr(self.model, "backbone", None)
        if not getattr(getattr(backbone, "tokenizer", None), "takes_resolution", False):
            warn_resolution_mismatch(self.model, "the scene", metres)
        else:
            self._options = self._options | {"resolution": metres}
            self.function = self._kind(self.model, **self._options)

    def fingerprint(self) -> dict[str, Any]:
        """Return everything that determines the model's output, for the journal of a run."""
        return {
            "config": _digest(self.model.cfg.pretty_text.encode()),
            "weights": digest_of(self.model.state_dict()),
            "device": self.function.device.type,
            "threads": self._threads,
            "versions": [__version__, torch.__version__],
            **self._options,
        }

    def _run_in_files(self, request: SceneRequest) -> Any:
        """Run a request with arrays, or without output, via temporary files."""
        check_no_resume(request.resume, request.output)
        with raster_files(request.input) as files, TemporaryDirectory(prefix="hook-") as folder:
            output = request.output or Path(folder, self._temporary)
            arrays = request.input if isinstance(request.input, list | tuple) else [request.input]
            protect = (*request.protect, *arrays)
            report = self.run(replace(request, input=files, output=output, protect=protect))
            return self._read(output) if request.output is None and output.exists() else report

    def resolved(self, request: SceneRequest) -> SceneRequest:
        """Fill in the defaults of the model."""
        model, scene = self.model, request.input[0]
        nodata = model.dataset_meta.get("nodata") if request.nodata is None else request.nodata
        bands = self._choose_bands(request)
        self._set_resolution(scene_resolution(scene))
        if not self._given_threads:
            processes = self._local_workers(request) or 1
            self._threads = max(1, torch.get_num_threads() // processes)
        window = request.window or default_window(model)
        meta = {key: model.dataset_meta.get(key) for key in ("scale", "offset", "nodata")}
        return replace(
            request,
            window=window,
            bidx=bands,
            nodata=nodata,
            metainfo=meta,
            protect=(*request.protect, *model_files(model)),
        )

    def _choose_bands(self, request: SceneRequest) -> Sequence[int | str] | None:
        """Return the bands of a scene that the model takes; None if unknown."""
        bands = choose_bands(self.model, request.input[0], request.bidx)
        names = request.bidx or self.model.dataset_meta.get("bands")
        # Names, which each file may have in an order of its own.
        return bands if names is None else tuple(names)

    def _check_values(self, request: SceneRequest, report: Any) -> None:
        """Warn if a scene has no valid pixel, or values far from the model's training data."""
        check = ValueCheck(self.model)
        for path, ranges in zip(request.input, report.ranges, strict=True):
            check.add(path, ranges)
        check.warn()
        if len(check.blank) == len(request.input):
            warnings.warn(f"{check.blank[0]}: no valid pixel, so the output is empty", stacklevel=3)

    @contextmanager
    def sharing(self, request: SceneRequest) -> Iterator[RunBlocks | None]:
        """Connect to a cluster for the ``cluster`` and ``workers`` of a request.

        Several devices make a local cluster too, with at least one process per device.

        Yields:
            The runner of blocks (:func:`hook.scenes.cluster.on_cluster`); None: this process.

        Raises:
            ConfigError: The model was loaded by the caller, so that workers have no files of it.
        """
        if request.cluster is None and len(self._devices) == 1:
            yield None
            return
        if self.checkpoint is None:
            raise ConfigError(
                "a loaded model cannot be sent to several workers",
                expected="a config and its checkpoint",
                remedy="pass these, or omit cluster",
            )
        make = MakeFunction(
            self._kind,
            self.model.cfg.to_dict(),
            str(Path(self.checkpoint).absolute()),
            self._options,
            self._threads,
        )
        parts = [self._kind.__name__, self.fingerprint(), str(self.checkpoint)]
        key = _digest(json.dumps(parts, default=str).encode())
        workers = self._local_workers(request)
        with ExitStack() as stack:
            show = request.progress and workers > 0
            with progress_bar(total=workers, desc="starting", unit="worker", show=show) as bar:
                client = stack.enter_context(
                    connect(request.cluster or "local", workers, self._threads)
                )
                if workers:
                    load_on_workers(client, make, key, self._devices)
                    bar.update(workers)
            yield on_cluster(client, make, key, self._devices)

    def _local_workers(self, request: SceneRequest) -> int:
        """Return the number of processes started on this machine, 0 for none."""
        if request.cluster == "local" or (request.cluster is None and len(self._devices) > 1):
            return max(request.workers, len(self._devices))
        return 0


def warn_resolution_mismatch(model: nn.Module, name: object, metres: float | None) -> None:
    """Warn if the metres per pixel of an image, if known, differ much from those of training."""
    trained = model.dataset_meta.get("resolution")
    limit = _MAX_RESOLUTION_RATIO
    if not trained or not metres or 1 / limit <= metres / trained <= limit:
        return
    warnings.warn(
        f"{name}: pixels of {metres:.2g} m, but the model was trained on pixels of {trained:g} m; "
        "resample the image (gdalwarp -tr, rio warp --res) or use a model for its resolution",
        stacklevel=3,
    )


def scene_resolution(scene: str) -> float | None:
    """Return the metres per pixel of a scene's (first) file.

    None without georeference, or if it cannot be opened, which is reported elsewhere.
    """
    with suppress(DataError), open_raster(scene) as source:
        return metres_per_pixel(source.height, source.width, source.transform, source.crs)
    return None


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def digest_of(tensors: Mapping[str, Tensor], text: str = "") -> str:
    """Return the SHA-256 of named tensors and a text."""
    digest = hashlib.sha256(text.encode())
    for name, value in tensors.items():
        digest.update(name.encode())
        flat = value.detach().cpu().contiguous().flatten()
        digest.update(flat.view(torch.uint8).numpy().data if flat.numel() else b"")
    return digest.hexdigest()


def choose_bands(
    model: nn.Module, scene: str, bidx: Sequence[int] | None, option: str | None = "--bidx"
) -> list[int] | None:
    """Return the 1-based indexes of the model's bands in a scene; None if unknown.

    Args:
        model: From :func:`hook.apis.load_model`.
        scene: The scene's (first) file.
        bidx: 1-based bands in the model's order; None: those of the dataset meta.
        option: The option that chooses bands, for errors; None: there is none.

    Raises:
        DataError: The file cannot be opened, lacks a band, or has a wrong number of bands.
    """
    wanted = get_num_bands(model)
    bands = bidx or model.dataset_meta.get("bands")
    if bands is None and wanted is None:
        return None
    with open_raster(scene) as source:
        named = bands is not None
        indexes = resolve_bands(source, list(bands), option) if named else image_bands(source)
    if wanted is not None and len(indexes) != wanted:
        raise DataError(
            f"scene {scene}: different number of bands than the model",
            expected=f"{wanted} bands",
            found=f"{len(indexes)} bands",
            remedy=f"select them in the model's order{f' with {option}' if option else ''}",
        )
    return indexes
