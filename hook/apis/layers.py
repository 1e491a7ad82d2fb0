"""Products of a class map: polygons, areas per class, names and colours."""

import csv
import io
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import geopandas
import numpy as np
import pandas as pd

from hook.arguments import bad_argument, check_number, check_path
from hook.errors import SceneError
from hook.geo.arrays import Map, map_file
from hook.geo.staging import StagedFiles, check_output, writing
from hook.geo.styles import (
    NO_CLASS,
    ClassStyle,
    distinct_palette,
    parse_classes,
    read_category_names,
    read_classes,
    write_style,
)
from hook.geo.vector import driver_of, read_vectors
from hook.scenes.polygons import polygonize
from hook.scenes.stac import add_vectors, item_of_map
from hook.scenes.statistics import ClassMap
from hook.scenes.statistics import class_statistics as measure


def vectorize_map(
    map_path: Map,
    output: str | os.PathLike | None = None,
    *,
    min_area: float = 0,
    simplify: float = 0,
    scores: str | os.PathLike | None = None,
    layer: str = "regions",
    overwrite: bool = False,
    progress: bool = True,
) -> int | geopandas.GeoDataFrame:
    """Convert the regions of a class map to polygons, see :func:`hook.scenes.polygonize`.

    They are added to the map's STAC Item if it is next to the map.

    Args:
        map_path: The map: a file, the DataArray of :meth:`hook.apis.SceneMapper.map`, or class
            indexes (rows, cols) with 255, or NaN in floating point, for nodata.
        output: ``.gpkg``, ``.parquet``, ``.fgb``, ``.geojson`` or ``.json``. None returns the
            polygons.
        min_area: Square metres below which regions are dissolved into their largest neighbour.
        simplify: Tolerance in units of the map's CRS; 0 keeps the edges of pixels.
        scores: Raster of confidences or class probabilities, for the mean score of each polygon.
        layer: Name of the layer in the file.
        overwrite: Replace the output if it exists.
        progress: Show a progress bar on a terminal.

    Returns:
        The number of polygons; without ``output`` the polygons, with the fields of the file.

    Raises:
        ConfigError: An option is of the wrong kind.
        SceneError: See :func:`hook.scenes.polygonize`.
        DataError: The array is not a map.
    """
    check_number("min_area", min_area, minimum=0)
    check_number("simplify", simplify, minimum=0)
    if scores is not None:
        check_path("scores", scores, "the name of a raster's file")
    if output is not None:
        check_path("output", output)
    options = dict(
        min_area=min_area,
        simplify=simplify,
        scores=scores,
        layer=layer,
        overwrite=overwrite,
        progress=progress,
    )
    item = item_of_map(map_path) if isinstance(map_path, str | os.PathLike) else None
    if output is not None:
        check_output(output, (map_path, item))  # an array's file too
    with map_file(map_path) as (file, nodata):
        if output is None:
            with tempfile.TemporaryDirectory(prefix="hook-") as folder:
                table = Path(folder, "map.parquet")
                polygonize(file, table, nodata=nodata, **options)
                return read_vectors(table)
        count = polygonize(file, output, nodata=nodata, **options)
    if item is not None:
        add_vectors(item, output)
    return count


def class_statistics(
    map_path: Map,
    output: str | os.PathLike | None = None,
    *,
    zones: str | os.PathLike | geopandas.GeoDataFrame | None = None,
    zone_field: str | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> pd.DataFrame:
    """Measure the area of each class of a map, see :mod:`hook.scenes.statistics`.

    Args:
        map_path: The map, see :func:`vectorize_map`.
        output: Also write the rows to this ``.csv``.
        zones: File or table of polygons in any CRS; each is measured separately.
        zone_field: Name field of the zones; default: their feature ids.
        overwrite: Replace the output if it exists.
        progress: Show a progress bar on a terminal.

    Returns:
        A row per class, or per zone and class: ``zone`` (with zones), ``class_id``,
        ``class_name``, ``pixels``, ``area_m2``, ``area_ha`` and ``share`` of the valid area, from
        0 to 1; NaN without a CRS or valid pixels.

    Raises:
        ConfigError: An option is of the wrong kind.
        SceneError: See :func:`hook.scenes.class_statistics`, or the output cannot be written.
        DataError: The array is not a map.
    """
    if output is not None:
        check_path("output", output)
    if not isinstance(zones, str | os.PathLike | geopandas.GeoDataFrame | None):
        raise bad_argument("zones", zones, "a vector file or a GeoDataFrame of polygons")
    if zone_field is not None and zones is None:
        raise SceneError("zone_field: there are no zones", remedy="pass zones too")
    with StagedFiles(overwrite, inputs=(map_path, zones)) as files:
        staged = None
        if output is not None:
            staged = files.add(output)
            driver_of(output, {".csv": "CSV"}, what="format of a table")
        with map_file(map_path) as (file, nodata):
            rows = measure(
                file, zones=zones, zone_field=zone_field, nodata=nodata, progress=progress
            )
        columns = ["class_id", "class_name", "pixels", "area_m2", "area_ha", "share"]
        columns = columns if zones is None else ["zone", *columns]
        table = pd.DataFrame(
            [[getattr(row, column) for column in columns] for row in rows], columns=columns
        )
        if zones is not None:  # keep names as they are: 1, not 1.0 next to a missing one
            table["zone"] = pd.Series([row.zone for row in rows], dtype=object)
        if staged:
            with writing(output):
                staged.write_text(format_statistics(table), encoding="utf-8")
        files.commit()
    return table


def format_statistics(table: pd.DataFrame) -> str:
    """Format the table of :func:`class_statistics` as CSV, with unknown values empty."""
    digits = {"area_m2": 3, "area_ha": 7, "share": 6}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table.columns)
    for row in table.itertuples(index=False):
        writer.writerow(
            [
                _format_value(value, digits.get(column))
                for column, value in zip(table.columns, row, strict=True)
            ]
        )
    return text.getvalue()


