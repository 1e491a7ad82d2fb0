"""Class names and colours in the forms GIS programs read: PAM side file and QGIS style."""

import colorsys
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from hook.errors import SceneError

Colour = tuple[int, int, int]


def default_class_names(num_classes: int) -> list[str]:
    """Names for classes nobody named."""
    return [f"class_{index}" for index in range(num_classes)]


def default_palette(num_classes: int) -> list[Colour]:
    """Distinct colours: hues a golden angle apart, so that neighbouring classes differ most."""
    return [
        tuple(
            round(255 * channel)
            for channel in colorsys.hsv_to_rgb(
                index * 0.618034 % 1, 0.55 + 0.35 * (index % 2), 0.95 - 0.25 * (index // 2 % 2)
            )
        )
        for index in range(num_classes)
    ]


def check_classes(
    num_classes: int,
    class_names: Sequence[str] | None,
    palette: Sequence[Sequence[int]] | None,
) -> tuple[list[str], list[Colour]]:
    """Class names and colours, completed by defaults.

    Args:
        num_classes: Number of classes, K.
        class_names: K names, or None.
        palette: K colours (red, green, blue) of 0 to 255, or None.

    Raises:
        SceneError: A list has another length, or a colour is none.
    """
    for name, values in (("class_names", class_names), ("palette", palette)):
        if values is not None and len(values) != num_classes:
            raise SceneError(
                name, expected=f"{num_classes} entries, one per class", found=len(values)
            )
    for colour in palette or ():
        if len(colour) != 3 or not all(0 <= channel <= 255 for channel in colour):
            raise SceneError("palette", expected="red, green, blue of 0 to 255", found=colour)
    return (
        [str(name) for name in class_names or default_class_names(num_classes)],
        [tuple(int(channel) for channel in c) for c in palette or default_palette(num_classes)],
    )


def write_category_names(path: Path, class_names: Sequence[str]) -> None:
    """Write the category names of band 1 as GDAL's PAM side file, which rasterio cannot.

    Args:
        path: The side file: the raster's name with ``.aux.xml`` added.
        class_names: Names of the values 0, 1, ...
    """
    dataset = ElementTree.Element("PAMDataset")
    band = ElementTree.SubElement(dataset, "PAMRasterBand", band="1")
    names = ElementTree.SubElement(band, "CategoryNames")
    for name in class_names:
        ElementTree.SubElement(names, "Category").text = name
    _write(path, dataset)


def read_category_names(map_path: str | Path) -> list[str] | None:
    """Category names beside a raster, None where there are none."""
    side_file = Path(f"{map_path}.aux.xml")
    if not side_file.is_file():
        return None
    try:
        root = ElementTree.parse(side_file).getroot()
    except ElementTree.ParseError as error:
        raise SceneError(f"{side_file}: is not XML", found=error) from error
    categories = root.findall("./PAMRasterBand[@band='1']/CategoryNames/Category")
    return [category.text or "" for category in categories] or None


def write_qml(path: Path, class_names: Sequence[str], palette: Sequence[Colour]) -> None:
    """Write a QGIS layer style that draws band 1 as named, coloured classes.

    QGIS loads it by itself where it lies beside the raster under the same stem.

    Args:
        path: The ``.qml`` file.
        class_names: Labels of the values 0, 1, ...
        palette: Colours (red, green, blue) of the values 0, 1, ...
    """
    qgis = ElementTree.Element("qgis", version="3.22.0", styleCategories="Symbology")
    pipe = ElementTree.SubElement(qgis, "pipe")
    renderer = ElementTree.SubElement(
        pipe, "rasterrenderer", type="paletted", band="1", opacity="1", alphaBand="-1"
    )
    entries = ElementTree.SubElement(renderer, "colorPalette")
    for value, (name, colour) in enumerate(zip(class_names, palette, strict=True)):
        ElementTree.SubElement(
            entries,
            "paletteEntry",
            value=str(value),
            label=name,
            color="#{:02x}{:02x}{:02x}".format(*colour),
            alpha="255",
        )
    ElementTree.SubElement(qgis, "blendMode").text = "0"
    _write(path, qgis, b"<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n")


def _write(path: Path, root: ElementTree.Element, header: bytes = b"") -> None:
    ElementTree.indent(root)
    path.write_bytes(header + ElementTree.tostring(root, encoding="utf-8") + b"\n")
