"""Search among token regions: what joins :mod:`hook.regions` with files of queries and a model."""

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
from hook.regions.table import Regions, refuse_inputs

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
    device: str = "cpu",
    crs: object = None,
    k: int = 50,
    keep_query: bool = False,
    approximate_above: int | None = APPROXIMATE_ABOVE,
    layer: str = "similar",
    overwrite: bool = False,
) -> geopandas.GeoDataFrame:
    """Find the regions most similar to one thing: a region, a place, an area, a vector or a chip.

    Args:
        regions: A file that ``hook regions`` wrote, such a table, or an index of it.
        output: File to write: ``.gpkg``, ``.parquet``, ``.fgb``, ``.geojson`` or ``.json``. The
            first two hold the embeddings too; GeoJSON is in WGS 84.
        id: A region's row number, from 0.
        at: x and y of a place.
        polygon: An area: a shape, or a table or file of polygons, which count as one.
        vector: (D,) an embedding.
        chip: An image, see :func:`embed_chip`.
        model: For ``chip``: the model that the regions are from, loaded or what
            :func:`hook.apis.load_model` takes.
        token: For ``chip``: only this token of it.
        embedding: For ``chip``: what the regions are embedded by, ``"tokens"`` or ``"seeds"``.
        device: Where the config's model runs.
        crs: CRS of ``at`` or of a shape; None: that of the regions. Tables and files have their
            own.
        k: Number of regions to find.
        keep_query: Let the regions of the query itself be found too.
        approximate_above: See :class:`hook.regions.RegionIndex`.
        layer: Name of the layer in the file; GeoParquet has none.
        overwrite: Replace the output if it exists.

    Returns:
        The regions, the most similar first, see :class:`hook.regions.RegionIndex`.

    Raises:
        ConfigError: There is not one query, an option does not go with it, or see the methods of
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
            "what to search with",
            expected=f"one of {', '.join(queries)}",
            found=", ".join(given) or "nothing",
            remedy="give exactly one of them",
        )
    kind = None if embedding == "tokens" else embedding
    _check_options(given[0], polygon, model, token, kind, crs)
    if at is not None:
        at = [check_number("at", one) for one in check_pair("at", at, "two numbers, x and y")]
    if output is not None:
        check_path("output", output)
    with StagedFiles(overwrite) as files:
        if output is not None:
            driver_of(output)
            source = regions.source if isinstance(regions, RegionIndex) else regions
            parts = model if isinstance(model, tuple | list) else (model,)
            refuse_inputs(output, (source, polygon, chip, *parts))
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
            from hook.inference.models import load_model  # with MMEngine, for this query only

            loaded = load_model(model, device=device)
            found = index.by_vector(embed_chip(loaded, chip, token=token, embedding=embedding), k)
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
) -> np.ndarray:
    """Embed an image as the regions of a scene are.

    Args:
        model: A loaded model, or what :func:`hook.apis.load_model` takes.
        chip: A raster that GDAL opens, with the bands that the dataset meta names; a DataArray; or
            native values (C, h, w) in the model's band order.
        valid: (h, w), nonzero where an array's pixels count; all do if None.
        token: This token's embedding, as :func:`hook.apis.tokenize` numbers them; None: the mean
            of all, weighted by the valid pixels that they own.
        num_tokens: Number of tokens; None takes the model's.
        embedding: By the last block's ``"tokens"`` or by the ``"seeds"``, see
            :class:`hook.apis.RegionExtractor`; of the seeds of all valid pixels, or of those that
            the token owns.

    Returns:
        (D,) float32.

    Raises:
        ConfigError: The model has no tokens, or not that one, or ``valid`` came with a file.
        DataError: The chip cannot be read, does not fit the model, or has no valid pixel.
    """
    # With PyTorch and MMEngine, which searching by place does without.
    from hook.datasets.transforms.packing import ground_resolution
    from hook.geo.arrays import is_data_array
    from hook.inference.images import check_validity, check_values, read_sample, refuse_validity
    from hook.inference.models import load_model
    from hook.inference.regions import RegionPredictor

    model = load_model(model)
    if token is not None:
        token = check_int("token", token, minimum=None)
    if isinstance(chip, str | os.PathLike) or is_data_array(chip):
        refuse_validity(chip, valid)
        name = "the chip" if is_data_array(chip) else f"chip {chip}"
        sample = read_sample(chip, model)
        values, valid = sample["img"].transpose(2, 0, 1), sample["valid"]
        metres = ground_resolution(sample)
    else:
        name, values, metres = "the chip", chip, None
    values = check_values(model, values, name)
    valid = check_validity(values, valid, name)
    predict = RegionPredictor(model, num_tokens, embedding=embedding, resolution=metres)
    try:
        answer = predict(np.ascontiguousarray(values)[np.newaxis], valid[np.newaxis])
    except ConfigError as error:
        raise DataError(
            f"{name} does not fit the model",
            found=error.found or error.what,
            remedy="cut or resize it to the window that the regions were made with",
        ) from None
    token_ids = answer.token_ids[0]
    number = int(token_ids.max()) + 1 if answer.embeddings is None else answer.embeddings.shape[1]
    if token is not None and not 0 <= token < number:
        raise ConfigError(
            f"{name}: no such token",
            expected=f"0 to {number - 1}",
            found=token,
            remedy="choose a token among these, or leave it out for the mean of all",
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


def _check_options(query: str, polygon, model, token, embedding, crs) -> None:
    """Refuse options that the query would not heed."""
    if query == "chip" and model is None:
        raise ConfigError(
            "a chip is embedded by a model",
            expected="the model that the regions are from",
            found="no model",
            remedy="name the model that made the regions (--model NAME, or config and checkpoint)",
        )
    given = dict(model=model, token=token, embedding=embedding)
    for name, value in given.items():
        if value is not None and query != "chip":
            raise ConfigError(
                f"{name} goes with a chip",
                found=f"a search by {query}",
                remedy="leave it out, or search with a chip",
            )
    with_own = polygon is not None and not isinstance(polygon, BaseGeometry)
    if crs is not None and (query not in ("at", "polygon") or with_own):
        raise ConfigError(
            "crs goes with coordinates",
            expected="at, or a polygon that is no file and no table",
            found=f"a search by {query}",
            remedy="leave crs out",
        )
