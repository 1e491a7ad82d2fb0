"""STAC Items of maps, for catalogues and GIS programs.

STAC 1.1 (https://github.com/radiantearth/stac-spec) with the extensions projection, classification,
raster, file and processing, and MLM (Machine Learning Model) if the file of the model is known.
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import shapely

from hook import __version__
from hook.errors import SceneError
from hook.geo.staging import StagedFiles
from hook.geo.styles import Colour
from hook.geo.vector import apply_affine, to_wgs84
from hook.scenes.layers import ClassLayer, Layer, SceneGeometry

_EXTENSION = "https://stac-extensions.github.io/{}/v{}/schema.json"
_COG = "image/tiff; application=geotiff; profile=cloud-optimized"
_VECTORS = {
    ".gpkg": "application/geopackage+sqlite3",
    ".parquet": "application/vnd.apache.parquet",
    ".fgb": "application/vnd.flatgeobuf",
    ".geojson": "application/geo+json",
    ".json": "application/geo+json",
}
# A STAC Item must have a time. This span contains that of any scene, and fits timestamps in
# nanoseconds, as in tables of Items.
UNKNOWN_TIME = datetime(1900, 1, 1, tzinfo=UTC), datetime(2099, 12, 31, 23, 59, 59, tzinfo=UTC)
_POINTS_PER_SIDE = 32
_DIGITS = 9  # of a degree, a tenth of a millimetre: the rest is noise of the projection library
_DESCRIPTION = "A map of classes."
_NO_TIME = f"{_DESCRIPTION} When its scene was taken is not known: the times given only enclose it."
# Names in an Item, to know ours.
_FIELDS = "type stac_version stac_extensions id geometry properties links assets".split()
_TIMES = ("datetime", "start_datetime", "end_datetime", "description")
_PREFIXES = ("proj", "processing", "mlm")
_TOLERANCE = 1e-7  # of a degree, a centimetre

TimeSpan = tuple[datetime, datetime]


class ModelCard(NamedTuple):
    """Metadata of the model of a map."""

    fields: Mapping[str, Any]
    """Properties of the Item from the extension MLM."""
    asset: Mapping[str, Any] | None = None
    """Its file, with ``mlm:artifact_type`` and ``eo:bands``; None if unknown."""


class WrittenLayer(NamedTuple):
    """A complete layer of a map."""

    layer: Layer
    path: Path
    """Present path of the file; its final path is ``layer.output``."""
    counts: np.ndarray
    """(largest value + 1,) number of pixels of each value."""


def write_stac_item(
    path: Path,
    geometry: SceneGeometry,
    layers: Sequence[WrittenLayer],
    *,
    output: Path,
    inputs: Sequence[str] = (),
    times: TimeSpan | None = None,
    model: ModelCard | None = None,
) -> None:
    """Write the Item of a map.

    It does not depend on the time and folder of writing: links are relative, and names of the
    scene's files are without folders.

    Args:
        path: The file to write.
        geometry: Of the map.
        layers: Layers of the map.
        output: Final name of the Item; its stem is the id of the Item.
        inputs: Names of the scene's files.
        times: First and last time of the scene; None if unknown.
        model: Metadata of the model.
    """
    outline = outline_wgs84(geometry)
    assets: dict[str, dict[str, Any]] = {}
    for written in layers:
        assets |= _assets(written, Path(output))
    extensions = [
        ("projection", "2.0.0"),
        ("classification", "2.0.0"),
        ("file", "2.1.0"),
        ("processing", "1.1.0"),
    ]
    if any(written.layer.scaling is not None for written in layers):
        extensions.append(("raster", "2.0.0"))
    if model is not None and model.asset is not None:
        assets["model"] = dict(model.asset)
        extensions.append(("mlm", "1.5.0"))
        if "eo:bands" in model.asset:
            extensions.append(("eo", "1.1.0"))
    item = {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": [_EXTENSION.format(*extension) for extension in extensions],
        "id": Path(output).stem,
        "geometry": outline and shapely.geometry.mapping(outline),
        "bbox": outline and _bbox(outline),
        "properties": {
            **_time_fields(times),
            **_projection_fields(geometry),
            "processing:level": "L4",
            "processing:lineage": _lineage(inputs),
            "processing:software": {"hook-rs": __version__},
            **(model.fields if model else {}),
        },
        "links": [],
        "assets": assets,
    }
    if outline is None:
        del item["bbox"]  # not allowed without a geometry
    _write(path, item)


def add_vectors(item_path: str | Path, vectors: str | Path, staging: str | None = None) -> None:
    """Add the polygons of a map to the assets of its Item.

    Args:
        item_path: The Item.
        vectors: The file of the polygons.
        staging: Name of the hidden folder, see :class:`hook.geo.staging.StagedFiles`.

    Raises:
        SceneError: The Item is missing or invalid.
    """
    item_path, vectors = Path(item_path), Path(vectors)
    try:
        item = json.loads(item_path.read_text("utf-8"))
        assets = item["assets"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise SceneError(
            f"{item_path}: cannot be read",
            expected="the STAC Item of the map",
            found=error,
            remedy="map the scene again (--overwrite)",
        ) from error
    assets["vectors"] = {
        "href": _href(vectors, item_path),
        "type": _VECTORS[vectors.suffix.lower()],
        "title": "Regions of one class as polygons",
        "roles": ["data"],
        "file:size": vectors.stat().st_size,
    }
    with StagedFiles(True, staging) as files:
        _write(files.add(item_path, lambda _: True), item)  # the Item itself, with an asset more
        files.commit()


def is_own_item(path: Path) -> bool:
    """Whether a file is an Item of :func:`write_stac_item`, without additions of others."""
    try:
        item = json.loads(path.read_text("utf-8"))
        properties = item["properties"]
        return (
            set(item) <= {*_FIELDS, "bbox"}
            and item["links"] == []
            and set(item["assets"]) <= {"map", "scores", "style", "categories", "vectors", "model"}
            and "hook-rs" in properties["processing:software"]
            and all(name in _TIMES or name.partition(":")[0] in _PREFIXES for name in properties)
            and properties["description"] in (_DESCRIPTION, _NO_TIME)
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return False


def item_of_map(map_path: str | Path) -> Path | None:
    """Return the Item of a map, None if there is none or its name is used by a different file."""
    path = Path(map_path).with_suffix(".json")
    try:
        item = json.loads(path.read_text("utf-8"))
        found = item["stac_version"], item["assets"]["map"]["href"]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return path if found[1] == f"./{Path(map_path).name}" else None


def class_objects(
    class_names: Sequence[str],
    palette: Sequence[Colour],
    counts: Sequence[int] | None = None,
    nodata: int | None = None,
) -> list[dict[str, Any]]:
    """Return class objects of the classification extension.

    Args:
        class_names: K names, used as ``title``; a ``name`` of the extension allows only letters,
            digits, ``-`` and ``_``.
        palette: K colours.
        counts: Number of pixels of each value, or None.
        nodata: Value of pixels without a class, or None.
    """
    classes, used = [], set()
    for value, (title, colour) in enumerate(zip(class_names, palette, strict=True)):
        name = re.sub(r"[^0-9A-Za-z_-]+", "-", title).strip("-")
        if not name or name in used:
            name = f"class-{value}"
        used.add(name)
        entry = {
            "value": value,
            "name": name,
            "title": title,
            "color_hint": "{:02X}{:02X}{:02X}".format(*colour),
        }
        if counts is not None:
            entry["count"] = int(counts[value])
        classes.append(entry)
    if nodata is not None:
        name = "nodata" if "nodata" not in used else f"class-{nodata}"
        classes.append({"value": nodata, "name": name, "title": "No data", "nodata": True})
        if counts is not None:
            classes[-1]["count"] = int(counts[nodata])
    return classes


def parse_time_span(text: str) -> TimeSpan:
    """Parse the time of a scene.

    Args:
        text: ``2024-05-31``, ``2024-05-31T10:20:30Z``, or two of these separated by ``/``; UTC if
            without time zone.

    Raises:
        SceneError: It is invalid.
    """
    parts = text.split("/")
    try:
        if len(parts) > 2:
            raise ValueError("more than two times")
        first, last = _moment(parts[0], time.min), _moment(parts[-1], time(23, 59, 59))
        if last < first:
            raise ValueError("the last is before the first")
    except ValueError as error:
        raise SceneError(
            "time of the scene",
            expected="2024-05-31, 2024-05-31T10:20:30Z or two of these as first/last",
            found=f"{text}: {error}",
            remedy="use one of these formats (--datetime)",
        ) from None
    return first, last


def _moment(text: str, of_day: time) -> datetime:
    try:
        day = date.fromisoformat(text)
    except ValueError:
        moment = datetime.fromisoformat(text)
        return moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC)
    return datetime.combine(day, of_day, UTC)


def outline_wgs84(geometry: SceneGeometry) -> shapely.Geometry | None:
    """Return the outline of a scene in WGS 84, cut at the antimeridian (RFC 7946).

    The sides are densified, because they are curved in WGS 84. A scene around a pole is closed
    along the edge of the longitude-latitude plane.

    Returns:
        Polygons; None if the scene has no georeference, a CRS that is not tied to the earth, or
        extends beyond the domain of its CRS.
    """
    if geometry.crs is None or geometry.transform.is_identity:
        return None
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]]) * [geometry.width, geometry.height]
    along = np.linspace(0, 1, _POINTS_PER_SIDE, endpoint=False)[:, np.newaxis]
    ring = np.concatenate(
        [
            start + along * (end - start)
            for start, end in zip(corners[:-1], corners[1:], strict=True)
        ]
    )
    outline = apply_affine(shapely.Polygon(ring), geometry.transform)
    try:
        (outline,) = to_wgs84([outline], geometry.crs, what="the scene", error=SceneError)
    except SceneError:  # a local CRS
        return None
    # Remove points on sides that are straight in longitude and latitude.
    outline = shapely.make_valid(outline).simplify(_TOLERANCE)
    return shapely.transform(shapely.orient_polygons(outline), lambda xy: xy.round(_DIGITS))


def _bbox(outline: shapely.Geometry) -> list[float]:
    """Return west, south, east, north; west > east across the antimeridian."""
    west, south, east, north = shapely.bounds(outline).tolist()
    if west <= -180 and east >= 180:
        # The widest gap in longitude is outside the scene.
        spans = sorted(shapely.bounds(part)[[0, 2]].tolist() for part in shapely.get_parts(outline))
        reach, gap = spans[0][1], (0.0, west, east)
        for start, end in spans[1:]:
            gap = max(gap, (start - reach, start, reach))
            reach = max(reach, end)
        _, west, east = gap
    return [west, south, east, north]


def _time_fields(times: TimeSpan | None) -> dict[str, Any]:
    first, last = times or UNKNOWN_TIME
    fields: dict[str, Any] = {"datetime": _time_text(first) if first == last else None}
    if first != last:
        fields |= {"start_datetime": _time_text(first), "end_datetime": _time_text(last)}
    fields["description"] = _NO_TIME if times is None else _DESCRIPTION
    return fields


def _time_text(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _projection_fields(geometry: SceneGeometry) -> dict[str, Any]:
    fields: dict[str, Any] = {"proj:code": None, "proj:shape": [geometry.height, geometry.width]}
    if geometry.crs is not None:
        # Only the code of exactly this CRS; a similar one would shift the map.
        authority = geometry.crs.to_authority(confidence_threshold=100)
        fields["proj:code"] = authority and ":".join(authority)
        fields["proj:wkt2"] = geometry.crs.to_wkt(version="WKT2_2019")
    if not geometry.transform.is_identity:
        fields["proj:transform"] = [float(value) for value in geometry.transform[:6]]
    return fields


def _lineage(inputs: Sequence[str]) -> str:
    """Name the scene's files, without folders, queries of addresses or inline definitions."""
    names = []
    for name in inputs:
        name = name.strip()
        if not name.startswith(("<", "{")):
            names.append(re.split(r"[/\\]", re.split(r"[?|]", name)[0])[-1])
    return f"Classes that a model gave the scene{': ' if names else ''}{', '.join(names)}"


