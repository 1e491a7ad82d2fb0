"""A model applied to whole scenes: what maps and token regions share."""

import hashlib
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from mmengine.config import Config
from torch import nn

from hook import __version__
from hook.arguments import check_int
from hook.engine.devices import list_devices
from hook.engine.models import band_count_of, default_window
from hook.errors import ConfigError, DataError
from hook.geo.arrays import raster_files, refuse_resume
from hook.geo.bands import image_bands, resolve_bands
from hook.geo.measure import metres_per_pixel
from hook.geo.raster import open_raster
from hook.inference.models import Model, load_model
from hook.scenes.cluster import connect, on_cluster
from hook.scenes.pipeline import RunBlocks
from hook.scenes.request import SceneRequest

# Objects twice as large or small look like others.
_OTHER_RESOLUTION = 2.0


@dataclass(frozen=True)
class MakeFunction:
    """Loads a model and makes the function of windows, in whichever process calls it.

    Args:
        kind: Class of the function, called with the model and ``options``.
        cfg: The config.
        checkpoint: Its checkpoint.
        options: Further arguments of ``kind``.
        threads: CPU threads of the process.
    """

    kind: Callable[..., Any]
    cfg: dict[str, Any]
    checkpoint: str
    options: dict[str, Any]
    threads: int

    def __call__(self, device: str | None) -> Any:
        """Load the model onto a device."""
        torch.set_num_threads(self.threads)
        model = load_model((Config(self.cfg), self.checkpoint), device=device or "cpu")
        return self.kind(model, **self.options)


class SceneModel:
    """A model, the devices it runs on, and the function of windows made of it.

    A subclass has ``run``, which does what a request asks; ``_temporary``, the name of its output
    where none is given; and ``_read``, which reads that.

    Args:
        kind: Class of the function that the engine of :mod:`hook.scenes` calls, made from the
            model and ``options``.
        model: A loaded model, or what :func:`hook.apis.load_model` takes.
        device: Where a model that is not loaded yet runs; several GPUs (``"cuda:0,1"``) share a
            scene.
        threads: CPU threads of each process; None leaves PyTorch's choice.
        **options: Further arguments of ``kind``.

    Attributes:
        model: The model, in evaluation mode.
        function: The function of windows.

    Raises:
        ConfigError: The config or an option cannot be used, or the model suits no scene.
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
            remedy = "leave threads out for PyTorch's choice"
            torch.set_num_threads(check_int("threads", threads, remedy=remedy))
        self.model = load_model(model, device=self._devices[0])
        # Weights of a loaded model may have changed since they were read.
        self.checkpoint = None if isinstance(model, nn.Module) else self.model.weights_file
        self.function = kind(self.model, **options)
        self._kind, self._options = kind, options

    def _set_resolution(self, metres: float | None) -> None:
        """Tell the function of windows how large a scene's pixels are on the ground, in metres.

        A tokenizer that was trained with a resolution takes it; for others, warn where the pixels
        are much larger or smaller than those the model was trained on.
        """
        if not getattr(getattr(self.model.backbone, "tokenizer", None), "takes_resolution", False):
            warn_of_resolution(self.model, "the scene", metres)
        else:
            self._options = self._options | {"resolution": metres}
            self.function = self._kind(self.model, **self._options)

    def fingerprint(self) -> dict[str, Any]:
        """All that decides the model's answers, for the journal of a run."""
        return {
            "config": _digest(self.model.cfg.pretty_text.encode()),
            "weights": _digest_of_weights(self.model),
            "device": self.function.device.type,
            "threads": torch.get_num_threads(),
            "versions": [__version__, torch.__version__],
            **self._options,
        }

    def _run_in_files(self, request: SceneRequest) -> Any:
        """Run what has arrays, or returns its result, via temporary files."""
        refuse_resume(request.resume, request.output)
        with raster_files(request.input) as files, TemporaryDirectory(prefix="hook-") as folder:
            output = request.output or Path(folder, self._temporary)
            report = self.run(replace(request, input=files, output=output))
            return self._read(output) if request.output is None and output.exists() else report

    def resolved(self, request: SceneRequest) -> SceneRequest:
        """Replace what the request leaves to the model."""
        model, scene = self.model, request.input[0]
        nodata = model.dataset_meta.get("nodata") if request.nodata is None else request.nodata
        bands = choose_bands(model, scene, request.bidx)
        self._set_resolution(scene_resolution(scene))
        window = request.window or default_window(model)
        return replace(request, window=window, bidx=bands, nodata=nodata)

    @contextmanager
    def sharing(self, request: SceneRequest) -> Iterator[RunBlocks | None]:
        """Start or join the processes that share a scene, for the life of a ``with`` block.

        Args:
            request: Its ``cluster`` and ``workers``: several devices make a cluster too, with at
                least one process per device.

        Yields:
            What runs the scene's blocks (:func:`hook.scenes.cluster.on_cluster`); None: this
            process does.

        Raises:
            ConfigError: The model came loaded, without the files that workers load it from.
        """
        if request.cluster is None and len(self._devices) == 1:
            yield None
            return
        if self.checkpoint is None:
            raise ConfigError(
                "a loaded model cannot be sent to several workers",
                expected="a config and its checkpoint",
                remedy="give these, or leave cluster out",
            )
        make = MakeFunction(
            self._kind,
            self.model.cfg.to_dict(),
            str(Path(self.checkpoint).absolute()),
            self._options,
            torch.get_num_threads(),
        )
        parts = [self._kind.__name__, self.fingerprint(), str(self.checkpoint)]
        key = _digest(json.dumps(parts, default=str).encode())
        workers = max(request.workers, len(self._devices))
        with connect(request.cluster or "local", workers) as client:
            yield on_cluster(client, make, key, self._devices)


