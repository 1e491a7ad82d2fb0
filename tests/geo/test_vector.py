import warnings

import geopandas
import numpy as np
import pandas as pd
import pyarrow as pa
import pyogrio
import pytest
import shapely
from pyproj import CRS, Geod, Transformer

from hook.errors import DataError, SceneError
from hook.geo.measure import areas_m2
from hook.geo.raster import quiet_open
from hook.geo.vector import (
    DRIVERS,
    check_geojson,
    driver_of,
    is_vector_file,
    read_vectors,
    reproject,
    split_layer,
    table_text,
    to_wgs84,
    vector_batches,
)

BOXES = shapely.box(np.arange(3.0), 0, np.arange(3.0) + 1, 1)


@pytest.fixture
def table():
    fields = {"number": [3, 1, 2], "name": ["a", "b", "c"]}
    return geopandas.GeoDataFrame(fields, geometry=BOXES, crs="EPSG:4326")


@pytest.fixture
def write(tmp_path, table):
    """Write the table in the format of an ending."""

    def written(suffix, **options):
        path = tmp_path / f"table{suffix}"
        if suffix == ".parquet":
            table.to_parquet(path)
        else:
            table.to_file(path, **options)
        return path

    return written


@pytest.mark.parametrize("suffix", [".gpkg", ".geojson", ".fgb", ".shp", ".parquet"])
def test_every_format_is_read(write, table, suffix):
    path = write(suffix)
    assert is_vector_file(path)
    found = read_vectors(path).sort_values("number")
    expected = table.sort_values("number")
    assert found.number.tolist() == [1, 2, 3] and found.crs == table.crs
    # Shapefiles turn the rings.
    assert shapely.equals(found.geometry.to_numpy(), expected.geometry.to_numpy()).all()


def test_a_layer_is_chosen_and_an_absent_one_named(write, table, tmp_path):
    path = write(".gpkg", layer="first")
    table.iloc[:1].to_file(path, layer="second")
    assert len(read_vectors(path, layer="second")) == 1
    assert len(read_vectors(path, layer=0)) == 3
    assert read_vectors(path, layer="first", index_by_id=True).index.tolist() == [1, 2, 3]
    with pytest.raises(DataError, match=r"table\.gpkg cannot be read") as caught:
        read_vectors(path, layer="third")
    assert "third" in str(caught.value.found)


def test_a_second_layer_is_warned_of_unless_one_is_named(write, table, tmp_path):
    path = tmp_path / "town.gpkg"
    plain = table.drop(columns="geometry")
    pyogrio.write_dataframe(plain, path, layer="notes")  # without geometries: not meant
    table.to_file(path, layer="houses")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(read_vectors(path)) == 3
        with vector_batches(path) as found:
            assert found.count == 3
    table.iloc[:1].to_file(path, layer="roads")
    with pytest.warns(UserWarning, match=r"2 layers: houses \(Polygon\), roads") as caught:
        assert len(read_vectors(path)) == 3
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(read_vectors(path, layer="roads")) == 1


LINES = [shapely.LineString([(0, 0), (1, 1)])]
KML = """<kml xmlns="http://www.opengis.net/kml/2.2"><Document><Folder><name>roads</name><Placemark>
<LineString><coordinates>5,45 6,46</coordinates></LineString></Placemark></Folder><Folder><name>
zones</name><Placemark><Polygon><outerBoundaryIs><LinearRing><coordinates>0,0 1,0 1,1 0,0
</coordinates></LinearRing></outerBoundaryIs></Polygon></Placemark></Folder></Document></kml>"""
GPX = """<gpx version="1.1" creator="x" xmlns="http://www.topografix.com/GPX/1/1"><trk><trkseg>
<trkpt lat="45" lon="5"/><trkpt lat="46" lon="6"/></trkseg></trk></gpx>"""