def _assets(written: WrittenLayer, item: Path) -> dict[str, dict[str, Any]]:
    layer, path, counts = written
    is_map = isinstance(layer, ClassLayer)
    stored = {"data_type": layer.dtype, "nodata": layer.nodata}
    asset: dict[str, Any] = {
        "href": _href(layer.output, item),
        "type": _COG,
        "title": "Classes" if is_map else "How sure the map is",
        "roles": ["data"],
        "file:size": path.stat().st_size,
    }
    if not is_map:
        if layer.scaling is not None:
            scale, offset = layer.scaling[0]
            stored |= {"raster:scale": scale, "raster:offset": offset}
        asset["bands"] = [{"name": name, **stored} for name in layer.descriptions]
        return {"scores": asset}
    # Fields of a single band, except its name, belong to the asset.
    asset |= {**stored, "bands": [{"name": layer.descriptions[0]}]}
    asset["classification:classes"] = class_objects(
        layer.class_names, layer.palette, counts, layer.nodata
    )
    side_files = {
        "style": (layer.output.with_suffix(".qml"), "Style of QGIS"),
        "categories": (Path(f"{layer.output}.aux.xml"), "Names of the classes, of GDAL"),
    }
    return {
        "map": asset,
        **{
            key: {
                "href": _href(file, item),
                "type": "application/xml",
                "title": title,
                "roles": ["metadata"],
            }
            for key, (file, title) in side_files.items()
        },
    }


def _href(file: Path, item: Path) -> str:
    """Return the path of a file relative to the Item."""
    relative = Path(os.path.relpath(file, Path(item).parent)).as_posix()
    return relative if relative.startswith("../") else f"./{relative}"


def _write(path: Path, item: Mapping[str, Any]) -> None:
    text = json.dumps(item, indent=2, ensure_ascii=False, allow_nan=False)
    Path(path).write_text(f"{text}\n", "utf-8")