def warn_of_resolution(model: nn.Module, name: object, metres: float | None) -> None:
    """Say where a model meets pixels of quite another size than those it was trained on.

    Args:
        model: From :func:`hook.apis.load_model`; its dataset meta may have a ``resolution``.
        name: What the image is called.
        metres: Size of its pixels on the ground; None says nothing.
    """
    own = model.dataset_meta.get("resolution")
    if not own or not metres or 1 / _OTHER_RESOLUTION <= metres / own <= _OTHER_RESOLUTION:
        return
    warnings.warn(
        f"{name}: pixels of {metres:.2g} m, and the model knows pixels of {own:g} m: what it says "
        f"of them means little; resample the image (gdalwarp -tr, rio warp --res) or take a model "
        "for its resolution",
        stacklevel=3,
    )


def scene_resolution(scene: str) -> float | None:
    """Give the size of a scene's pixels on the ground in metres, where it has a place.

    Args:
        scene: The scene's (first) file; one that cannot be opened has none, and others complain.
    """
    with suppress(DataError), open_raster(scene) as source:
        return metres_per_pixel(source.height, source.width, source.transform, source.crs)
    return None


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _digest_of_weights(model: nn.Module) -> str:
    """Checksum of all weights and buffers of a model."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        flat = value.detach().cpu().contiguous().flatten()
        digest.update(flat.view(torch.uint8).numpy().data if flat.numel() else b"")
    return digest.hexdigest()


def choose_bands(model: nn.Module, scene: str, bidx: Sequence[int] | None) -> list[int] | None:
    """Find the model's bands in a scene; compare their number with what the model takes.

    Args:
        model: From :func:`hook.apis.load_model`.
        scene: The scene's (first) file.
        bidx: 1-based bands in the model's order; None: those that the dataset meta names.

    Returns:
        1-based indexes; None where nobody says.

    Raises:
        DataError: The file cannot be opened, or has other bands.
    """
    wanted = band_count_of(model)
    bands = bidx or model.dataset_meta.get("bands")
    if bands is None and wanted is None:
        return None
    with open_raster(scene) as source:
        named = bands is not None
        indexes = resolve_bands(source, list(bands), "--bidx") if named else image_bands(source)
    if wanted is not None and len(indexes) != wanted:
        raise DataError(
            f"scene {scene}: the model takes another number of bands",
            expected=f"{wanted} bands",
            found=f"{len(indexes)} bands",
            remedy="choose them in the model's order with --bidx",
        )
    return indexes
