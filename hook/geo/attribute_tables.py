"""Names of values in raster attribute tables, which rasterio does not read."""

import math
import warnings
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from hook.errors import DataError
from hook.geo.raster import GDAL_ERRORS, quiet

LARGEST_VALUE = 65_535
"""Largest value with a name; also of GDAL's colour tables."""
_NAME, _MINIMUM, _MAXIMUM, _VALUE = 2, 3, 4, 5  # GDAL's GDALRATFieldUsage
_VALUES = ("value", "values", "pixel_value", "class_value")
_NAMES = ("class_name", "classname", "name", "label", "class", "categor", "descr")


class Column(NamedTuple):
    """A column of a table."""

    name: str
    values: list[str]
    is_text: bool
    usage: int = 0
    """Its meaning; 0 is unknown."""


def names_in_band(band: ElementTree.Element | None, source: object) -> list[str] | None:
    """Return the names of the values 0, 1, ... from GDAL's XML of a band, empty ones included.

    Category names have precedence over a table. A table that is wrong is warned of.

    Args:
        band: Element of a side file (PAM) or a virtual raster.
        source: The file, for messages.

    Returns:
        The names, None if there are none, or an empty list if the table is wrong.
    """
    if band is None:
        return None
    names = [category.text or "" for category in band.findall("CategoryNames/Category")]
    table = band.find("GDALRasterAttributeTable")
    if names or table is None:
        return names or None
    rows = [[(cell.text or "").strip() for cell in row.findall("F")] for row in table.iter("Row")]
    columns = [
        Column(
            field.findtext("Name") or "",
            [row[number] if number < len(row) else "" for row in rows],
            field.findtext("Type") == "2",
            int(field.findtext("Usage") or 0),
        )
        for number, field in enumerate(table.findall("FieldDefn"))
    ]
    first, step = float(table.get("Row0Min") or 0), float(table.get("BinSize") or 1)
    numbers = [str(first + step * row) for row in range(len(rows))]
    return _names(columns, Column("row", numbers, False), source)


def names_in_dbf(path: Path) -> list[str] | None:
    """Return the names in a table that ArcGIS writes next to a raster, ``.vat.dbf``.

    Returns:
        The names, None if there are none, or an empty list if the table is wrong.
    """
    from hook.geo.vector import read_table  # imports geopandas

    try:
        table = read_table(path)
    except DataError as error:
        return _refuse(path, f"it cannot be read ({error.found})")
    gaps = table.isna()
    columns = [
        Column(
            str(name),
            [str(v).strip() * (not gap) for v, gap in zip(table[name], gaps[name], strict=True)],
            table[name].dtype.kind in "OUS",
        )
        for name in table
    ]
    return _names(columns, None, path)


def names_in_file(path: str | Path) -> list[str] | None:
    """Return the names that the format of a raster holds, such as ERDAS Imagine and ENVI."""
    import rasterio.shutil
    from rasterio.io import MemoryFile

    # GDAL's virtual raster is the one way that rasterio has to them.
    problems = (*GDAL_ERRORS, ElementTree.ParseError)
    with suppress(*problems), quiet(), MemoryFile(ext=".vrt") as virtual:
        rasterio.shutil.copy(path, virtual.name, driver="VRT")
        root = ElementTree.fromstring(virtual.read())
        return names_in_band(root.find("VRTRasterBand[@band='1']"), path)
    return None


def _refuse(source: object, why: str) -> list[str]:
    """Warn of a wrong table. Returns no names: other sources may show the same table."""
    warnings.warn(
        f"{source}: the names in its attribute table are not used: {why}; correct the table, or "
        "name the classes",
        stacklevel=4,
    )
    return []


def _names(columns: Sequence[Column], rows: Column | None, source: object) -> list[str] | None:
    """Return the names in a table; ``rows`` are the values without a column of values."""
    texts = [column for column in columns if column.is_text and any(column.values)]
    if not texts:
        return None
    by_usage = {column.usage: column for column in reversed(columns)}
    low = by_usage.get(_VALUE) or by_usage.get(_MINIMUM)
    high = by_usage.get(_VALUE) or by_usage.get(_MAXIMUM) or low
    named = [column for column in columns if column.name.casefold() in _VALUES]
    low, high = low or next(iter(named), rows), high or next(iter(named), rows)
    known = (c for part in _NAMES for c in texts if part in c.name.casefold())
    column = next((c for c in texts if c.usage == _NAME), next(known, None))
    if column is None and len(texts) == 1:
        column = texts[0]
    listed = ", ".join(column.name for column in columns)
    if low is None or column is None:
        missing = "values" if low is None else "names"
        return _refuse(source, f"none of the columns {listed} is known to hold {missing}")
    found: dict[int, str] = {}
    for first, last, name in zip(low.values, high.values, column.values, strict=True):
        span = _integers(first, last)
        if span is None:
            return _refuse(source, f"{first or 'a blank'} is not a value from 0 to {LARGEST_VALUE}")
        for value in span:
            if found.setdefault(value, name) != name:
                return _refuse(source, f"value {value} is both {found[value]} and {name}")
    if not any(found.values()):
        return None
    return [found.get(value, "") for value in range(max(found) + 1)]


def _integers(first: str, last: str) -> Iterable[int] | None:
    """Return the integers from 0 in a range of values; None if it is none."""
    try:
        low, high = math.ceil(float(first)), math.floor(float(last))
    except (ValueError, OverflowError):
        return None
    return range(max(low, 0), high + 1) if high <= LARGEST_VALUE else None
