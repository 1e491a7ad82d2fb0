"""Classify all regions of a file from labels of a few of them."""

import csv
import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import geopandas
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import shapely

from hook.arguments import is_number, short_repr
from hook.errors import ConfigError, DataError
from hook.geo.raster import unreadable
from hook.geo.staging import StagedFiles
from hook.geo.vector import driver_of, read_vectors, split_layer, table_text, warn_missing_crs
from hook.regions.table import Regions, chunks, format_rows

METHODS = ("linear", "mean")
"""Kinds of classifier."""
FEATURES = ("embedding", "bands")
"""Kinds of features."""

# Regions scored at a time, as float64.
_AT_ONCE = 8192

Labels = str | os.PathLike | geopandas.GeoDataFrame | Mapping[int, object]

_ID = "region_id"
_EXPECTED = "points or polygons with a class, or a .csv of region_id and class"


def classify_regions(
    regions: str | os.PathLike | geopandas.GeoDataFrame,
    labels: Labels,
    output: str | os.PathLike | None = None,
    *,
    field: str = "class",
    method: str = "linear",
    features: str = "embedding",
    strength: float = 1.0,
    layer: str = "regions",
    overwrite: bool = False,
) -> geopandas.GeoDataFrame:
    """Classify all regions from labels of a few of them.

    The result has all fields of the regions, and ``class_id``, ``class_name`` and ``score``, which
    replace fields of the same names. Class ids follow the alphabetical order of the names. Regions
    without features (an embedding that is null, zero or not finite; a band without statistics)
    have null in all three. Labelled regions have the predicted class too.

    A point labels the region it is in; on a common edge, the first. A polygon labels the regions
    it covers by more than half, or if there are none, the one it covers the largest area of.

    Args:
        regions: GeoParquet or vector file as written by ``hook regions``, or such a table.
        labels: Class names by region id (row number, from 0); a ``.csv`` with the columns
            ``region_id`` and ``field``; or points or polygons with a class in ``field``: a vector
            file or a table, in any CRS (default: that of the regions).
        output: File to write: ``.gpkg``, ``.parquet``, ``.fgb``, ``.geojson`` or ``.json``. The
            first two hold the embeddings too; GeoJSON is in WGS 84.
        field: Class field of the labels.
        method: ``"linear"``: multinomial logistic regression with an L2 penalty, classes weighted
            equally, on features standardised over all regions; ``score`` is the probability.
            ``"mean"``: the class mean, of vectors of length 1, with the largest cosine, which is
            ``score``.
        features: ``"embedding"``, or ``"bands"``: the fields ``mean_<band>`` and ``std_<band>``,
            standardised over all regions with either method.
        strength: Inverse strength of the penalty with ``"linear"``, for F features scikit-learn's C
            times F / 6: with 1, C is 1 for the means and standard deviations of three bands.
        layer: Name of the layer in the file; GeoParquet has none.
        overwrite: Replace the output if it exists.

    Returns:
        The regions, in their order.

    Raises:
        ConfigError: An option is unknown, or a label names a region that does not exist.
        DataError: The labels are of an unknown kind; a file cannot be read or lacks the field or
            the features; there are fewer than two classes; a label has no class, hits no region or
            one without features, or contradicts another label.
        SceneError: The output exists, is an input or cannot be written.
    """
    for name, value, known in (("method", method, METHODS), ("features", features, FEATURES)):
        if value not in known:
            raise ConfigError(
                f"unknown {name}",
                expected=" or ".join(known),
                found=value,
                remedy="choose one of these",
            )
    if not is_number(strength) or strength <= 0:
        raise ConfigError(
            "strength of the labels",
            expected="a number above 0",
            found=short_repr(strength),
            remedy="use a number such as 1.0; larger values regularise less",
        )
    if not isinstance(labels, str | os.PathLike | Mapping | geopandas.GeoDataFrame):
        raise DataError(
            "labels: of an unknown kind",
            expected="{region_id: class}, the name of a file, or a GeoDataFrame of points or "
            "polygons with a class",
            found=short_repr(labels),
            remedy="pass one of these",
        )
    with StagedFiles(overwrite, inputs=(regions, labels)) as files:
        if output is not None:
            driver_of(output)
            staged = files.add(output)
        table = Regions.read(regions)
        class_of = _read_labels(labels, table, field)
        classified = _classify(table, class_of, method, features, strength)
        if output is not None:
            classified.write(staged, Path(output), layer)
        files.commit()
    return classified.to_geodataframe()


