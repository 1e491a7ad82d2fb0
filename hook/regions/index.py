"""Find regions that look like another: nearest neighbours among embeddings."""

import importlib.util
import os
import warnings
from functools import cached_property

import geopandas
import numpy as np
import pyarrow as pa
import shapely
from pyproj import CRS
from shapely.geometry.base import BaseGeometry

from hook.arguments import bad_argument, check_int, is_int, is_number, short_repr
from hook.errors import ConfigError, DataError
from hook.geo.vector import read_vectors, warn_of_missing_crs
from hook.progress import progress_bar
from hook.regions.table import Regions, chunks, some

APPROXIMATE_ABOVE = 1_000_000
"""Number of regions above which :class:`RegionIndex` searches approximately by default."""

# Lengths of vectors that have a direction, in float32 with room for sums of squares.
_SHORTEST, _LONGEST = 1e-30, 1e30
# Of the graph of the approximate search: candidates per region asked for, and the least number.
# They are ranked exactly afterwards.
_OVERSAMPLING, _LEAST_CANDIDATES = 4, 256


class RegionIndex:
    """Ranks the regions of a file by the cosine of their embeddings with that of a query.

    A region's id is its row number in the file, from 0; the feature ids of a GeoPackage count
    from 1. Answers are tables with all fields of the file, after ``region_id`` and before
    ``similarity``, the cosine, from the most similar region on; equals come in the order of the
    file. Regions whose embedding is null, zero or not finite are never found.

    Up to ``approximate_above`` regions the search is exact: each query is compared with all
    embeddings. Above that, the first query builds a graph of nearest neighbours (HNSW,
    https://arxiv.org/abs/1603.09320, of usearch). What it finds is ranked exactly, but a few of
    the nearest can be missing, and others from run to run. Queries for more than a tenth of the
    regions are answered exactly all the same. The graph is worth its time for thousands of
    queries: with 200,000 embeddings of width 192 on two cores it took 145 s to build, and a query
    then 6 ms in place of 66 ms; it takes 2 D + 550 bytes per region.

    The embeddings are held in memory, 4 D bytes per region, with all fields and polygons.

    Args:
        regions: A file that :func:`hook.regions.extract_regions` wrote, ``.parquet`` or
            ``.gpkg``, or a table with such a field ``embedding``.
        approximate_above: Number of regions above which the search is approximate; None: never.

    Attributes:
        source: Name of the file.
        embed_dims: Width of the embeddings, D.
        crs: CRS of the regions, or None.

    Raises:
        DataError: The file cannot be read, is empty or has no embeddings.
        ConfigError: An approximate search is due, and usearch is not installed; or
            ``approximate_above`` is no whole number.

    Example:
        >>> index = RegionIndex("regions.parquet")
        >>> table = index.by_point(688700, 5338700, k=20)
    """

    def __init__(
        self,
        regions: str | os.PathLike | geopandas.GeoDataFrame,
        *,
        approximate_above: int | None = APPROXIMATE_ABOVE,
    ) -> None:
        if approximate_above is not None:
            check_int("approximate_above", approximate_above, minimum=0)
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
                found="no such package",
                remedy="pip install 'hook-rs[search]', or search exactly: approximate_above=None",
            )
        self._lengths = np.empty(len(table))
        for rows in self._chunks(np.arange(len(table))):
            part = self._embeddings[rows].astype(np.float64)
            self._lengths[rows] = np.sqrt((part * part).sum(axis=1))
        self._usable = (self._lengths > _SHORTEST) & (self._lengths < _LONGEST)  # NaN: neither
        if not self._usable.all():
            warnings.warn(
                f"{table.source}: {np.sum(~self._usable)} of {len(table)} regions have an "
                "embedding that is null, zero or not finite, and are never found",
                stacklevel=2,
            )

    def __len__(self) -> int:
        return len(self._regions)

    # ---------------------------------------------------------------------------------- queries
    def by_id(
        self, region: int, k: int = 50, *, keep_query: bool = False
    ) -> geopandas.GeoDataFrame:
        """Find the regions most similar to one of them.

        Args:
            region: Its id: row number in the file, from 0.
            k: Number of regions to find; all there are, where these are fewer.
            keep_query: Let the region itself be found too.

        Returns:
            The regions, see above.

        Raises:
            ConfigError: There is no such region, or ``k`` is not positive.
            DataError: The region's embedding is null, zero or not finite.
        """
        if not is_int(region) or not 0 <= region < len(self):
            raise ConfigError(
                f"{self.source}: no such region",
                expected=f"a row number from 0 to {len(self) - 1}",
                found=short_repr(region),
                remedy="take the number of a row of the file of regions",
            )
        rows = np.array([int(region)])
        return self._answer(self._mean(rows, np.ones(1)), k, rows, keep_query)

    def by_point(
        self, x: float, y: float, crs: object = None, k: int = 50, *, keep_query: bool = False
    ) -> geopandas.GeoDataFrame:
        """Find the regions most similar to that at a place.

        Args:
            x: Easting or longitude.
            y: Northing or latitude.
            crs: CRS of these, as pyproj understands it; None: that of the regions.
            k: Number of regions to find.
            keep_query: Let the region at the place be found too.

        Returns:
            The regions, see above. On a common edge the query is the first of its regions.

        Raises:
            ConfigError: No region is there, the CRS cannot be used, or ``k`` is not positive.
            DataError: The region's embedding is null, zero or not finite.
        """
        if not (is_number(x) and is_number(y)):
            raise ConfigError(
                f"point {short_repr(x)} {short_repr(y)}: no place",
                expected="two finite numbers",
                found=f"x={short_repr(x)}, y={short_repr(y)}",
                remedy="give X and Y in the regions' CRS, or theirs with crs (--crs)",
            )
        place = f"point {x:.10g} {y:.10g}"
        point = self._regions.to_own_crs(np.array([shapely.Point(x, y)]), crs, place)
        rows = self._regions.containing(point)
        if rows[0] < 0:
            raise ConfigError(
                f"{place}: outside all regions of {self.source}",
                expected=self._extent(),
                found=shapely.to_wkt(point[0], rounding_precision=6),
                remedy="check the coordinates, and name their CRS if it is another one",
            )
        return self._answer(self._mean(rows, np.ones(1)), k, rows, keep_query)

    def by_polygon(
        self,
        polygon: BaseGeometry | geopandas.GeoDataFrame | geopandas.GeoSeries | str | os.PathLike,
        crs: object = None,
        k: int = 50,
        *,
        keep_query: bool = False,
    ) -> geopandas.GeoDataFrame:
        """Find the regions most similar to an area.

        Its embedding is the mean of those of the regions it overlaps, weighted by the areas they
        share with it (:func:`hook.geo.measure.areas_m2`). Regions whose embedding is null,
        zero or not finite do not count.

        Args:
            polygon: Polygon or multipolygon of shapely, or a table or vector file of polygons,
                which count as one.
            crs: CRS of a shape, as pyproj understands it; None: that of the regions. Tables and
                files have their own.
            k: Number of regions to find.
            keep_query: Let the regions that it overlaps be found too.

        Returns:
            The regions, see above.

        Raises:
            ConfigError: It has no area, overlaps no region, the CRS cannot be used, or ``k`` is
                not positive.
            DataError: The file cannot be read, no region that it overlaps has an embedding that can
                be used, or their mean is zero.
        """
        polygon, crs = self._as_one(polygon, crs)
        if not isinstance(polygon, BaseGeometry):
            kinds = "a shape of shapely, a GeoDataFrame, or a vector file of polygons"
            raise bad_argument("polygon", polygon, kinds)
        if not polygon.area > 0:
            raise ConfigError(
                "the polygon to search with has no area",
                expected="a polygon or multipolygon",
                found=polygon.geom_type,
                remedy="draw a polygon; by_point (--at) takes a place",
            )
        own = self._regions.to_own_crs(np.array([polygon]), crs, "the polygon to search with")[0]
        if not own.is_valid:
            own = shapely.make_valid(own)
        rows, areas = self._regions.overlapping(own)
        if not len(rows):
            raise ConfigError(
                f"the polygon to search with overlaps no region of {self.source}",
                expected=self._extent(),
                found=_box(own.bounds),
                remedy="check its CRS",
            )
        return self._answer(self._mean(rows, areas), k, rows, keep_query)

    def _as_one(self, polygon: object, crs: object) -> tuple[object, object]:
        """The union of polygons, and their CRS; anything else as it is."""
        if isinstance(polygon, str | os.PathLike):
            polygon = read_vectors(polygon, what="polygons", expected="a vector file of polygons")
        if not isinstance(polygon, geopandas.GeoDataFrame | geopandas.GeoSeries):
            return polygon, crs
        if crs is not None:
            raise ConfigError(
                "crs goes with a shape",
                expected="a shape of shapely, or polygons alone",
                found=f"crs={crs!r} beside a table or a file",
                remedy="leave crs out; set a table's own with set_crs()",
            )
        if getattr(polygon, "active_geometry_name", "geometry") is None:
            raise bad_argument(
                "polygon", polygon, "polygons", "name their column with set_geometry()"
            )
        shapes = polygon.geometry
        if shapes.crs is None and self.crs is not None:
            warn_of_missing_crs("the polygons to search with", "the regions'")
        return shapely.union_all(shapely.make_valid(shapes.to_numpy())), shapes.crs

    def by_vector(self, vector: np.ndarray, k: int = 50) -> geopandas.GeoDataFrame:
        """Find the regions whose embeddings are most similar to a vector.

        Args:
            vector: (D,) real numbers, such as an embedding from another file of the same model.
            k: Number of regions to find.

        Returns:
            The regions, see above.

        Raises:
            ConfigError: The vector has another width, is zero or not finite, or ``k`` is not
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
                remedy="take an embedding of the model that the regions are from",
            )
        vector = numbers
        if not _SHORTEST < np.sqrt((vector * vector).sum()) < _LONGEST:
            raise ConfigError(
                "the vector to search with has no direction",
                expected="finite numbers, not all zero",
                found=vector,
                remedy="take the embedding of a region or of a chip",
            )
        return self._answer(vector, k, np.empty(0, np.int64), keep_query=False)

    # ---------------------------------------------------------------------------------- search
    def _mean(self, rows: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Mean embedding (D,) of regions, those that have none left out."""
        usable = self._usable[rows]
        if not usable.any():
            raise DataError(
                f"{self.source}: no embedding to search with",
                expected="finite numbers, not all zero",
                found=f"null, zero or not finite in region {some(rows)}",
                remedy="search with another region",
            )
        rows, weights = rows[usable], weights[usable] / weights[usable].sum()
        mean, start = np.zeros(self.embed_dims), 0
        for part in self._chunks(rows):
            mean += weights[start : start + len(part)] @ self._embeddings[part].astype(np.float64)
            start += len(part)
        if not np.sqrt((mean * mean).sum()) > _SHORTEST:
            raise DataError(
                f"{self.source}: the mean embedding of the regions has no direction",
                found=f"zero over region {some(rows)}",
                remedy="search with a smaller area",
            )
        return mean

    def _answer(
        self, vector: np.ndarray, k: int, own: np.ndarray, keep_query: bool
    ) -> geopandas.GeoDataFrame:
        """The table of the regions nearest to a vector (D,)."""
        if not is_int(k) or k < 1:
            raise ConfigError(
                "k, the number of regions to find",
                expected="1 or more",
                found=short_repr(k),
                remedy="give the number of regions that are wanted",
            )
        unit = vector / np.sqrt((vector * vector).sum())
        allowed = self._usable.copy()
        if not keep_query:
            allowed[own] = False
        rows = self._candidates(unit, int(k), allowed)
        cosines = self._cosines(unit, rows)
        order = np.lexsort((rows, -cosines))[: int(k)]
        rows, cosines = rows[order], cosines[order]
        found = self._regions.take(rows).with_fields({"similarity": pa.array(cosines)})
        return found.with_fields({"region_id": pa.array(rows)}, first=True).to_geodataframe()

    def _candidates(self, unit: np.ndarray, k: int, allowed: np.ndarray) -> np.ndarray:
        """Rows (M,) among which the k nearest are, M close to k."""
        count = int(allowed.sum())
        if count <= k:
            return np.flatnonzero(allowed)
        wanted = k + int(np.sum(self._usable & ~allowed))  # the graph knows nothing of the query
        if self.approximate and wanted <= len(self) / 10:
            number = min(max(_OVERSAMPLING * wanted, _LEAST_CANDIDATES), len(self._graph))
            self._graph.expansion_search = number
            rows = np.sort(self._graph.search(unit.astype(np.float32), number).keys.astype(np.intp))
            rows = rows[allowed[rows]]
            if len(rows) >= k:
                return rows
        cosines = np.empty(len(self), np.float32)
        query = unit.astype(np.float32)
        with np.errstate(all="ignore"):  # of those that are not allowed
            for rows in self._chunks(np.arange(len(self))):
                part = slice(rows[0], rows[-1] + 1)
                cosines[part] = (self._embeddings[part] @ query) / self._lengths[part]
        cosines[~allowed] = -np.inf
        # Sums in float32 differ with the place of a row. Those that they cannot tell from the
        # k-th are compared in float64, where equal embeddings have equal cosines.
        error = 2 * (self.embed_dims + 4) * np.finfo(np.float32).eps
        minimum = np.partition(cosines, len(self) - k)[len(self) - k] - error
        return np.flatnonzero(allowed & (cosines >= minimum))

    def _cosines(self, unit: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Cosines (M,) float64 of a vector of length 1 with the embeddings of rows."""
        cosines, start = np.empty(len(rows)), 0
        for part in self._chunks(rows):
            vectors = self._embeddings[part].astype(np.float64)
            # Unlike a product of matrices, sums of rows do not depend on the rows around them.
            dots = (vectors * unit).sum(axis=1)
            cosines[start : start + len(part)] = dots / self._lengths[part]
            start += len(part)
        return cosines.clip(-1, 1)

    @cached_property
    def _graph(self):
        """Usearch's index of all embeddings of length 1 by their rows."""
        from usearch.index import Index  # an extra, needed for large files only

        graph = Index(ndim=self.embed_dims, metric="cos", dtype="f16")
        usable = np.flatnonzero(self._usable)
        bar = progress_bar(total=len(usable), desc="building the index", unit="region")
        with bar:
            for rows in self._chunks(usable):
                units = self._embeddings[rows] / self._lengths[rows, np.newaxis]
                graph.add(rows.astype(np.uint64), units.astype(np.float32))
                bar.update(len(rows))
        return graph

    def _chunks(self, rows: np.ndarray):
        return chunks(rows, self.embed_dims)

    def _extent(self) -> str:
        crs = f", {self.crs.to_string()}" if self.crs else ""
        return f"a place in {_box(shapely.total_bounds(self._regions.geometry))}{crs}"


def _box(bounds) -> str:
    left, bottom, right, top = bounds
    return f"x {left:.10g} to {right:.10g}, y {bottom:.10g} to {top:.10g}"
