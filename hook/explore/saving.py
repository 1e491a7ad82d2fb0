"""Files that a session writes into its folder."""

import itertools
import math
import os
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import geopandas
import numpy as np
import shapely
from rasterio.shutil import copy

from hook.explore.id_tiles import burn
from hook.explore.jobs import Tell, run_worker
from hook.explore.journal import LabelClass
from hook.geo.raster import parse_nodata, quiet_open, reading
from hook.geo.staging import StagedFiles
from hook.regions.few_labels import classify_regions
from hook.regions.table import Regions
from hook.scenes.layers import ClassLayer, Part, PartFile, SceneGeometry, write_cog
from hook.scenes.reader import SceneReader
from hook.scenes.stac import WrittenLayer, is_own_item, write_stac_item

LABELS = "labels.gpkg"
REGIONS = ("classified.parquet", "classified.gpkg")
MAP = "map.tif"
MODEL = "model"


def save(
    what: Sequence[str],
    table: Regions,
    labels: Mapping[int, str],
    classes: list[LabelClass],
    scene: str,
    nodata: float | str | None,
    folder: Path,
    tell: Tell,
) -> list[str]:
    """Write files, and return their names in the folder.

    Args:
        what: ``"labels"``, ``"regions"``, ``"map"`` or ``"model"``, which is trained on the map.
        table: See :func:`save_map`.
        labels: See there.
        classes: See there.
        scene: See there.
        nodata: See there.
        folder: See there.
        tell: Called with what is done and its share.

    Raises:
        HookError: A file cannot be written, or the training failed.
    """
    # With the time each takes compared with the others.
    steps = {
        "labels": ("Writing the labels", 1, lambda _: save_labels(table, labels, folder)),
        "regions": ("Writing the regions", 1, lambda _: save_regions(table, labels, folder)),
        "map": (
            "Writing the map",
            1,
            lambda _: save_map(table, labels, classes, scene, nodata, folder),
        ),
        "model": ("Training a model", 50, partial(train_model, scene, nodata, folder)),
    }
    chosen = [steps[name] for name in steps if name in what or (name == "map" and "model" in what)]
    total, before, paths = sum(weight for _, weight, _ in chosen), 0, []
    for name, weight, write in chosen:

        def tell_all(note: str, done: float, told: tuple = (name, before, weight)) -> None:
            tell(told[0] + note, (told[1] + told[2] * done) / total)

        tell_all("", 0.0)
        paths += write(tell_all)
        before += weight
    return [path.relative_to(folder).as_posix() for path in paths]


def save_labels(table: Regions, labels: Mapping[int, str], folder: Path) -> list[Path]:
    """Write the labelled regions as polygons with the fields ``region_id`` and ``class``.

    ``hook label`` reads them as its labels.
    """
    rows = np.array(sorted(labels), np.int64)
    found = geopandas.GeoDataFrame(
        {"region_id": rows, "class": [labels[row] for row in rows.tolist()]},
        geometry=table.geometry[rows],
        crs=table.crs,
    )
    path = folder / LABELS
    with StagedFiles(overwrite=True) as files:
        Regions.from_table(found).write(files.add(path), path, "labels")
        files.commit()
    return [path]


def save_regions(table: Regions, labels: Mapping[int, str], folder: Path) -> list[Path]:
    """Write all regions with their classes, as ``hook label`` does."""
    paths = [folder / name for name in REGIONS]
    for path in paths:
        classify_regions(table, labels, path, overwrite=True)
    return paths


