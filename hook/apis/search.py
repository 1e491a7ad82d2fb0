"""Search token regions, with queries from files and models."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import geopandas
import numpy as np
from shapely.geometry.base import BaseGeometry

from hook.arguments import check_int, check_number, check_pair, check_path
from hook.errors import ConfigError, DataError
from hook.geo.staging import StagedFiles
from hook.geo.vector import driver_of
from hook.regions import RegionIndex, classify_regions
from hook.regions.index import APPROXIMATE_ABOVE
from hook.regions.plan import pool_seeds
from hook.regions.table import Regions

if TYPE_CHECKING:
    from hook.inference.models import Model

__all__ = ["RegionIndex", "classify_regions", "embed_chip", "find_similar"]

Chip = str | os.PathLike | np.ndarray


def find_similar(
    regions: str | os.PathLike | geopandas.GeoDataFrame | RegionIndex,
    output: str | os.PathLike | None = None,
    *,
    id: int | None = None,
    at: Sequence[float] | None = None,
    polygon: BaseGeometry | geopandas.GeoDataFrame | str | os.PathLike | None = None,
    vector: np.ndarray | None = None,
    chip: Chip | None = None,
    model: "Model | None" = None,
    token: int | None = None,
    embedding: str = "tokens",
    bidx: Sequence[int | str] | None = None,
    device: str = "cpu",
    crs: object = None,
    k: int = 50,
    keep_query: bool = False,
    approximate_above: int | None = APPROXIMATE_ABOVE,
    layer: str = "similar",
    overwrite: bool = False,
) -> geopandas.GeoDataFrame:
    """Find the regions most similar to a region, a point, an area, a vector or a chip.

    Args:
        regions: A file written by ``hook regions``, such a table, or an index of it.
        output: File to write: ``.gpkg``, ``.parquet``, ``.fgb``, ``.geojson`` or ``.json``. The
            first two hold the embeddings too; GeoJSON is in WGS 84.
        id: A region's row number, from 0.
        at: x and y of a point.
        polygon: An area: a shapely geometry, or a table or file of polygons, which are joined.
        vector: (D,) an embedding.
        chip: An image, see :func:`embed_chip`.
        model: For ``chip``: the model of the regions, loaded or an argument of
            :func:`hook.apis.load_model`.
        token: For ``chip``: only this token of it.
        embedding: For ``chip``: embedding of the regions, ``"tokens"`` or ``"seeds"``.
        bidx: For ``chip``: its bands, see :func:`embed_chip`.
        device: Device of a model that is not loaded yet.
        crs: CRS of ``at`` or of a shapely geometry; default: that of the regions.
        k: Number of regions to find.
        keep_query: Keep the regions of the query in the result.
        approximate_above: See :class:`hook.regions.RegionIndex`.
        layer: Name of the layer in the file; GeoParquet has none.
        overwrite: Replace the output if it exists.

    Returns:
        The regions, the most similar first, see :class:`hook.regions.RegionIndex`.

    Raises:
        ConfigError: There is not exactly one query, an option does not fit it, or see
            :class:`hook.regions.RegionIndex` and :func:`embed_chip`.
        DataError: A file cannot be read, or see there.
        CheckpointError: See :func:`hook.apis.load_model`.
        SceneError: The output exists, is an input or cannot be written.

    Example:
        >>> found = find_similar("regions.parquet", "found.gpkg", at=(688700, 5338700), k=20)
    """
    queries = {"id": id, "at": at, "polygon": polygon, "vector": vector, "chip": chip}
    given = [name for name, value in queries.items() if value is not None]
    if len(given) != 1:
        raise ConfigError(
            "the query of the search",
            expected=f"one of {', '.join(queries)}",
            found=", ".join(given) or "nothing",
            remedy="pass exactly one of them",
        )
    kind = None if embedding == "tokens" else embedding
    of_chip = dict(model=model, token=token, embedding=kind, bidx=bidx)
    _check_options(given[0], polygon, crs, of_chip)
    if at is not None:
        at = [check_number("at", one) for one in check_pair("at", at, "two numbers, x and y")]
    if output is not None:
        check_path("output", output)
    source = regions.source if isinstance(regions, RegionIndex) else regions
    loaded, parts = None, ()
    if chip is not None:
        from hook.inference.models import load_model, model_files  # imports MMEngine

        loaded = load_model(model, device=device)
        parts = model_files(loaded)
    with StagedFiles(overwrite, inputs=(source, polygon, chip, *parts)) as files:
        if output is not None:
            driver_of(output)
            staged = files.add(output)
        index = regions
        if not isinstance(index, RegionIndex):
            index = RegionIndex(index, approximate_above=approximate_above)
        options = dict(k=k, keep_query=keep_query)
        if id is not None:
            found = index.by_id(id, **options)
        elif at is not None:
            found = index.by_point(*at, crs, **options)
        elif polygon is not None:
            found = index.by_polygon(polygon, crs, **options)
        elif vector is not None:
            found = index.by_vector(vector, k)
        else:
            options = dict(token=token, embedding=embedding, bidx=bidx)
            found = index.by_vector(embed_chip(loaded, chip, **options), k)
        if output is not None:
            Regions.from_table(found).write(staged, Path(output), layer)
        files.commit()
    return found


def embed_chip(
    model: "Model",
    chip: Chip,
    valid: np.ndarray | None = None,
    *,
    token: int | None = None,
    num_tokens: int | None = None,
    embedding: str = "tokens",
    bidx: Sequence[int | str] | None = None,
) -> np.ndarray:
    """Embed an image like the regions of a scene.

    Args:
        model: A loaded model, or argument of :func:`hook.apis.load_model`.
        chip: A raster that GDAL opens, with the bands of the dataset meta; a DataArray; or native
            values (C, h, w) in the model's band order.
        valid: (h, w), nonzero where an array's pixels are valid; default: everywhere.
        token: Id of one token, see :func:`hook.apis.tokenize`; None: the mean of all, weighted by
            their valid pixels.
        num_tokens: Number of tokens; default: the model's.
        embedding: ``"tokens"`` of the last block, or ``"seeds"`` of the valid pixels, see
            :class:`hook.apis.RegionExtractor`.
        bidx: Names or 1-based numbers of the bands of a file or DataArray in the model's order;
            default: those of the model's dataset meta.

    Returns:
        (D,) float32.

    Raises:
        ConfigError: The model has no tokens or not this one, or ``valid`` was passed with a file.
        DataError: The chip cannot be read, does not fit the model, or has no valid pixel.
    """
    # Imports PyTorch and MMEngine, which other queries do not need.
    from hook.datasets.transforms.packing import ground_resolution
    from hook.inference.images import read_image
    from hook.inference.models import load_model
    from hook.inference.regions import RegionPredictor

    model = load_model(model)
    if token is not None:
        token = check_int("token", token, minimum=None)
    name, values, valid, sample = read_image(model, chip, valid, bidx, "chip")
    metres = None if sample is None else ground_resolution(sample)
    predict = RegionPredictor(model, num_tokens, embedding=embedding, resolution=metres)
    try:
        answer = predict(values[np.newaxis], valid[np.newaxis])
    except ConfigError as error:
        raise DataError(
            f"{name} does not fit the model",
            found=error.found or error.what,
            remedy="crop or resize it to the window size of the regions",
        ) from None
    token_ids = answer.token_ids[0]
    number = int(token_ids.max()) + 1 if answer.embeddings is None else answer.embeddings.shape[1]
    if token is not None and not 0 <= token < number:
        raise ConfigError(
            f"{name}: no such token",
            expected=f"0 to {number - 1}",
            found=token,
            remedy="choose one of these, or omit it for the mean of all",
        )
    if answer.seeds is not None:
        chosen = valid if token is None else valid & (token_ids == token)
        seeds = answer.seed_of_pixel[0][chosen]
        return pool_seeds(answer.seeds[0], seeds, np.zeros(len(seeds), int), 1)[0]
    embeddings = answer.embeddings[0]
    if token is not None:
        return embeddings[token]
    pixels = np.bincount(answer.token_ids[0][valid], minlength=len(embeddings))
    return (pixels @ embeddings.astype(np.float64) / pixels.sum()).astype(np.float32)


def _check_options(query: str, polygon, crs, of_chip: dict[str, object]) -> None:
    """Refuse options that do not apply to the query."""
    if query == "chip" and of_chip["model"] is None:
        raise ConfigError(
            "a chip needs a model",
            expected="the model of the regions",
            found="no model",
            remedy="pass the model of the regions (--model NAME, or config and checkpoint)",
        )
    for name, value in of_chip.items():
        if value is not None and query != "chip":
            raise ConfigError(
                f"{name} is for a chip only",
                found=f"a search by {query}",
                remedy="omit it, or search with a chip",
            )
    has_crs = polygon is not None and not isinstance(polygon, BaseGeometry)
    if crs is not None and (query not in ("at", "polygon") or has_crs):
        raise ConfigError(
            "crs is for coordinates only",
            expected="at, or a polygon that is a shapely geometry",
            found=f"a search by {query}",
            remedy="omit crs",
        )