def town(path, table):
    """Write a source of the layers roads (lines) and zones (three polygons)."""
    lines = geopandas.GeoDataFrame(geometry=LINES, crs=table.crs)
    if path.suffix == ".kml":
        path.write_text(KML.replace("<name>\n", "<name>"))
        return path
    for name, layer in (("roads", lines), ("zones", table)):
        if path.suffix:
            driver = "OpenFileGDB" if path.suffix == ".gdb" else "GPKG"
            pyogrio.write_dataframe(layer, path, layer=name, driver=driver)
        else:
            path.mkdir(exist_ok=True)
            layer.to_file(path / f"{name}.shp")
    return path


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of GDAL, writing a File Geodatabase
@pytest.mark.parametrize("name", ["town.gpkg", "town.gdb", "town.kml", "folder"])
def test_a_layer_is_named_as_qgis_does(tmp_path, table, name):
    path = town(tmp_path / name, table)
    number = 1 if name == "town.kml" else 3
    layers = [name for name, _ in pyogrio.list_layers(path)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for choice in ("layername=zones", "LayerName=ZONES", f"layerid={layers.index('zones')}"):
            assert len(read_vectors(f"{path}|{choice}")) == number
            assert is_vector_file(f"{path}|{choice}")
        assert set(read_vectors(f"{path}|layername=roads").geom_type) <= {
            "LineString",
            "MultiLineString",
        }
    for wrong in ("layername=rivers", "layerid=2", "layername=roads|subset=a"):
        with pytest.raises(SceneError, match="cannot be read") as caught:
            read_vectors(f"{path}|{wrong}", error=SceneError)
        assert "roads" in caught.value.expected and "zones" in caught.value.expected
    with pytest.raises(DataError, match="cannot be read"):
        read_vectors(f"{path}|layername=zones", layer="roads")
    assert len(read_vectors(f"{path}|layername=zones", layer="zones")) == number


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("name", ["town.gpkg", "town.gdb", "town.kml", "folder"])
def test_the_only_layer_of_the_wanted_type_is_read_with_a_warning(tmp_path, table, name):
    path = town(tmp_path / name, table)
    with pytest.warns(UserWarning, match="2 layers: .*zones, the only one of polygons, is read"):
        assert "Polygon" in read_vectors(path, geometries=("Polygon",)).geom_type[0]
    with (
        pytest.warns(UserWarning, match="zones, the only one of points or polygons"),
        vector_batches(path, ("Point", "Polygon")) as file,
    ):
        assert file.count == len(read_vectors(f"{path}|layername=zones"))
    first, _ = next(iter(pyogrio.list_layers(path)))
    with pytest.warns(UserWarning, match=f"{first}, the first, is read"):
        read_vectors(path)


def test_layers_of_rasters_tables_and_nothing_are_no_choice(tmp_path, table):
    path = tmp_path / "town.gpkg"
    table.iloc[:0].to_file(path, layer="drafts")
    pyogrio.write_dataframe(table.drop(columns="geometry"), path, layer="notes")
    profile = dict(width=8, height=8, count=1, dtype="uint8", crs="EPSG:4326")
    with quiet_open(
        path, "w", driver="GPKG", RASTER_TABLE="ortho", APPEND_SUBDATASET="YES", **profile
    ) as file:
        file.write(np.ones((1, 8, 8), "uint8"))
    table.to_file(path, layer="zones")
    (tmp_path / "track.gpx").write_text(GPX)  # GPX has five layers, most of them empty
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(read_vectors(path)) == 3
        assert len(read_vectors(f"{path}|layername=drafts")) == 0
        (kind,) = read_vectors(tmp_path / "track.gpx|layername=tracks").geom_type
    assert kind == "MultiLineString"
    with pytest.raises(DataError, match="no geometries"):
        read_vectors(f"{path}|layername=notes")
    with pytest.raises(DataError, match="cannot be read") as caught:
        read_vectors(f"{path}|layername=ortho")
    assert "drafts" in caught.value.expected and "ortho" in caught.value.found


@pytest.mark.parametrize("suffix", [".parquet", ".geojson", ".fgb", ".shp"])
def test_files_of_one_layer_take_its_name(write, suffix):
    path = write(suffix)
    assert len(read_vectors(f"{path}|layername=table")) == 3
    assert split_layer(path) == (str(path), None)
    with pytest.raises(DataError, match="cannot be read") as caught:
        read_vectors(f"{path}|layername=other")
    assert "table" in caught.value.expected
    copy = path.rename(path.with_name(f"a|layername=b{suffix}"))
    assert split_layer(copy) == (str(copy), None)


@pytest.mark.parametrize(
    ("value", "text"),
    [(3.0, "3"), ("3.0", "3"), (" a ", "a"), ("-2.00", "-2"), (0.5, "0.5"), ("v1.0", "v1.0")],
)
def test_values_of_tables_as_text(value, text):
    assert table_text(value) == text


@pytest.mark.parametrize("error", [DataError, SceneError])
@pytest.mark.parametrize("suffix", [".gpkg", ".parquet", ".geojson"])
def test_what_cannot_be_read_is_named(tmp_path, suffix, error):
    options = dict(what="zones", expected="zones of something", error=error)
    with pytest.raises(error, match="zones cannot be read") as caught:
        read_vectors(tmp_path / f"none{suffix}", **options)
    assert caught.value.found == "no such file" and caught.value.expected == "zones of something"
    (tmp_path / f"text{suffix}").write_text("no features")
    with pytest.raises(error, match="cannot be read"):
        read_vectors(tmp_path / f"text{suffix}", **options)


@pytest.mark.parametrize("suffix", [".gpkg", ".parquet"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_coordinates_that_are_no_numbers_are_refused(write, table, suffix, bad):
    table.loc[1, "geometry"] = shapely.Polygon([(0, 0), (bad, 0), (1, 1)])
    table.loc[2, "geometry"] = shapely.Polygon()
    with pytest.raises(SceneError, match=r"table\.\w+: coordinates that are no numbers"):
        read_vectors(write(suffix), error=SceneError)


def test_a_table_without_geometries_is_refused(tmp_path):
    (tmp_path / "bare.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="no geometries") as caught:
        read_vectors(tmp_path / "bare.csv")
    assert "a, b" in caught.value.found
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "bare.parquet")
    with pytest.raises(DataError, match="bare.parquet cannot be read"):
        read_vectors(tmp_path / "bare.parquet")


@pytest.mark.parametrize("suffix", [".gpkg", ".fgb", ".parquet"])
def test_batches_hold_what_the_file_does(write, table, suffix):
    path = write(suffix)
    read = read_vectors(path)
    with vector_batches(path) as file:
        assert file.count == 3 and file.crs == table.crs
        assert file.schema.names == ["number", "name"]
        parts = list(file.batches)
    fields = pa.Table.from_batches([batch for batch, _ in parts]).to_pydict()
    assert fields == {"number": read.number.tolist(), "name": read.name.tolist()}
    geometry = np.concatenate([shapes for _, shapes in parts])
    assert shapely.equals(geometry, read.geometry.to_numpy()).all()


def test_the_ending_says_the_format():
    assert {driver_of(f"a{suffix.upper()}") for suffix in DRIVERS} == set(DRIVERS.values())
    with pytest.raises(SceneError, match="unknown vector format"):
        driver_of("a.txt")


# ------------------------------------------------------------------------------------ other CRSs
def pixel_centres(bounds, target, size=64):
    """Positions in an area of a CRS, and their longitudes and latitudes."""
    x, y = (
        start + (np.arange(size) + 0.5) / size * (stop - start)
        for start, stop in zip(bounds[:2], bounds[2:], strict=True)
    )
    x, y = (part.ravel() for part in np.meshgrid(x, y))
    return x, y, *Transformer.from_crs(target, "OGC:CRS84", always_xy=True).transform(x, y)


UTM_AT_180 = ("EPSG:32660", (7e5, -2e6, 9e5, -18e5))
"""Around 180 degrees: 178.9 to 180.8."""


@pytest.mark.parametrize(
    "box, target, bounds",
    [
        # long edges along a parallel
        ((6, 45, 12, 50), "EPSG:32632", (499e3, 5537e3, 501e3, 554e4)),
        ((5, -45, 25, -40), "EPSG:32733", (49e4, 5565e3, 51e4, 558e4)),
        # a hemisphere, and the whole earth
        ((-180, 0, 180, 90), "EPSG:32632", (4e5, -1e4, 6e5, 1e4)),
        ((-180, -90, 0, 90), "EPSG:3857", (-1e5, 7e6, 1e5, 8e6)),
        ((-180, -90, 180, 90), "EPSG:32632", (4e5, 5e6, 6e5, 51e5)),
        # a pole inside
        ((-180, 80, 180, 90), "EPSG:3413", (-2e6, -2e6, 2e6, 2e6)),
        ((0, 60, 180, 90), "EPSG:3995", (-2e6, -2e6, 2e6, 2e6)),
        ((-180, -90, 180, -80), "EPSG:3031", (-1e6, -2e6, 2e6, 2e6)),
        # across 180 degrees, in three ways of writing it
        ((178, -17.5, 180, -17), *UTM_AT_180),
        ((-180, -17.5, -179.5, -17), *UTM_AT_180),
        ((179.5, -17.5, 180.5, -17), *UTM_AT_180),
        ((-180.5, -17.5, -179.5, -17), *UTM_AT_180),
        ((179.5, -17.5, 180.5, -17), "EPSG:3832", (32e5, -21e5, 35e5, -18e5)),
        # scenes of the whole earth
        ((170, -20, 190, 40), "EPSG:4326", (-180, -90, 180, 90)),
        ((-20, -20, 30, 40), "EPSG:4326", (0, -90, 360, 90)),
        ((-20, -20, 30, 40), "EPSG:4269", (0, -90, 360, 90)),
        ((150, -20, 200, 40), "ESRI:54030", (-17e6, -86e5, 17e6, 86e5)),
        ((-180, 0, 180, 90), "+proj=moll +lon_0=90 +type=crs", (-18e6, -9e6, 18e6, 9e6)),
        # longitudes from 0 to 360
        ((-176, 10, -174, 11), "EPSG:4326", (183, 9, 187, 12)),
        ((184, 10, 186, 11), "EPSG:4326", (-177, 9, -173, 12)),
        ((184, 10, 186, 11), "EPSG:32601", (45e4, 108e4, 7e5, 13e5)),
    ],
)
def test_areas_in_degrees_stay_where_they_were_drawn(box, target, bounds):
    west, south, east, north = box
    (found,) = reproject([shapely.box(*box)], "EPSG:4326", target, bounds, what="area")
    x, y, lon, lat = pixel_centres(bounds, target)
    on_earth = np.isfinite(lon)
    lon = np.where(on_earth, lon, 0)
    wanted = ((lon - west) % 360 <= east - west) & (lat >= south) & (lat <= north)
    inside = shapely.contains_xy(found, x, y)
    assert wanted[on_earth].any()
    near = shapely.boundary(found).distance(shapely.points(x, y)) < 1e-5 * (bounds[2] - bounds[0])
    assert np.array_equal(inside[on_earth & ~near], wanted[on_earth & ~near])
    assert near.mean() < 0.05


@pytest.mark.parametrize(
    "box, source, bounds",
    [
        ((7e5, -2e6, 9e5, -18e5), "EPSG:32660", (170, -30, 190, 0)),
        ((7e5, -2e6, 9e5, -18e5), "EPSG:32660", (-180, -90, 180, 90)),
        ((7e5, -2e6, 9e5, -18e5), "EPSG:32660", (-185, -30, -170, 0)),
        ((-1e6, -1e6, 1e6, 1e6), "EPSG:3413", (0, 50, 360, 90)),
        ((-2e7, 0, 2e7, 1e7), "EPSG:3857", (-180, -90, 180, 90)),
    ],
)
def test_areas_in_metres_on_scenes_in_degrees(box, source, bounds):
    (found,) = reproject([shapely.box(*box)], source, "EPSG:4326", bounds, what="area")
    lon, lat, *_ = pixel_centres(bounds, "EPSG:4326", 200)
    x, y = Transformer.from_crs("EPSG:4326", source, always_xy=True).transform(lon, lat)
    wanted = (x >= box[0]) & (x <= box[2]) & (y >= box[1]) & (y <= box[3])
    inside = shapely.contains_xy(found, lon, lat)
    assert wanted.any() and (inside != wanted).sum() <= 0.002 * wanted.size


def test_what_is_near_keeps_its_vertices():
    shapes = [BOXES[0], None, shapely.Polygon(), BOXES[2]]
    same = reproject(shapes, "EPSG:4326", "OGC:CRS84", (0, 0, 9, 9), what="area")
    assert same[0] == BOXES[0] and same[3] == BOXES[2]
    assert shapely.is_empty(same[1:3]).all()
    assert shapely.is_empty(
        reproject(shapes, "EPSG:4326", "EPSG:4326", (50, 0, 59, 9), what="")
    ).all()
    moved = reproject(BOXES, "EPSG:32631", "EPSG:32631", (50, 0, 59, 9), what="area")
    assert np.array_equal(moved, BOXES)


def test_what_cannot_be_reprojected_is_named():
    local = 'LOCAL_CS["plane",UNIT["metre",1]]'
    for crs, target in ((local, "EPSG:4326"), ("EPSG:4326", local)):
        with pytest.raises(DataError, match="zones: cannot be reprojected to"):
            reproject(BOXES, crs, target, what="zones")
    with pytest.raises(DataError, match="zones: coordinates that are no numbers"):
        reproject([shapely.Point(np.nan, 1)], "EPSG:4326", "EPSG:4326", what="zones")
    with pytest.raises(SceneError, match="a vertex at 1000000000, 0, outside"):
        reproject(
            [shapely.box(0, 0, 1e9, 1)], "ESRI:54030", "EPSG:4326", what="a", error=SceneError
        )


@pytest.mark.parametrize(
    "box, crs",
    [
        ((7e5, -2e6, 9e5, -18e5), "EPSG:32660"),
        ((3e6, -4e6, 4e6, -3e6), "EPSG:3832"),
        ((-1e6, -1e6, 1e6, 1e6), "EPSG:3413"),
        ((-1e6, -1e6, 2e6, 1e6), "EPSG:3031"),
        ((170, 10, 190, 20), "EPSG:4326"),
        ((350, 10, 370, 20), "EPSG:4326"),
        ((200, 10, 210, 20), "EPSG:4269"),
        ((5e5, 5e6, 6e5, 51e5), "EPSG:32632"),
    ],
)
def test_geojson_s_polygons_end_at_180_degrees(box, crs):
    shape = shapely.box(*box) - shapely.box(*np.add(box[:2], 1), *np.add(box[:2], 2))
    step = None if crs in ("EPSG:4326", "EPSG:4269") else 5e3
    (found,) = to_wgs84([shape], crs, step, what="area")
    west, south, east, north = found.bounds
    assert found.is_valid and west >= -180 and east <= 180 and south >= -90 and north <= 90
    if abs(west) == 180 and east == 180 and abs(north) < 89 and abs(south) < 89:
        assert found.geom_type == "MultiPolygon"
    parts = shapely.get_parts(found)
    area = sum(
        abs(Geod(ellps="WGS84").geometry_area_perimeter(shapely.segmentize(part, 0.05))[0])
        for part in parts
    )
    assert area == pytest.approx(areas_m2([shape], CRS(crs), (-1e7, -1e7, 1e7, 1e7))[0], rel=1e-4)


def test_geojson_is_refused_where_there_is_no_earth():
    for crs in (None, 'LOCAL_CS["plane",UNIT["metre",1]]', CRS("IAU_2015:49900")):
        with pytest.raises(SceneError, match="GeoJSON needs coordinates in WGS 84"):
            check_geojson("a.geojson", crs, "a map")
        check_geojson("a.gpkg", crs, "a map")
    check_geojson("a.geojson", CRS("EPSG:32632+5773"), "a map")