# ------------------------------------------------------------------------------------- classifying
class RegionClassifier:
    """Scores classes of all regions from labels of a few, as :func:`classify_regions` does.

    Args:
        table: The regions.
        method: See :func:`classify_regions`.
        features: See there.
        strength: See there.

    Attributes:
        usable: (N,) bool, False for regions without features.

    Raises:
        DataError: The regions lack the features.
    """

    def __init__(
        self,
        table: Regions,
        method: str = "linear",
        features: str = "embedding",
        strength: float = 1.0,
    ) -> None:
        # Takes a second to import, and is not needed to write or search regions.
        from sklearn.preprocessing import StandardScaler

        self._table, self._method, self._features = table, method, features
        self._strength = strength
        self._values = _Embeddings(table) if features == "embedding" else _Bands(table)
        self.usable = self._values.usable
        self._scaler = None
        if method == "linear" or features == "bands":
            self._scaler = StandardScaler(copy=False)  # what is read is a copy already
            for part in self._values.chunks(np.flatnonzero(self.usable)):
                self._scaler.partial_fit(self._values.read(part))

    def scores(self, class_of: Mapping[int, str]) -> tuple[list[str], np.ndarray]:
        """Fit the labels and score all regions.

        Args:
            class_of: Class names by region id.

        Returns:
            K class names in alphabetical order, and scores (N, K) float64, NaN for regions without
            features.

        Raises:
            DataError: There are fewer than two classes, or a labelled region has no features.
        """
        classes = sorted(set(class_of.values()))
        if len(classes) < 2:
            raise DataError(
                "the labels name fewer than two classes",
                expected="regions of two classes or more",
                found=", ".join(classes) or "no label",
                remedy="label a region of a second class",
            )
        rows = np.array(sorted(class_of))
        wrong = rows[~self.usable[rows]]
        if len(wrong):
            raise DataError(
                f"{self._table.source}: labelled regions without features ({self._features})",
                expected="finite numbers, and a nonzero embedding",
                found=f"region {format_rows(wrong)}",
                remedy="label other regions instead",
            )
        targets = np.array([classes.index(class_of[row]) for row in rows.tolist()])
        known = np.concatenate([self._read(part) for part in self._values.chunks(rows)])
        if self._method == "linear":
            model = logistic_regression(self._strength, known.shape[1])
            score = model.fit(known, targets).predict_proba
        else:
            means = _class_means(known, targets, classes)

            def score(x: np.ndarray) -> np.ndarray:
                return (_normalise(x) @ means.T).clip(-1, 1)

        found = np.full((len(self._table), len(classes)), np.nan)
        usable = np.flatnonzero(self.usable)
        for first in range(0, len(usable), _AT_ONCE):
            part = usable[first : first + _AT_ONCE]
            found[part] = score(self._read(part))
        return classes, found

    def _read(self, part: np.ndarray) -> np.ndarray:
        """Return the features (n, F) of rows as they are compared."""
        values = self._values.read(part)
        return values if self._scaler is None else self._scaler.transform(values)


def logistic_regression(strength: float, num_features: int):
    """Return the classifier of ``"linear"``; see :func:`classify_regions`."""
    from sklearn.linear_model import LogisticRegression

    # The squared length of F standardised features is F on average, so that with the same C long
    # embeddings would be fitted to a few labels more closely than the bands.
    c = strength * 6 / num_features
    # Numbers of labels do not reflect class frequencies.
    return LogisticRegression(C=c, class_weight="balanced", max_iter=1000)


def _classify(
    table: Regions, class_of: Mapping[int, str], method: str, features: str, strength: float
) -> Regions:
    """Add the class fields."""
    classifier = RegionClassifier(table, method, features, strength)
    classes, found = classifier.scores(class_of)
    unusable = ~classifier.usable
    if unusable.any():
        warnings.warn(
            f"{table.source}: {unusable.sum()} of {len(table)} regions have no features "
            f"({features}), and so no class",
            stacklevel=3,
        )
    found[unusable] = 0
    ids = found.argmax(axis=1).astype(np.int32)
    names = np.array(classes, object)[ids]
    return table.with_fields(
        {
            "class_id": pa.array(ids, mask=unusable),
            "class_name": pa.array(names, pa.string(), mask=unusable),
            "score": pa.array(found.max(axis=1), mask=unusable),
        }
    )


