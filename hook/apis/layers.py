"""Map layers from a finished class map: polygons, areas per class, names and colours."""

import csv
import io
import math
import os
from collections.abc import Sequence
from pathlib import Path

import geopandas

from hook.errors import SceneError
from hook.scenes.stac import add_vectors, item_of_map
from hook.scenes.staging import StagedFiles
from hook.scenes.statistics import ClassArea, ClassMap
from hook.scenes.statistics import class_statistics as measure
from hook.scenes.styles import (
    StyledClass,
    default_palette,
    read_category_names,
    read_classes,
    write_style,
)
from hook.scenes.vectors import polygonize


def vectorize_map(
    map_path: str | os.PathLike,
    output: str | os.PathLike,
    *,
    min_area: float = 0,
    simplify: float = 0,
    scores: str | os.PathLike | None = None,
    layer: str = "regions",
    overwrite: bool = False,
    progress: bool = True,
) -> int:
    """Write the regions of a class map as polygons, see :func:`hook.scenes.polygonize`.

    Where the map's STAC Item lies beside it, the polygons are named in it.

    Args:
        map_path: The map.
        output: ``.gpkg``, ``.parquet``, ``.fgb``, ``.geojson`` or ``.json``.
        min_area: Square metres below which regions are dissolved into their largest neighbour.
        simplify: Tolerance in units of the map's CRS; 0 keeps the edges of pixels.
        scores: Raster of confidences or class probabilities, for the mean score of each polygon.
        layer: Name of the layer in the file.
        overwrite: Replace the output if it exists.
        progress: Show a progress bar on a terminal.

    Returns:
        The number of polygons.

    Raises:
        SceneError: See :func:`hook.scenes.polygonize`.
    """
    count = polygonize(
        map_path,
        output,
        min_area=min_area,
        simplify=simplify,
        scores=scores,
        layer=layer,
        overwrite=overwrite,
        progress=progress,
    )
    if item := item_of_map(map_path):
        add_vectors(item, output)
    return count


def class_statistics(
    map_path: str | os.PathLike,
    output: str | os.PathLike | None = None,
    *,
    zones: str | os.PathLike | geopandas.GeoDataFrame | None = None,
    zone_field: str | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> list[ClassArea]:
    """Measure the area of each class of a map, see :mod:`hook.scenes.statistics`.

    Args:
        map_path: The map.
        output: Also write the rows to this ``.csv``.
        zones: File or table of polygons, in any CRS, of which each is measured by itself.
        zone_field: Field that names the zones; their feature ids if None.
        overwrite: Replace the output if it exists.
        progress: Show a progress bar on a terminal.

    Returns:
        A row per class, or per zone and class.

    Raises:
        SceneError: See :func:`hook.scenes.class_statistics`, or the output cannot be written.
    """
    if zone_field is not None and zones is None:
        raise SceneError("zone_field: there are no zones", remedy="name a file of zones too")
    with StagedFiles(overwrite) as files:
        staged = files.add(output) if output is not None else None
        rows = measure(map_path, zones=zones, zone_field=zone_field, progress=progress)
        if staged:
            try:
                staged.write_text(format_statistics(rows), encoding="utf-8")
            except OSError as error:
                raise SceneError(
                    f"{output}: cannot be written",
                    found=error.strerror,
                    remedy="check the free space of the disk and the folder's permissions",
                ) from error
        files.commit()
    return rows


def format_statistics(rows: Sequence[ClassArea]) -> str:
    """Rows of :func:`class_statistics` as CSV; what is unknown is left empty."""
    with_zones = any(row.zone is not None for row in rows)
    columns = ["class_id", "class_name", "pixels", "area_m2", "area_ha", "share"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["zone", *columns] if with_zones else columns)
    for row in rows:
        cells = [row.class_id, row.class_name, row.pixels]
        for value, digits in ((row.area_m2, 3), (row.area_ha, 7), (row.share, 6)):
            cells.append("" if math.isnan(value) else f"{value:.{digits}f}")
        writer.writerow([row.zone, *cells] if with_zones else cells)
    return text.getvalue()


def style_map(
    map_path: str | os.PathLike,
    classes: str | os.PathLike | None = None,
    *,
    overwrite: bool = False,
    progress: bool = True,
) -> list[Path]:
    """Write names and colours beside a class map, see :func:`hook.scenes.styles.write_style`.

    Args:
        map_path: The map; it is read, but not changed.
        classes: ``.json`` or ``.csv`` of value, name and colour. Without it the map's own names
            and colours, completed by defaults.
        overwrite: Replace names, colours or a style that are there.
        progress: Show a progress bar on a terminal.

    Returns:
        The files written: ``.aux.xml`` and ``.qml``.

    Raises:
        SceneError: The map is no class map, a value in it has no entry, or see
            :func:`hook.scenes.styles.write_style`.
    """
    styled = read_classes(classes) if classes is not None else None
    # Whatever names it has: they may be those to be changed.
    counted = measure(map_path, class_names=(), progress=progress)
    present = [row.class_id for row in counted]
    if styled is None:
        styled = _own_style(map_path, present)
    missing = sorted(set(present) - {entry.value for entry in styled})
    if missing:
        raise SceneError(
            f"{map_path}: values without name and colour",
            expected=f"an entry of {classes or 'the category names'} for each value of the map",
            found=", ".join(map(str, missing[:10])) + (", ..." if len(missing) > 10 else ""),
            remedy="add them to the list of classes",
        )
    return write_style(map_path, styled, overwrite=overwrite)


def _own_style(map_path: str | os.PathLike, present: Sequence[int]) -> list[StyledClass]:
    """The names and colours a map has, and defaults for those it has not."""
    names = read_category_names(map_path)
    number = len(names) if names else max(present, default=-1) + 1
    if not number:
        raise SceneError(
            f"{map_path}: holds no class and names none", remedy="give a list of classes"
        )
    with ClassMap(map_path, class_names=()) as source:
        own_colours = source.read_colours()
    return [
        StyledClass(
            value,
            (names[value] if names else "") or f"class_{value}",
            own_colours.get(value, colour) if own_colours else colour,
        )
        for value, colour in enumerate(default_palette(number))
        if not names or names[value] or value in present
    ]
