"""Class names and colours, as GIS programs read them: PAM side file and QGIS style."""

import colorsys
import contextlib
import csv
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np

from hook.errors import SceneError
from hook.geo.attribute_tables import (
    LARGEST_VALUE,
    names_in_band,
    names_in_dbf,
    names_in_file,
)
from hook.geo.staging import StagedFiles

NO_CLASS = -1
"""Value of a pixel without a class, in arrays of classes."""

Colour = tuple[int, int, int]


class ClassStyle(NamedTuple):
    """Name and colour of a value of a class map."""

    value: int
    name: str
    colour: Colour


def map_dtype(num_classes: int, nodata: int | None = None) -> tuple[str, int]:
    """Choose the data type and nodata value of a class map.

    Args:
        num_classes: K; the classes are 0 to K - 1.
        nodata: Value of pixels without a class; None for the maximum of the type.

    Returns:
        uint8 up to 255 classes, else uint16; and nodata.

    Raises:
        SceneError: Too many classes for uint16, or a nodata value that is a class or too large.
    """
    dtype = "uint8" if num_classes <= 255 else "uint16"
    largest = int(np.iinfo(dtype).max)
    if not 1 <= num_classes <= largest:
        raise SceneError(
            "num_classes",
            expected=f"1 to {largest}",
            found=num_classes,
            remedy="merge classes",
        )
    if nodata is None:
        return dtype, largest
    if nodata != int(nodata) or not num_classes <= nodata <= largest:
        raise SceneError(
            "out_nodata",
            expected=f"an integer from {num_classes} to {largest}, not a class",
            found=nodata,
            remedy="choose a value that is not a class",
        )
    return dtype, int(nodata)


def default_class_names(num_classes: int) -> list[str]:
    """Return names for classes without names."""
    return [f"class_{index}" for index in range(num_classes)]


def distinct_palette(count: int) -> list[list[int]]:
    """Return ``count`` distinct colours [r, g, b]; a colour depends on its index only."""
    golden = 0.6180339887498949  # steps of the golden ratio never repeat a hue
    return [
        [
            round(255 * channel)
            for channel in colorsys.hsv_to_rgb(
                (0.06 + index * golden) % 1.0, (0.75, 0.5)[index % 2], (0.95, 0.55, 0.75)[index % 3]
            )
        ]
        for index in range(count)
    ]


def check_classes(
    num_classes: int,
    class_names: Sequence[str] | None,
    palette: Sequence[Sequence[int]] | None,
) -> tuple[list[str], list[Colour]]:
    """Check class names and colours (red, green, blue); None is replaced by defaults.

    Raises:
        SceneError: A list has the wrong length, or a colour is invalid.
    """
    for name, values in (("class_names", class_names), ("palette", palette)):
        if values is not None and len(values) != num_classes:
            raise SceneError(
                name,
                expected=f"{num_classes} entries, one per class",
                found=len(values),
                remedy="list one for each class",
            )
    for colour in palette or ():
        if len(colour) != 3 or not all(0 <= channel <= 255 for channel in colour):
            raise SceneError(
                "palette",
                expected="red, green, blue from 0 to 255",
                found=colour,
                remedy="use colours such as (200, 65, 50)",
            )
    return (
        [str(name) for name in class_names or default_class_names(num_classes)],
        [tuple(int(channel) for channel in c) for c in palette or distinct_palette(num_classes)],
    )


def write_category_names(path: Path, class_names: Sequence[str]) -> None:
    """Write the category names (values 0, 1, ...) of band 1 to a PAM side file, ``.aux.xml``."""
    dataset = ElementTree.Element("PAMDataset")
    band = ElementTree.SubElement(dataset, "PAMRasterBand", band="1")
    names = ElementTree.SubElement(band, "CategoryNames")
    for name in class_names:
        ElementTree.SubElement(names, "Category").text = name
    path.write_bytes(_xml(dataset))


def read_category_names(map_path: str | Path) -> list[str] | None:
    """Read names of the values 0, 1, ... of a raster, empty for values without one.

    These are the category names or the raster attribute table of its side file (``.aux.xml``), of
    ArcGIS (``.vat.dbf``), or of the file itself.

    Returns:
        The names, or None if there are none or the table is wrong, which is warned of.
    """
    side_file = Path(f"{map_path}.aux.xml")
    band = _read_side_file(side_file).find("./PAMRasterBand[@band='1']")
    names = names_in_band(band, side_file)
    if not names and os.path.isfile(table := Path(f"{map_path}.vat.dbf")):
        names = names_in_dbf(table)
    if names is None:  # GDAL may read the same tables, since 3.12 also ArcGIS's
        names = names_in_file(map_path)
    return names or None