def margins(scores: np.ndarray) -> np.ndarray:
    """Return how far the best class of each region is ahead of the second.

    Args:
        scores: (N, K) of :meth:`RegionClassifier.scores`.

    Returns:
        (N,), infinite for regions without features: the smallest is the least certain.
    """
    second, first = np.partition(scores, -2, axis=1)[:, -2:].T
    return np.nan_to_num(first - second, nan=np.inf)


def _normalise(x: np.ndarray) -> np.ndarray:
    """Normalise vectors (n, F) to length 1; zero vectors stay zero."""
    length = np.sqrt((x * x).sum(axis=1, keepdims=True))
    return x / np.where(length > 0, length, 1)


def _class_means(known: np.ndarray, targets: np.ndarray, classes: list[str]) -> np.ndarray:
    """Return the mean directions (K, F) of the classes."""
    units = _normalise(known)
    means = np.stack([units[targets == k].mean(axis=0) for k in range(len(classes))])
    lengths = np.sqrt((means * means).sum(axis=1))
    if lengths.min() < 1e-9:
        raise DataError(
            f"class {classes[int(lengths.argmin())]}: its labelled regions have no mean direction",
            found="features that cancel each other",
            remedy="label more regions of the class, or use a different method",
        )
    return means / lengths[:, np.newaxis]