def save_map(
    table: Regions,
    labels: Mapping[int, str],
    classes: list[LabelClass],
    scene: str,
    nodata: float | str | None,
    folder: Path,
) -> list[Path]:
    """Write the classes as a Cloud-Optimised GeoTIFF on the grid of the scene.

    Values are the ``class_id`` of the classified regions. Names, a style and a STAC Item are
    written next to it, as :func:`hook.scenes.map_scene` does.

    Args:
        table: The regions.
        labels: Class names by region id.
        classes: Their colours.
        scene: The scene.
        nodata: Replaces its nodata value.
        folder: Folder of the files.

    Raises:
        DataError: See :func:`hook.regions.classify_regions`.
        SceneError: A file cannot be written.
    """
    found = classify_regions(table, labels)
    colours = {one.name: tuple(bytes.fromhex(one.color[1:])) for one in classes}
    names = sorted(set(labels.values()))
    layer = ClassLayer(folder / MAP, class_names=names, palette=[colours[name] for name in names])
    item = layer.output.with_suffix(".json")
    with (
        SceneReader(scene, nodata=nodata) as reader,
        StagedFiles(True, inputs=[scene]) as files,
        TemporaryDirectory(prefix=".hook-", dir=folder) as scratch,
    ):
        geometry = SceneGeometry(reader.height, reader.width, reader.crs, reader.transform)
        staged_item = files.add(item, is_own_item)
        staged = layer.add_to(files)
        known = found.class_id.notna().to_numpy()
        classes = found.class_id[known].to_numpy(np.int64)
        tree = shapely.STRtree(table.geometry[known])
        part = PartFile(Path(scratch, "map.tif"), layer, reader.height, reader.width)
        try:
            for top in range(0, reader.height, 512):
                rows = min(512, reader.height - top)
                values = np.full((rows, reader.width), layer.nodata, layer.dtype)
                burn(values, (top, 0), tree, reader.transform, classes)
                part.write(values[np.newaxis])
            part.finish()
        finally:
            part.close()
        whole = [Part(0, reader.height, part.path)]
        counts = write_cog(staged, layer, geometry, whole, Path(scratch))
        layer.finish()
        write_stac_item(
            staged_item,
            geometry,
            [WrittenLayer(layer, staged, counts)],
            output=item,
            inputs=[scene],
            times=reader.times,
        )
        files.commit()
    return [layer.output, item]


def train_model(
    scene: str, nodata: float | str | None, folder: Path, tell: Tell, **options: Any
) -> list[Path]:
    """Train a model on the map, in a process and a folder of its own.

    Args:
        scene: The scene.
        nodata: Replaces its nodata value, in a VRT.
        folder: Folder of the map.
        tell: Called with the time that is left and the share that is done.
        **options: Of :func:`hook.apis.train`.

    Returns:
        Config and checkpoint.

    Raises:
        HookError: The training failed.
    """
    told: list[tuple[float, float]] = []

    def tell_left(message: str, done: float) -> None:
        if message != "training":  # images are read before
            return
        told.append((time.monotonic(), done))  # the first step takes longer than others
        (began, before), (now, _) = told[0], told[-1]
        note = ""
        if done > before:
            minutes = (now - began) * (1 - done) / (done - before) / 60
            note = f", about {max(math.ceil(minutes), 1)} min left"
        tell(note, done)

    job = dict(labels=str(folder / MAP), folder=str(free_model_folder(folder)), options=options)
    with TemporaryDirectory() as place:
        if nodata is not None:
            scene = _with_nodata(scene, nodata, Path(place) / "scene.vrt")
        return [Path(name) for name in run_worker(tell_left, job="train", scene=scene, **job)]


def _with_nodata(scene: str, nodata: float | str, path: Path) -> str:
    """Write a VRT of a scene with another nodata value, and return its name."""
    with reading(scene):
        copy(os.path.abspath(scene) if os.path.exists(scene) else scene, path, driver="VRT")
        with quiet_open(path, "r+") as changed:
            changed.nodata = parse_nodata(nodata, "nodata")
    return str(path)


def free_model_folder(folder: Path) -> Path:
    """Return ``model``, ``model_2`` and so on: the first without a trained model."""
    names = itertools.chain([MODEL], (f"{MODEL}_{number}" for number in itertools.count(2)))
    paths = (folder / name for name in names)
    return next(path for path in paths if not (path / "checkpoint.pth").exists())
