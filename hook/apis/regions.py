"""Extract token regions of scenes with a model."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import geopandas
from torch import nn

from hook.arguments import check_int, rename_option
from hook.geo.vector import read_vectors
from hook.inference.models import Model, join_checkpoint
from hook.inference.regions import RegionPredictor
from hook.inference.scenes import SceneModel, choose_bands
from hook.regions import RegionReport, RegionRequest, extract_regions
from hook.regions.plan import refused


class RegionExtractor(SceneModel):
    """Writes the token regions of scenes as polygons with classes, statistics and embeddings.

    For fields and rules see :func:`hook.regions.extract_regions`. With a segmentation a region has
    the most frequent class of its pixels. A classification head that pools the mean of the tokens
    is applied to single tokens, so that their class may differ from the window's.

    Args:
        model: A loaded model, or argument of :func:`hook.apis.load_model`.
        checkpoint: Deprecated: pass the pair as ``model``.
        device: Device of a model that is not loaded yet; a scene is distributed to several GPUs
            (``"cuda:0,1"``).
        num_tokens: Number of tokens per window; default: the model's.
        threads: CPU threads of each process; default: PyTorch's, divided by the processes of a
            local cluster.
        min_region_pixels: Minimum size of a connected part of a token; smaller fragments are
            merged into their most similar neighbour. 0 keeps all.
        embedding: ``"tokens"`` of the last block, equal for all parts of a token; or ``"seeds"``:
            means and standard deviations of the region's seeds (4 x 4 pixels each) after object
            perception, better for classes that the model was not trained on. None: tokens, and
            seeds for regions of the whole scene, which have no others.
        refine: Give pixels at the borders of regions to the neighbour of like colour
            (:func:`hook.tokenizers.refine_borders`), instead of edges along seeds of 4 x 4 pixels.
        min_region: Deprecated: the old name of ``min_region_pixels``.

    Raises:
        ConfigError: The config or an option cannot be used, or the model has no tokens.
        CheckpointError: See :func:`hook.apis.load_model`.

    Example:
        >>> extractor = RegionExtractor(("config.py", "checkpoint.pth"))
        >>> report = extractor.extract("scene.tif", "regions.parquet", merge=True)
    """

    _temporary = "regions.parquet"

    def __init__(
        self,
        model: Model,
        checkpoint: str | os.PathLike | None = None,
        *,
        device: str = "cpu",
        num_tokens: int | None = None,
        threads: int | None = None,
        min_region_pixels: int = 0,
        embedding: str | None = None,
        refine: bool = False,
        min_region: int | None = None,
    ) -> None:
        if min_region is not None:
            old = {"min_region": min_region}
            min_region_pixels = rename_option(old, "min_region", "min_region_pixels").popitem()[1]
        min_region_pixels = check_int("min_region_pixels", min_region_pixels, minimum=0)
        super().__init__(
            RegionPredictor,
            join_checkpoint(model, checkpoint),
            device,
            threads,
            num_tokens=num_tokens,
            min_region_pixels=min_region_pixels,
            embedding=embedding,
            refine=bool(refine),
            of_scene=False,
        )

    def extract(
        self, input: Any, output: str | os.PathLike | None = None, **options: Any
    ) -> RegionReport | geopandas.GeoDataFrame:
        """Write the regions of a scene.

        Args:
            input: The scene: files, a TorchGeo dataset or an array, see
                :class:`hook.scenes.SceneRequest`.
            output: ``.parquet`` (GeoParquet) or ``.gpkg`` (GeoPackage); None returns the regions
                as a table.
            **options: Of :class:`hook.regions.RegionRequest`: ``window``, ``overlap``,
                ``batch_size``, ``bidx``, ``nodata``, ``aoi``, ``scale``, ``regions_per_km2``,
                ``explode``, ``merge``, ``merge_threshold``, ``layer``, ``cluster``, ``workers``,
                ``resume``, ``overwrite``, ``progress``.

        Returns:
            A report; without ``output`` the table of the file.

        Raises:
            ConfigError: An option cannot be used.
            DataError: The scene lacks the model's bands.
            SceneError: See :func:`hook.regions.extract_regions`.
        """
        return self.run(RegionRequest(input, output, **options))

    def run(self, request: RegionRequest) -> RegionReport | geopandas.GeoDataFrame:
        """Write the regions of a request; returns and raises as :meth:`extract`."""
        self._set_scope(request)
        if request.in_memory:
            return self._run_in_files(request)
        resolved = self.resolved(request)
        numbers = choose_bands(self.model, request.input[0], request.bidx)
        with self.sharing(request) as run_blocks:
            report = extract_regions(
                self.function,
                resolved,
                embed_dims=self.function.embed_dims,
                class_names=self.function.class_names,
                band_names=_band_names(self.model, numbers, request.bidx),
                refine=request.of_scene and self._options["refine"],
                fingerprint=self.fingerprint(),
                run_blocks=run_blocks,
            )
        self._check_values(resolved, report)
        return report

    def _set_scope(self, request: RegionRequest) -> None:
        """Make the function of windows for regions of the whole scene, or of windows."""
        if request.of_scene:
            name = "scale" if request.scale is not None else "regions_per_km2"
            options, reason = self._options, "tokens are those of windows, regions of the scene"
            for option, given in (
                ("num_tokens", options["num_tokens"] is not None),
                ("min_region_pixels", options["min_region_pixels"] > 0),
                ("embedding='tokens'", options["embedding"] == "tokens"),
            ):
                if given:
                    raise refused(option, name, reason)
        if request.of_scene != self._options["of_scene"]:
            self._options = self._options | {"of_scene": request.of_scene}
            self.function = self._kind(self.model, **self._options)

    def _read(self, path: Path) -> geopandas.GeoDataFrame:
        return read_vectors(path)


def _band_names(
    model: nn.Module, indexes: Sequence[int] | None, bidx: Sequence[int] | None
) -> list[str] | None:
    """Return band names for fields: of the dataset meta, else their numbers in the scene."""
    names = [str(name) for name in model.dataset_meta.get("bands") or ()]
    if not bidx and names and len({name.casefold() for name in names}) == len(names):
        return names
    unique = indexes is not None and len(set(indexes)) == len(indexes)
    return [str(index) for index in indexes] if unique else None