class _Embeddings:
    """Embeddings of regions as features."""

    def __init__(self, table: Regions) -> None:
        self._values = table.require_embeddings()
        self.usable = np.zeros(len(table), bool)
        for part in self.chunks(np.arange(len(table))):
            values = self._values[part]
            self.usable[part] = np.isfinite(values).all(axis=1) & values.any(axis=1)

    def chunks(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        """Split row numbers into chunks to read."""
        return chunks(rows, self._values.shape[1])

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Return the features (n, F) float64 of rows."""
        return self._values[rows].astype(np.float64)


class _Bands(_Embeddings):
    """Means and standard deviations of bands as features."""

    def __init__(self, table: Regions) -> None:
        names = set(table.fields.column_names)
        bands = [n.removeprefix("mean_") for n in table.fields.column_names if n[:5] == "mean_"]
        wanted = [f"{kind}_{band}" for band in bands for kind in ("mean", "std")]
        wanted = [name for name in wanted if name in names]
        if not wanted:
            raise DataError(
                f"{table.source}: has no band statistics",
                expected="fields mean_<band> and std_<band>",
                found=", ".join(table.fields.column_names) or "no fields",
                remedy="write the regions with 'hook regions'",
            )
        columns = []
        for name in wanted:
            try:
                column = pc.cast(table.fields[name], pa.float64())
            except pa.ArrowException:
                raise DataError(
                    f"{table.source}: field {name}",
                    expected="numbers",
                    found=table.fields[name].type,
                    remedy="store numbers in the field, or remove it",
                ) from None
            columns.append(column.to_numpy())  # null becomes NaN
        self._values = np.column_stack(columns)
        self.usable = np.isfinite(self._values).all(axis=1)


# ------------------------------------------------------------------------------------- labels
def _read_labels(labels: Labels, table: Regions, field: str) -> dict[int, str]:
    """Return class names by region id."""
    if isinstance(labels, Mapping):
        pairs = [(region, region, name) for region, name in labels.items()]
        return _merge_labels(_check_ids(pairs, table, "the labels"))
    if isinstance(labels, str | os.PathLike):
        source = os.fspath(labels)
        if Path(split_layer(source)[0]).suffix.lower() == ".csv":
            return _merge_labels(_check_ids(_read_csv(source, field), table, source))
        kinds = ("Point", "Polygon")
        labels = read_vectors(source, geometries=kinds, what="labels", expected=_EXPECTED)
    else:
        source = "the table of labels"
    if field not in labels or field == labels.geometry.name:
        raise _field_error(source, field, [n for n in labels if n != labels.geometry.name])
    return _merge_labels(_locate_labels(labels, table, field, source))


def _read_csv(source: str, field: str) -> list[tuple[object, object, object]]:
    try:
        with open(source, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            names = reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
            if missing := [name for name in (_ID, field) if name not in names]:
                raise _field_error(source, missing[0], names)
            return [(f"row {n}", row[_ID], row[field]) for n, row in enumerate(reader, 1)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise unreadable(source, error, _EXPECTED, "labels") from None


def _field_error(source: str, field: str, names: list[str]) -> DataError:
    return DataError(
        f"{source}: has no field {field}",
        expected="the class field of the labels",
        found=", ".join(map(str, names)) or "no fields",
        remedy="name the field (--field)",
    )


Pair = tuple[object, int, str]
"""Name of a label in messages, region id, class name."""


def _check_ids(
    pairs: list[tuple[object, object, object]], table: Regions, source: str
) -> list[Pair]:
    """Check region ids and class names."""
    checked = []
    for label, region, name in pairs:
        try:
            number = int(table_text(region))
        except ValueError:
            number = -1
        if not 0 <= number < len(table):
            raise DataError(
                f"{source}: a label hits no region",
                expected=f"a region id from 0 to {len(table) - 1}",
                found=region,
                remedy="use row numbers of the file of regions, from 0",
            )
        checked.append((label, number, _class_name(name, source, label)))
    return checked


def _class_name(value: object, source: str, label: object) -> str:
    """Return the name of a class, given as text or a number."""
    name = "" if value is None or value != value else table_text(value)
    if not name or name == "<NA>":
        raise DataError(
            f"{source}: label {label} has no class",
            expected="a name or a number",
            found=value,
            remedy="fill it in, or remove the label",
        )
    return name


def _locate_labels(
    labels: geopandas.GeoDataFrame, table: Regions, field: str, source: str
) -> list[Pair]:
    """Return the regions of points and polygons."""
    shapes = labels.geometry.to_numpy()
    kinds = {None if s is None else s.geom_type.removeprefix("Multi") for s in shapes}
    if wrong := kinds - {"Point", "Polygon"}:
        raise DataError(
            f"{source}: labels that are neither points nor polygons",
            expected="points or polygons",
            found=", ".join(sorted(kind or "no geometry" for kind in wrong)),
            remedy="use a layer of points or polygons; buffer lines to polygons",
        )
    if labels.crs is None and table.crs is not None:
        warn_missing_crs(source, "the regions'")
    shapes = table.to_region_crs(shapes, labels.crs, source, DataError)
    names = [_class_name(v, source, n) for n, v in enumerate(labels[field].tolist())]
    pairs, missed = [], []
    for number, (shape, name) in enumerate(zip(shapes, names, strict=True)):
        if shape.geom_type.endswith("Point"):
            hits = table.containing(shapely.get_parts(shape))
        else:
            hits = _covered_regions(table, shape)
        if not len(hits) or hits.min() < 0:
            missed.append(number)
        pairs += [(number, hit, name) for hit in hits.tolist()]
    if missed:
        left, bottom, right, top = shapely.total_bounds(table.geometry).tolist()
        raise DataError(
            f"{source}: labels that hit no region",
            expected=f"a position in x {left:.10g} to {right:.10g}, y {bottom:.10g} to {top:.10g}",
            found=f"label {format_rows(np.array(missed))} (counted from 0): "
            f"{shapely.to_wkt(shapely.centroid(shapes[missed[0]]), rounding_precision=6)}",
            remedy="check the labels' CRS, or remove these labels",
        )
    return pairs


def _covered_regions(table: Regions, polygon: shapely.Geometry) -> np.ndarray:
    """Return the regions that a polygon labels."""
    rows, shared = table.overlapping(polygon if polygon.is_valid else shapely.make_valid(polygon))
    if not len(rows):
        return rows
    covered = rows[shared > table.areas(table.geometry[rows]) / 2]
    return covered if len(covered) else rows[[shared.argmax()]]


def _merge_labels(pairs: list[Pair]) -> dict[int, str]:
    """Return class names by region; refuse regions with labels of two classes."""
    class_of: dict[int, str] = {}
    first: dict[int, object] = {}
    conflicts = []
    for label, region, name in pairs:
        if class_of.setdefault(region, name) != name:
            conflicts.append(
                f"region {region} is {class_of[region]} (label {first[region]}) and {name} "
                f"(label {label})"
            )
        first.setdefault(region, label)
    if conflicts:
        more = f", and {len(conflicts) - 3} more" if len(conflicts) > 3 else ""
        raise DataError(
            "labels contradict each other",
            expected="one class per region",
            found="; ".join(conflicts[:3]) + more,
            remedy="remove one of the labels, or use smaller regions",
        )
    return class_of