def _read_side_file(path: Path) -> ElementTree.Element:
    """Read GDAL's PAM side file; an empty one if missing."""
    if not path.is_file():
        return ElementTree.Element("PAMDataset")
    try:
        return ElementTree.parse(path).getroot()
    except (ElementTree.ParseError, OSError) as error:
        raise SceneError(
            f"{path}: is not XML", found=error, remedy="delete it or write it again"
        ) from error


def read_classes(path: str | Path) -> list[ClassStyle]:
    """Read class names and colours from a file, sorted by value.

    Args:
        path: ``.json``: a list of objects with ``value``, ``name`` and ``colour`` (or ``color``),
            or ``.csv`` with these columns. A colour is ``#rrggbb``, or in JSON a list of red,
            green and blue from 0 to 255.

    Raises:
        SceneError: The file is unreadable or incomplete, or lists a value twice.
    """
    path = Path(path)
    kind = path.suffix.lower()
    if kind not in (".json", ".csv"):
        raise SceneError(
            f"{path}: unknown list of classes",
            expected="a .json or .csv file",
            remedy="rename the list to .json or .csv",
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
        entries = json.loads(text) if kind == ".json" else list(csv.DictReader(text.splitlines()))
    except (OSError, ValueError, csv.Error) as error:
        raise SceneError(
            f"{path}: cannot be read",
            found=error,
            remedy="check the path and that the file is JSON or CSV in UTF-8",
        ) from error
    return parse_classes(entries, path)


def parse_classes(entries: object, where: object) -> list[ClassStyle]:
    """Parse class names and colours, sorted by value.

    Args:
        entries: List of dicts, see :func:`read_classes`.
        where: Name of the list in errors.

    Raises:
        SceneError: It is not such a list, an entry is incomplete, or a value is listed twice.
    """
    if not isinstance(entries, list | tuple) or not entries:
        raise SceneError(
            f"{where}: names no classes",
            expected="a list of value, name and colour",
            found="nothing" if isinstance(entries, list | tuple) else type(entries).__name__,
            remedy="add an entry for each value of the map",
        )
    classes: dict[int, ClassStyle] = {}
    for number, entry in enumerate(entries, 1):
        styled = _read_class(entry, f"{where}: class {number}")
        if styled.value in classes:
            raise SceneError(
                f"{where}: value {styled.value} is named twice",
                remedy="remove one of the two entries",
            )
        classes[styled.value] = styled
    return [classes[value] for value in sorted(classes)]


def _read_class(entry: object, where: str) -> ClassStyle:
    expected = "value, name and colour, such as 3, water, #1f78b4"
    if not isinstance(entry, dict):
        raise SceneError(where, expected=expected, found=entry, remedy="correct the entry")
    fields = {str(key).strip().lower(): value for key, value in entry.items()}
    name = str(fields.get("name") or "").strip()
    colour = fields.get("colour", fields.get("color"))
    if isinstance(colour, Sequence | np.ndarray) and len(colour) == 3:  # red, green, blue
        with contextlib.suppress(TypeError, ValueError, OverflowError):
            colour = bytes(map(int, colour)).hex()
    digits = re.fullmatch(r"#?([0-9a-fA-F]{6})", str(colour).strip())
    try:
        number = float(str(fields.get("value")))  # integers of a table with gaps are floats
        value = int(number) if number.is_integer() else -1
    except (ValueError, OverflowError):
        value = -1
    if not name or not digits or not 0 <= value <= LARGEST_VALUE:
        raise SceneError(
            where,
            expected=f"{expected}; values from 0 to {LARGEST_VALUE}",
            found=entry,
            remedy="correct the value of that entry",
        )
    return ClassStyle(value, name, tuple(bytes.fromhex(digits[1])))


def write_style(
    map_path: str | Path, classes: Sequence[ClassStyle], *, overwrite: bool = False
) -> list[Path]:
    """Write names and colours of classes to the side files of a map, ``.aux.xml`` and ``.qml``.

    The map is not changed: changing the colour table of a GeoTIFF in place would break its
    cloud-optimised layout. GDAL prefers the colour table of the side file; other content of the
    side file, such as statistics, is kept.

    Args:
        map_path: The map.
        classes: Names and colours; values in between get neither.
        overwrite: Replace existing names, colours and styles; a style that HOOK did not write is
            kept as ``.qml.bak``, with a warning.

    Returns:
        The files written.

    Raises:
        SceneError: Names, colours or a style exist already, the side file is damaged, or a file
            cannot be written.
    """
    map_path = Path(map_path)
    side_file, style = Path(f"{map_path}.aux.xml"), map_path.with_suffix(".qml")
    root = _read_side_file(side_file)
    band = root.find("./PAMRasterBand[@band='1']")
    if band is None:
        band = ElementTree.SubElement(root, "PAMRasterBand", band="1")
    old = [
        part for tag in ("ColorInterp", "ColorTable", "CategoryNames") for part in band.findall(tag)
    ]
    if old and not overwrite:
        raise SceneError(
            f"{side_file}: has names or colours already", remedy="allow overwriting to change them"
        )
    for part in old:
        band.remove(part)
    by_value = {styled.value: styled for styled in classes}
    ElementTree.SubElement(band, "ColorInterp").text = "Palette"
    colours = ElementTree.SubElement(band, "ColorTable")
    names = ElementTree.SubElement(band, "CategoryNames")
    for value in range(max(by_value) + 1):
        styled = by_value.get(value)
        channels = (*styled.colour, 255) if styled else (0, 0, 0, 0)
        ElementTree.SubElement(
            colours, "Entry", {f"c{i}": str(channel) for i, channel in enumerate(channels, 1)}
        )
        ElementTree.SubElement(names, "Category").text = styled.name if styled else ""
    with StagedFiles(overwrite=True) as side, StagedFiles(overwrite) as files:
        staged = files.add(style, is_own_style, backup=True)
        write_qml(
            staged,
            [styled.name for styled in classes],
            [styled.colour for styled in classes],
            [styled.value for styled in classes],
        )
        side.add(side_file).write_bytes(_xml(root))
        side.commit()
        files.commit()
    return [side_file, style]


def write_qml(
    path: Path,
    class_names: Sequence[str],
    palette: Sequence[Colour],
    values: Sequence[int] | None = None,
) -> None:
    """Write a QGIS layer style with class names and colours.

    It applies to band 1 of rasters and to the field ``class_id`` of polygons. QGIS loads it
    automatically for layers in the same folder with the same stem.

    Args:
        path: The ``.qml`` file.
        class_names: Labels of the values.
        palette: Colours (red, green, blue) of the values.
        values: The values; 0, 1, ... if None.
    """
    path.write_bytes(_qml(class_names, palette, values))


def _qml(
    class_names: Sequence[str], palette: Sequence[Colour], values: Sequence[int] | None
) -> bytes:
    values = range(len(class_names)) if values is None else values
    qgis = ElementTree.Element("qgis", version="3.22.0", styleCategories="Symbology")
    pipe = ElementTree.SubElement(qgis, "pipe")
    renderer = ElementTree.SubElement(
        pipe, "rasterrenderer", type="paletted", band="1", opacity="1", alphaBand="-1"
    )
    entries = ElementTree.SubElement(renderer, "colorPalette")
    for value, name, colour in zip(values, class_names, palette, strict=True):
        ElementTree.SubElement(
            entries,
            "paletteEntry",
            value=str(value),
            label=name,
            color="#{:02x}{:02x}{:02x}".format(*colour),
            alpha="255",
        )
    polygons = ElementTree.SubElement(
        qgis, "renderer-v2", type="categorizedSymbol", attr="class_id", symbollevels="0"
    )
    categories = ElementTree.SubElement(polygons, "categories")
    symbols = ElementTree.SubElement(polygons, "symbols")
    for number, (value, name, colour) in enumerate(zip(values, class_names, palette, strict=True)):
        ElementTree.SubElement(
            categories,
            "category",
            value=str(value),
            type="long",
            label=name,
            symbol=str(number),
            render="true",
        )
        symbol = ElementTree.SubElement(symbols, "symbol", type="fill", name=str(number), alpha="1")
        fill = ElementTree.SubElement(symbol, "layer", {"class": "SimpleFill", "enabled": "1"})
        options = ElementTree.SubElement(fill, "Option", type="Map")
        for key, channels in (
            ("color", colour),
            ("outline_color", [channel // 2 for channel in colour]),
        ):
            text = ",".join(map(str, (*channels, 255)))
            ElementTree.SubElement(options, "Option", type="QString", name=key, value=text)
        for key, text in (("style", "solid"), ("outline_style", "solid"), ("outline_width", "0.1")):
            ElementTree.SubElement(options, "Option", type="QString", name=key, value=text)
    ElementTree.SubElement(qgis, "blendMode").text = "0"
    return _xml(qgis, b"<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n")


def is_own_style(path: Path) -> bool:
    """Whether a file is what :func:`write_qml` writes for the classes in it, unchanged since.

    The labels must be the class names of the map next to it, if there is one with names.
    """
    try:
        content = path.read_bytes()
        entries = list(ElementTree.fromstring(content).iter("paletteEntry"))
        labels = [entry.attrib["label"] for entry in entries]
        colours = [tuple(bytes.fromhex(entry.attrib["color"][1:])) for entry in entries]
        values = [int(entry.attrib["value"]) for entry in entries]
        for suffix in (".tif", ".tiff"):
            names = read_category_names(path.with_suffix(suffix))
            if names is not None and labels != [names[value] for value in values]:
                return False
        return content == _qml(labels, colours, values)
    except (OSError, ValueError, LookupError, ElementTree.ParseError, SceneError):
        return False


def _xml(root: ElementTree.Element, header: bytes = b"") -> bytes:
    ElementTree.indent(root)
    return header + ElementTree.tostring(root, encoding="utf-8") + b"\n"
