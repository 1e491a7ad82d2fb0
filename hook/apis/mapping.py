"""Map scenes with a model."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hook.arguments import rename_option
from hook.engine.models import get_num_classes
from hook.geo.arrays import read_class_map, require_xarray
from hook.geo.styles import distinct_palette
from hook.inference.model_card import model_card
from hook.inference.models import Model, join_checkpoint, require_classes
from hook.inference.scenes import SceneModel
from hook.inference.windows import WindowPredictor
from hook.scenes import MapReport, map_scene
from hook.scenes.estimate import Estimate, estimate
from hook.scenes.grid import overlap_pixels
from hook.scenes.mapping import plan_map
from hook.scenes.request import MapRequest

if TYPE_CHECKING:
    import xarray


class SceneMapper(SceneModel):
    """Maps georeferenced scenes of any size with a model.

    A segmentation classifies pixels; a classification the cells of a grid, each from the window
    around it, with the step of the windows as their side. Bands, scaling, statistics, class names
    and colours are those of the model's ``dataset_meta``.

    Args:
        model: A loaded model, or argument of :func:`hook.apis.load_model`.
        checkpoint: Deprecated: pass the pair as ``model``.
        device: Device of a model that is not loaded yet; a scene is distributed to several GPUs
            (``"cuda:0,1"``).
        num_tokens: Number of tokens per window; default: the model's.
        tta: Average over flips (``"flip"``) or flips and 90-degree rotations (``"d4"`` or True).
        precision: ``"fp32"`` or ``"bf16"``.
        compile: Compile the model.
        threads: CPU threads of each process; default: PyTorch's, divided by the processes of a
            local cluster.

    Raises:
        ConfigError: The config or an option cannot be used, or the model cannot map scenes.
        CheckpointError: See :func:`hook.apis.load_model`.

    Example:
        >>> mapper = SceneMapper(("config.py", "checkpoint.pth"))
        >>> report = mapper.map("scene.tif", "map.tif", vectors="map.gpkg")
        >>> land = SceneMapper("model.safetensors").map(rioxarray.open_rasterio("scene.tif"))
    """

    _temporary = "map.tif"

    def __init__(
        self,
        model: Model,
        checkpoint: str | os.PathLike | None = None,
        *,
        device: str = "cpu",
        num_tokens: int | None = None,
        tta: str | bool | None = None,
        precision: str = "fp32",
        compile: bool = False,
        threads: int | None = None,
    ) -> None:
        super().__init__(
            WindowPredictor,
            join_checkpoint(model, checkpoint),
            device,
            threads,
            num_tokens=num_tokens,
            tta="d4" if tta is True else tta or None,
            precision=precision,
            compile=compile,
        )
        require_classes(self.model)

    def map(
        self, input: Any, output: str | os.PathLike | None = None, **options: Any
    ) -> "MapReport | Estimate | xarray.DataArray":
        """Map a scene.

        Args:
            input: The scene: files, a TorchGeo dataset or an array, see
                :class:`hook.scenes.SceneRequest`.
            output: The map, ``.tif``, see :func:`hook.scenes.map_scene`; None returns it as an
                array.
            **options: Of :class:`hook.scenes.MapRequest`: ``window``, ``overlap``, ``batch_size``,
                ``bidx``, ``nodata``, ``aoi``, ``blend``, ``scores``, ``scores_path``, ``vectors``,
                ``min_area``, ``simplify``, ``datetime``, ``creation_options``, ``cluster``,
                ``workers``, ``resume``, ``overwrite``, ``progress``, ``dry_run``.

        Returns:
            A report; with ``dry_run`` an estimate; without ``output`` the map, see
            :func:`hook.geo.arrays.read_class_map`.

        Raises:
            ConfigError: An option cannot be used.
            DataError: The scene lacks the model's bands.
            SceneError: See :func:`hook.scenes.map_scene`.
        """
        options = rename_option(options, "taken", "datetime")
        return self.run(MapRequest(input, output, **options))

    def run(self, request: MapRequest) -> "MapReport | Estimate | xarray.DataArray":
        """Map the scene of a request; returns and raises as :meth:`map`."""
        if request.output is None and not request.dry_run:
            require_xarray("the map")
        if request.in_memory:
            return self._run_in_files(request)
        request, segments = self.resolved(request), self.function.segments
        step = request.window - overlap_pixels(request.overlap, request.window)
        classes = dict(
            num_classes=get_num_classes(self.model),
            class_names=self.model.dataset_meta["classes"],
            palette=self._palette,
            cell=None if segments else step,
        )
        if request.dry_run:
            return estimate(self.function, *plan_map(request, **classes))
        tokenizer = getattr(self.model.backbone, "tokenizer", None)
        fingerprint = self.fingerprint()
        hyperparameters = {
            "weights_sha256": fingerprint["weights"],
            "tokens": self.function.num_tokens or getattr(tokenizer, "num_tokens", None),
            "overlap": request.overlap,
            "blend": request.blend if segments else None,
            "batch_size": request.batch_size,
            "tta": self.function.tta,
            "precision": self.function.precision,
        }
        with self.sharing(request) as run_blocks:
            report = map_scene(
                self.function,
                request,
                **classes,
                fingerprint=fingerprint,
                run_blocks=run_blocks,
                model=model_card(
                    self.model,
                    self.checkpoint,
                    window=request.window,
                    hyperparameters=hyperparameters,
                ),
            )
        self._check_values(request, report)
        return report

    @property
    def _palette(self) -> Sequence[Sequence[int]]:
        meta = self.model.dataset_meta
        return meta.get("palette") or distinct_palette(len(meta["classes"]))

    def _read(self, path: Path) -> "xarray.DataArray":
        return read_class_map(path, self.model.dataset_meta["classes"], self._palette)