def _format_value(value: object, digits: int | None) -> object:
    if pd.api.types.is_scalar(value) and pd.isna(value):
        return ""
    return value if digits is None else f"{value:.{digits}f}"


def style_map(
    map_path: str | os.PathLike,
    classes: str | os.PathLike | pd.DataFrame | Sequence[Mapping[str, object]] | None = None,
    *,
    overwrite: bool = False,
    progress: bool = True,
) -> list[Path]:
    """Write class names and colours next to a map, see :func:`hook.geo.styles.write_style`.

    Args:
        map_path: The map, which is not changed.
        classes: ``.json`` or ``.csv`` of value, name and colour, a table with these columns, or a
            list of dicts. Default: the map's names and colours, completed by generated ones.
        overwrite: Replace existing names, colours or a style.
        progress: Show a progress bar on a terminal.

    Returns:
        The files written: ``.aux.xml`` and ``.qml``.

    Raises:
        SceneError: The file is not a class map, a value of it has no entry, or see
            :func:`hook.geo.styles.write_style`.
    """
    if not isinstance(map_path, str | os.PathLike):
        raise SceneError(
            "style_map needs a file",
            expected="the name of a map's file",
            found=type(map_path).__name__,
            remedy="write the map to a file: SceneMapper.map(scene, 'map.tif')",
        )
    styled = _read_style(classes)
    # Ignore the map's names, which may be replaced.
    with ClassMap(map_path, class_names=()) as source:
        parts = (np.unique(classes) for _, classes in source.strips(label="map", progress=progress))
        present = sorted({value for part in parts for value in part.tolist()} - {NO_CLASS})
    if styled is None:
        styled = _default_style(map_path, present)
    missing = sorted(set(present) - {entry.value for entry in styled})
    if missing:
        raise SceneError(
            f"{map_path}: values without name and colour",
            expected=f"an entry of {_style_name(classes)} for each value of the map",
            found=", ".join(map(str, missing[:10])) + (", ..." if len(missing) > 10 else ""),
            remedy="add them to the list of classes",
        )
    return write_style(map_path, styled, overwrite=overwrite)


def _read_style(classes: object) -> list[ClassStyle] | None:
    """Read names and colours from a file or table."""
    if classes is None:
        return None
    if isinstance(classes, str | os.PathLike):
        return read_classes(classes)
    if isinstance(classes, pd.DataFrame):
        classes = classes.to_dict("records")
    return parse_classes(classes, "classes")


def _style_name(classes: object) -> object:
    if classes is None:
        return "the category names"
    return classes if isinstance(classes, str | os.PathLike) else "classes"


def _default_style(map_path: str | os.PathLike, present: Sequence[int]) -> list[ClassStyle]:
    """Return the names and colours of a map, completed by generated ones."""
    names = read_category_names(map_path)
    number = len(names) if names else max(present, default=-1) + 1
    if not number:
        raise SceneError(
            f"{map_path}: has no classes and no class names", remedy="pass a list of classes"
        )
    with ClassMap(map_path, class_names=()) as source:
        colours = source.read_colours()
    return [
        ClassStyle(
            value,
            (names[value] if names else "") or f"class_{value}",
            colours.get(value, colour) if colours else colour,
        )
        for value, colour in enumerate(distinct_palette(number))
        if not names or names[value] or value in present
    ]
