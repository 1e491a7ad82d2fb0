"""Labels of chips from raster masks and vector files."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import geopandas
import numpy as np
import rasterio.features
import shapely

from hook.datasets.files import read_features, some
from hook.datasets.grids import Grid
from hook.datasets.scene_files import MaskFile
from hook.errors import ConfigError, DataError
from hook.geo.vector import reproject, table_text


@dataclass(frozen=True)
class LabelOptions:
    """Options of the masks; see :class:`hook.datasets.GeoTIFFFolder`."""

    label_map: Mapping[Any, int | str | None] | None = None
    label_field: str | None = None
    label: int | str = 1
    background: int | str = 0
    mask_layer: str | int | None = None
    all_touched: bool = False
    mask_nodata: float | str | None = "tag"


class Labels:
    """Convert values of masks and attributes of features to labels.

    Args:
        options: Options of the masks.
        classes: Class names in the order of the labels.
        ignore_index: Label of ignored pixels.

    Raises:
        ConfigError: If there are no classes, or an option names an unknown class.
    """

    def __init__(self, options: LabelOptions, classes: Sequence[str], ignore_index: int) -> None:
        if not classes:
            raise ConfigError(
                "GeoTIFFFolder: metainfo names no classes",
                expected="metainfo=dict(classes=(...))",
                found="none",
                remedy="name the classes in the order of their labels",
            )
        self.options, self.classes, self.ignore_index = options, tuple(classes), ignore_index
        self.background = self.class_index(options.background, "background")
        self.label_map: dict[Any, int] | None = None
        if options.label_map is not None:
            pairs = options.label_map.items()
            self.label_map = {key: self.class_index(value, "label_map") for key, value in pairs}
            self._label_of_text = {table_text(key): label for key, label in self.label_map.items()}
        nodata = options.mask_nodata
        # As in Validity: None uses the nodata value of the file, NaN disables it.
        self.nodata = None if nodata == "tag" else math.nan if nodata is None else float(nodata)
        self._tables: dict[str, tuple[geopandas.GeoDataFrame, np.ndarray]] = {}
        self._features: dict[tuple, tuple] = {}

    def __getstate__(self) -> dict[str, Any]:
        # Loaded features are not pickled: each worker loads its own.
        return {**self.__dict__, "_tables": {}, "_features": {}}

    def class_index(self, value: Any, option: str) -> int:
        """Return the label of a class index, a class name or ``'ignore'``.

        Args:
            value: The class.
            option: Name of the option in messages.

        Raises:
            ConfigError: If the class does not exist.
        """
        value = table_text(value) if isinstance(value, str) else value
        if value is None or value == "ignore" or value == self.ignore_index:
            return self.ignore_index
        try:
            if isinstance(value, str) and not value.lstrip("-").isdigit():
                index = [name.casefold() for name in self.classes].index(value.casefold())
            else:
                index = range(len(self.classes)).index(int(value))
            if isinstance(value, str) or index == value:
                return index
        except (TypeError, ValueError, OverflowError):
            pass
        raise ConfigError(
            f"{option}: "
            + (f"unknown class name {value!r}" if isinstance(value, str) else f"no class {value}"),
            expected=f"0 to {len(self.classes) - 1}, one of {', '.join(self.classes)}, or 'ignore'",
            found=value,
            remedy=f"correct {option}, or name all classes in metainfo['classes']",
        )

    def label_of(self, value: Any) -> int | None:
        """Return the label of a mask or attribute value, None if it has no label."""
        if self.label_map is not None:
            return self.label_map.get(value, self._label_of_text.get(table_text(value)))
        if value is None or value == "ignore":
            return None
        try:
            return self.class_index(value, "label")
        except ConfigError:
            return None

    def decode(self, values: np.ndarray, valid: np.ndarray, path: str) -> np.ndarray:
        """Convert (H, W) values of a raster mask to (H, W) int64 labels.

        Args:
            values: (H, W) stored values.
            valid: (H, W) bool; other pixels are ignored.
            path: The file, for messages.

        Raises:
            DataError: If a value is not a class.
        """
        found = np.unique(values[valid])
        if found.dtype.kind == "f" and not np.array_equal(found, np.round(found)):
            raise DataError(
                f"{path}: the values of the mask are not class labels",
                expected="integers",
                found=some(f"{value:g}" for value in found),
                remedy="use a mask with one class per pixel",
            )
        labels = np.full(values.shape, self.ignore_index, dtype=np.int64)
        for value in found.tolist():
            label = self.label_of(value)
            if label is None:
                last = len(self.classes) - 1
                raise DataError(
                    f"{path}: labels outside the range",
                    expected=f"the values of label_map: {some(self.label_map)}"
                    if self.label_map is not None
                    else f"0 to {last} ({last + 1} classes), or {self.ignore_index} to ignore",
                    found=some(int(value) for value in found.tolist()),
                    remedy="map the values with label_map, e.g. {1: 0, 2: 1, 0: 'ignore'}, "
                    "or name all classes in metainfo['classes']",
                )
            labels[valid & (values == value)] = label
        return labels

    def table(self, path: str) -> tuple[geopandas.GeoDataFrame, np.ndarray]:
        """Load the features of a vector file and their labels, cached.

        Raises:
            ConfigError: If the file has no ``label_field``.
            DataError: If it cannot be read, has no CRS, or contains an unknown class.
        """
        if path in self._tables:
            return self._tables[path]
        attribute = self.options.label_field
        table = read_features(path, self.options.mask_layer, attribute, "label_field")
        if attribute is None:
            label = self.class_index(self.options.label, "label")
            labels = np.full(len(table), label, dtype=np.int64)
        else:
            labels = self._attribute_labels(path, table[attribute].tolist())
        self._tables[path] = table, labels
        return self._tables[path]

    def features(self, path: str, grid: Grid) -> tuple[np.ndarray, np.ndarray, shapely.STRtree]:
        """Return the features of a vector file on a grid, cached.

        Args:
            path: The file.
            grid: Grid of a scene.

        Returns:
            Geometries in the CRS of the grid, their labels, and a spatial index.

        Raises:
            ConfigError: See :meth:`table`.
            DataError: See :meth:`table`; or a geometry cannot be reprojected.
        """
        key = (path, grid.crs, grid.bounds)
        if key not in self._features:
            table, labels = self.table(path)
            shapes = np.array(table.geometry.values, dtype=object)
            if len(table):
                shapes = reproject(shapes, table.crs, grid.crs, grid.bounds, what=path)
            near = np.sort(shapely.STRtree(shapes).query(shapely.box(*grid.bounds)))
            self._features[key] = shapes[near], labels[near], shapely.STRtree(shapes[near])
        return self._features[key]

    def _attribute_labels(self, path: str, values: list[Any]) -> np.ndarray:
        labels = [self.label_of(value) for value in values]
        if None in labels:
            raise DataError(
                f"{path}: {self.options.label_field}={values[labels.index(None)]!r} is not a known "
                "class",
                expected=", ".join(map(str, self.label_map or self.classes)),
                found=some(sorted({str(value) for value in values})),
                remedy="correct metainfo['classes'], or map the values with label_map",
            )
        return np.asarray(labels, dtype=np.int64)

    def rasterise(
        self, masks: Sequence[MaskFile], grid: Grid, row: int, col: int, size: tuple[int, int]
    ) -> np.ndarray:
        """Burn the features of vector files into a (height, width) int64 chip.

        Args:
            masks: The files; later ones overwrite earlier ones.
            grid: Grid of the scene.
            row: First row of the chip in the grid.
            col: First column.
            size: (height, width) of the chip.
        """
        height, width = size
        affine = grid.window_affine(row, col)
        corners = [affine * corner for corner in ((0, 0), (width, 0), (width, height), (0, height))]
        outline = shapely.Polygon(corners)
        burned: list[tuple[Any, int]] = []
        for mask in masks:
            shapes, labels, tree = self.features(mask.path, grid)
            burned += [(shapes[hit], int(labels[hit])) for hit in np.sort(tree.query(outline))]
        labels = np.full(size, self.background, dtype=np.int32)
        if burned:
            rasterio.features.rasterize(
                burned, out=labels, transform=affine, all_touched=self.options.all_touched
            )
        return labels.astype(np.int64)
