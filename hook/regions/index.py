"""Find similar regions: nearest neighbours among embeddings."""

import importlib.util
import os
import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import geopandas
import numpy as np
import pyarrow as pa
import shapely
from pyproj import CRS
from shapely.geometry.base import BaseGeometry

from hook.arguments import bad_argument, check_int, is_int, is_number, short_repr
from hook.errors import ConfigError, DataError
from hook.geo.vector import read_vectors, warn_missing_crs
from hook.progress import progress_bar
from hook.regions.table import Regions, chunks, format_rows

APPROXIMATE_ABOVE = 1_000_000
"""Number of regions above which :class:`RegionIndex` searches approximately by default."""

# Range of lengths of usable vectors: sums of squares must not overflow in float32.
_MIN_LENGTH, _MAX_LENGTH = 1e-30, 1e30
# Fewer regions say too little about what embeddings have in common.
_LEAST_REGIONS = 20
_SHRINKAGE = 0.5
# Candidates of the approximate search, which are ranked exactly: per result, and minimum.
_OVERSAMPLING, _MIN_CANDIDATES = 4, 256
# Rows that one thread adds to its graph before others join in.
_ADDED_IN_TURN = 1000


class RegionIndex:
    """Searches the regions of a file by cosine similarity of embeddings.

    Embeddings have much in common, and cosines of all of them can be near 1. With ``whiten`` they
    are compared relative to their mean over the regions of the file, and in units of their
    standard deviation in each direction; two unrelated regions then have a cosine of about 0. The
    covariance is shrunk half-way to a multiple of the identity, so that noise does not count as
    much as what tells regions apart. Results, and files written from them, keep mean and map, so
    that they can be searched again. Below 20 regions, and where all embeddings are equal,
    embeddings are compared as they are.

    A region's id is its row number in the file, from 0; the feature ids of a GeoPackage start at
    1. Results are tables of ``region_id``, all fields of the file and ``similarity``, the cosine,
    in descending order, ties in the order of the file. Regions with an embedding that is null,
    zero or not finite are never found.

    Up to ``approximate_above`` regions the search is exact. Above that, the first query builds a
    graph of nearest neighbours (HNSW, https://arxiv.org/abs/1603.09320, of usearch). Its
    candidates are ranked exactly, but a few neighbours can be missing, and they differ from run to
    run. Queries for more than a tenth of the regions are always exact. The graph pays off for
    thousands of queries: with 200,000 embeddings of width 192 on two cores it took 145 s to build,
    and reduced a query from 66 ms to 6 ms; it takes 2 D + 550 bytes per region.

    Embeddings (4 D bytes per region), fields and polygons are held in memory.

    Args:
        regions: A file written by :func:`hook.regions.extract_regions`, ``.parquet`` or
            ``.gpkg``, or a table with such a field ``embedding``.
        approximate_above: Number of regions above which the search is approximate; None: never.
        whiten: Compare whitened embeddings, not the embeddings themselves.

    Attributes:
        source: Name of the file.
        embed_dims: Width of the embeddings, D.
        crs: CRS of the regions, or None.

    Raises:
        DataError: The file cannot be read, is empty or has no embeddings.
        ConfigError: ``approximate_above`` is not an integer, or usearch is needed and not
            installed.

    Example:
        >>> index = RegionIndex("regions.parquet")
        >>> table = index.by_point(688700, 5338700, k=20)
    """

    def __init__(
        self,
        regions: str | os.PathLike | geopandas.GeoDataFrame,
        *,
        approximate_above: int | None = APPROXIMATE_ABOVE,
        whiten: bool = True,
    ) -> None:
        if approximate_above is not None:
            check_int("approximate_above", approximate_above, minimum=0)
        if not isinstance(whiten, bool):
            raise bad_argument("whiten", whiten, "True or False")
        self._regions = table = Regions.read(regions)
        self._embeddings = table.require_embeddings()
        self.embed_dims: int = self._embeddings.shape[1]
        self.crs: CRS | None = table.crs
        self.source: str = table.source
        self.approximate = approximate_above is not None and len(table) > approximate_above
        if self.approximate and importlib.util.find_spec("usearch") is None:
            raise ConfigError(
                f"{len(table)} regions are searched approximately, for which usearch is needed",
                expected="the package usearch",
                found="usearch is not installed",
                remedy="pip install 'hook-rs[search]', or search exactly: approximate_above=None",
            )
        # Compared are (embedding - centre) @ map.
        self._centre, self._map = np.zeros(self.embed_dims), None
        self._lengths = self._measured()
        self._usable = (self._lengths > _MIN_LENGTH) & (self._lengths < _MAX_LENGTH)  # NaN: no
        if not self._usable.all():
            warnings.warn(
                f"{table.source}: {np.sum(~self._usable)} of {len(table)} regions have an "
                "embedding that is null, zero or not finite, and are never found",
                stacklevel=2,
            )
        # Bound of the rounding error of a cosine in float32, for a query of length 1.
        self._rounding = np.full(len(table), self.embed_dims + 4.0)
        if whiten and (found := self._whitening()) is not None:
            self._whiten(found)

    def _whiten(self, whitening: np.ndarray) -> None:
        """Set mean and map of the embeddings, (1 + D, D)."""
        self._regions = replace(self._regions, whitening=whitening)
        self._centre, self._map = whitening[0].astype(np.float64), whitening[1:].astype(np.float64)
        before, self._lengths = self._lengths, self._measured()
        self._usable &= self._lengths > _MIN_LENGTH
        subtracted = (before + np.linalg.norm(self._centre)) / np.maximum(
            self._lengths, _MIN_LENGTH
        )
        self._rounding *= subtracted

    def _whitening(self) -> np.ndarray | None:
        """Return mean and map of the embeddings: those of the file, else of its usable regions.

        None: there are too few regions, or all embeddings are equal.
        """
        rows, dims = np.flatnonzero(self._usable), self.embed_dims
        if self._regions.whitening is not None or len(rows) < _LEAST_REGIONS:
            return self._regions.whitening
        mean, covariance = np.zeros(dims), np.zeros((dims, dims))
        for part in self._chunks(rows):
            mean += self._embeddings[part].sum(axis=0, dtype=np.float64) / len(rows)
        for part in self._chunks(rows):
            centred = self._embeddings[part] - mean
            covariance += centred.T @ centred / len(rows)
        level = covariance.trace() / dims
        if not level > 1e-12 * (mean * mean).mean():  # but for rounding all are equal
            return None
        shrunk = (1 - _SHRINKAGE) * covariance + _SHRINKAGE * level * np.eye(dims)
        values, vectors = np.linalg.eigh(shrunk / level)  # float32 holds roots of about 1
        return np.vstack([mean, (vectors / np.sqrt(values)) @ vectors.T]).astype(np.float32)

    def _measured(self) -> np.ndarray:
        """Return the lengths (N,) of the embeddings as they are compared."""
        lengths = np.empty(len(self))
        for rows in self._chunks(np.arange(len(self))):
            part = self._compared(rows)
            lengths[rows] = np.sqrt((part * part).sum(axis=1))
        return lengths

    def _compared(self, rows: np.ndarray) -> np.ndarray:
        """Return embeddings (M, D) float64 as they are compared."""
        vectors = self._embeddings[rows].astype(np.float64) - self._centre
        return vectors if self._map is None else vectors @ self._map

    def __len__(self) -> int:
        return len(self._regions)

    # ---------------------------------------------------------------------------------- queries
    def by_id(
        self, region: int, k: int = 50, *, keep_query: bool = False
    ) -> geopandas.GeoDataFrame:
        """Find the regions most similar to one of them.

        Args:
            region: Its id: row number in the file, from 0.
            k: Number of regions to find, at most.
            keep_query: Keep the region itself in the result.

        Raises:
            ConfigError: There is no such region, or ``k`` is not positive.
            DataError: The region's embedding is null, zero or not finite.
        """
        return self.by_ids([region], k, keep_query=keep_query)

    def by_ids(
        self, regions: Sequence[int], k: int = 50, *, keep_query: bool = False
    ) -> geopandas.GeoDataFrame:
        """Find the regions most similar to the mean embedding of some of them.

        Args:
            regions: Their ids; embeddings that are null, zero or not finite are skipped.
            k: Number of regions to find, at most.
            keep_query: Keep the regions themselves in the result.

        Raises:
            ConfigError: There is no such region, or ``k`` is not positive.
            DataError: None of the embeddings is usable, or their mean is zero.
        """
        for region in regions:
            if not is_int(region) or not 0 <= region < len(self):
                raise ConfigError(
                    f"{self.source}: no such region",
                    expected=f"a row number from 0 to {len(self) - 1}",
                    found=short_repr(region),
                    remedy="use a row number of the file of regions",
                )
        rows = np.unique(np.array(regions, np.int64))
        return self._nearest(self._mean(rows, np.ones(len(rows))), k, rows, keep_query)

    def by_point(
        self, x: float, y: float, crs: object = None, k: int = 50, *, keep_query: bool = False
    ) -> geopandas.GeoDataFrame:
        """Find the regions most similar to the one at a point; on a common edge, to the first.

        Args:
            x: Easting or longitude.
            y: Northing or latitude.
            crs: CRS of the point, any pyproj accepts; None: that of the regions.
            k: Number of regions to find.
            keep_query: Keep the region at the point in the result.

        Raises:
            ConfigError: The point is outside all regions, the CRS cannot be used, or ``k`` is not
                positive.
            DataError: The region's embedding is null, zero or not finite.
        """
        if not (is_number(x) and is_number(y)):
            raise ConfigError(
                f"point {short_repr(x)} {short_repr(y)}: not a position",
                expected="two finite numbers",
                found=f"x={short_repr(x)}, y={short_repr(y)}",
                remedy="pass X and Y in the regions' CRS, or their CRS with crs (--crs)",
            )
        name = f"point {x:.10g} {y:.10g}"
        point = self._regions.to_region_crs(np.array([shapely.Point(x, y)]), crs, name)
        rows = self._regions.containing(point)
        if rows[0] < 0:
            raise ConfigError(
                f"{name}: outside all regions of {self.source}",
                expected=self._extent(),
                found=shapely.to_wkt(point[0], rounding_precision=6),
                remedy="check the coordinates, and pass their CRS if it is not that of the regions",
            )
        return self._nearest(self._mean(rows, np.ones(1)), k, rows, keep_query)

    def by_polygon(
        self,
        polygon: BaseGeometry | geopandas.GeoDataFrame | geopandas.GeoSeries | str | os.PathLike,
        crs: object = None,
        k: int = 50,
        *,
        keep_query: bool = False,
    ) -> geopandas.GeoDataFrame:
        """Find the regions most similar to an area.

        The query is the mean embedding of the regions it overlaps, weighted by the shared areas
        (:func:`hook.geo.measure.areas_m2`). Embeddings that are null, zero or not finite are
        skipped.

        Args:
            polygon: Polygon or multipolygon of shapely, or a table or vector file of polygons,
                which are joined.
            crs: CRS of a shapely geometry, any pyproj accepts; None: that of the regions.
            k: Number of regions to find.
            keep_query: Keep the overlapped regions in the result.

        Raises:
            ConfigError: It has no area, overlaps no region, the CRS cannot be used, or ``k`` is
                not positive.
            DataError: The file cannot be read, no overlapped region has a usable embedding, or
                their mean is zero.
        """
        polygon, crs = self._union_polygons(polygon, crs)
        if not isinstance(polygon, BaseGeometry):
            kinds = "a shapely geometry, a GeoDataFrame, or a vector file of polygons"
            raise bad_argument("polygon", polygon, kinds)
        if not polygon.area > 0:
            raise ConfigError(
                "the polygon to search with has no area",
                expected="a polygon or multipolygon",
                found=polygon.geom_type,
                remedy="use a polygon, or by_point (--at) for a point",
            )
        query = self._regions.to_region_crs(np.array([polygon]), crs, "the polygon to search with")[
            0
        ]
        if not query.is_valid:
            query = shapely.make_valid(query)
        rows, areas = self._regions.overlapping(query)
        if not len(rows):
            raise ConfigError(
                f"the polygon to search with overlaps no region of {self.source}",
                expected=self._extent(),
                found=_format_bounds(query.bounds),
                remedy="check its CRS",
            )
        return self._nearest(self._mean(rows, areas), k, rows, keep_query)

    def _union_polygons(self, polygon: object, crs: object) -> tuple[object, object]:
        """Return the union of polygons and their CRS; other input unchanged."""
        if isinstance(polygon, str | os.PathLike):
            texts = dict(what="polygons", expected="a vector file of polygons")
            polygon = read_vectors(polygon, geometries=("Polygon",), **texts)
        if not isinstance(polygon, geopandas.GeoDataFrame | geopandas.GeoSeries):
            return polygon, crs
        if crs is not None:
            raise ConfigError(
                "crs is for shapely geometries only",
                expected="a shapely geometry, or a table or file without crs",
                found=f"crs={crs!r} with a table or a file",
                remedy="omit crs; set the CRS of a table with set_crs()",
            )
        if getattr(polygon, "active_geometry_name", "geometry") is None:
            raise bad_argument(
                "polygon", polygon, "polygons", "name their column with set_geometry()"
            )
        shapes = polygon.geometry
        if shapes.crs is None and self.crs is not None:
            warn_missing_crs("the polygons to search with", "the regions'")
        return shapely.union_all(shapely.make_valid(shapes.to_numpy())), shapes.crs

    def by_vector(self, vector: np.ndarray, k: int = 50) -> geopandas.GeoDataFrame:
        """Find the regions most similar to a vector.

        Args:
            vector: (D,) real numbers, such as an embedding of the same model.
            k: Number of regions to find.

        Raises:
            ConfigError: The vector has a wrong width, is zero or not finite, or ``k`` is not
                positive.
        """
        try:
            numbers = np.asarray(vector, np.float64)
        except (TypeError, ValueError):
            numbers = None
        if numbers is None or numbers.shape != (self.embed_dims,):
            raise ConfigError(
                "the vector to search with",
                expected=f"shape ({self.embed_dims},), as the embeddings of {self.source}",
                found=f"shape {np.shape(vector)}" if numbers is not None else short_repr(vector),
                remedy="use an embedding of the model of the regions",
            )
        vector = numbers
        if not _MIN_LENGTH < np.sqrt((vector * vector).sum()) < _MAX_LENGTH:
            raise ConfigError(
                "the vector to search with has no direction",
                expected="finite numbers, not all zero",
                found=vector,
                remedy="use the embedding of a region or of a chip",
            )
        return self._nearest(vector, k, np.empty(0, np.int64), keep_query=False)

    # ---------------------------------------------------------------------------------- search
    def _mean(self, rows: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Return the weighted mean (D,) of the usable embeddings of regions."""
        usable = self._usable[rows]
        if not usable.any():
            raise DataError(
                f"{self.source}: no embedding to search with",
                expected="finite numbers, not all zero",
                found=f"null, zero or not finite in region {format_rows(rows)}",
                remedy="search with a different region",
            )
        rows, weights = rows[usable], weights[usable] / weights[usable].sum()
        mean, start = np.zeros(self.embed_dims), 0
        for part in self._chunks(rows):
            mean += weights[start : start + len(part)] @ self._embeddings[part].astype(np.float64)
            start += len(part)
        if not np.sqrt((mean * mean).sum()) > _MIN_LENGTH:
            raise DataError(
                f"{self.source}: the mean embedding of the regions has no direction",
                found=f"zero over region {format_rows(rows)}",
                remedy="search with a smaller area",
            )
        return mean

    def _nearest(
        self, vector: np.ndarray, k: int, query: np.ndarray, keep_query: bool
    ) -> geopandas.GeoDataFrame:
        """Return the regions nearest to a vector (D,) of the regions ``query``."""
        if not is_int(k) or k < 1:
            raise ConfigError(
                "k, the number of regions to find",
                expected="1 or more",
                found=short_repr(k),
                remedy="pass the number of regions to find",
            )
        vector = vector - self._centre
        vector = vector if self._map is None else vector @ self._map
        length = np.sqrt((vector * vector).sum())
        if not length > _MIN_LENGTH:
            raise DataError(
                f"{self.source}: the embedding to search with is the mean of all",
                expected="one that differs from it",
                found="no difference",
                remedy="search with a smaller area, or use whiten=False",
            )
        unit = vector / length
        allowed = self._usable.copy()
        if not keep_query:
            allowed[query] = False
        rows = self._candidates(unit, int(k), allowed)
        # Rounded, since the lengths of equal embeddings may differ in the last digit.
        cosines = self._cosines(unit, rows).round(12)
        order = np.lexsort((rows, -cosines))[: int(k)]
        rows, cosines = rows[order], cosines[order]
        found = self._regions.take(rows).with_fields({"similarity": pa.array(cosines)})
        return found.with_fields({"region_id": pa.array(rows)}, first=True).to_geodataframe()

    def _candidates(self, unit: np.ndarray, k: int, allowed: np.ndarray) -> np.ndarray:
        """Return rows (M,) that include the k nearest, with M close to k."""
        count = int(allowed.sum())
        if count <= k:
            return np.flatnonzero(allowed)
        wanted = k + int(np.sum(self._usable & ~allowed))  # the graph includes the query
        if self.approximate and wanted <= len(self) / 10:
            number = min(max(_OVERSAMPLING * wanted, _MIN_CANDIDATES), len(self._graph))
            self._graph.expansion_search = number
            rows = np.sort(self._graph.search(unit.astype(np.float32), number).keys.astype(np.intp))
            rows = rows[allowed[rows]]
            if len(rows) >= k:
                return rows
        cosines = np.empty(len(self), np.float32)
        query = self._unmapped(unit)
        query, offset = query.astype(np.float32), np.float32(self._centre @ query)
        with np.errstate(all="ignore"):  # of rows that are not allowed
            for rows in self._chunks(np.arange(len(self))):
                part = slice(rows[0], rows[-1] + 1)
                cosines[part] = (self._embeddings[part] @ query - offset) / self._lengths[part]
        cosines[~allowed] = -np.inf
        # Sums in float32 depend on the position of a row. Ties with the k-th within their error
        # are ranked in float64, where equal embeddings have equal cosines.
        error = np.finfo(np.float32).eps * np.linalg.norm(query) * self._rounding
        error[~allowed] = 0
        minimum = np.partition(cosines - error, len(self) - k)[len(self) - k]
        return np.flatnonzero(allowed & (cosines + error >= minimum))

    def _cosines(self, unit: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return the cosines (M,) float64 of a unit vector with the embeddings of rows."""
        query = self._unmapped(unit)
        cosines, start = np.empty(len(rows)), 0
        for part in self._chunks(rows):
            vectors = self._embeddings[part].astype(np.float64) - self._centre
            # Unlike a matrix product, sums of rows do not depend on other rows.
            dots = (vectors * query).sum(axis=1)
            cosines[start : start + len(part)] = dots / self._lengths[part]
            start += len(part)
        return cosines.clip(-1, 1)

    def _unmapped(self, unit: np.ndarray) -> np.ndarray:
        """Return the vector (D,) whose products with centred embeddings are those of the unit."""
        return unit if self._map is None else self._map @ unit  # the map is symmetric

    @cached_property
    def _graph(self):
        """Index of usearch of all usable embeddings, normalised, by row."""
        from usearch.index import Index  # an extra, needed for large files only

        graph = Index(ndim=self.embed_dims, metric="cos", dtype="f16")
        usable = np.flatnonzero(self._usable)
        bar = progress_bar(total=len(usable), desc="building the index", unit="region")
        # Rows that threads add at once do not see each other: in a graph of few rows some of them
        # are linked from nowhere, and never found. The first ones are added one after the other.
        parts = (1, usable[:_ADDED_IN_TURN]), (0, usable[_ADDED_IN_TURN:])  # 0: all cores
        with bar:
            for threads, rows in ((n, rows) for n, part in parts for rows in self._chunks(part)):
                units = self._compared(rows) / self._lengths[rows, np.newaxis]
                graph.add(rows.astype(np.uint64), units.astype(np.float32), threads=threads)
                bar.update(len(rows))
        return graph

    def _chunks(self, rows: np.ndarray):
        return chunks(rows, self.embed_dims)

    def _extent(self) -> str:
        crs = f", {self.crs.to_string()}" if self.crs else ""
        return f"a position in {_format_bounds(shapely.total_bounds(self._regions.geometry))}{crs}"


def _format_bounds(bounds) -> str:
    left, bottom, right, top = bounds
    return f"x {left:.10g} to {right:.10g}, y {bottom:.10g} to {top:.10g}"
