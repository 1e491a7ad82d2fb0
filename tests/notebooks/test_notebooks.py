"""Every notebook runs from top to bottom and has its outputs."""

import re
import shutil
from pathlib import Path

import geopandas
import numpy as np
import pandas as pd
import pytest
import rasterio
from rio_cogeo.cogeo import cog_validate

from hook.geo.styles import read_category_names

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("folium")

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
NAMES = [
    "1_look_and_tokenise",
    "2_train_on_your_data",
    "3_map_a_scene",
    "4_find_similar_regions",
    "5_compare_with_patches",
    "6_multispectral",
    "7_scene_as_codes",
    "8_images_for_a_map",
    "9_a_year_in_codes",
]
SETTINGS = 3  # the cell to change for other data
CLASSES = ["field", "forest", "water", "road", "building"]  # in the order of the demo's mask
LARGEST = 500_000  # bytes of a notebook with its outputs
MACHINE = re.compile(r"(?<![\w.>/])/(home|root|work|Users|tmp|usr|opt|mnt|var|private)/|[A-Z]:\\\\")
EMBEDDED = re.compile(r"data:image/\w+;base64,[A-Za-z0-9+/=]+")


@pytest.fixture(scope="module")
def workplace(tmp_path_factory) -> Path:
    """A copy of the parts that notebooks read, so that a run leaves nothing in the repository.

    All notebooks share it: the first one trains their model.
    """
    folder = tmp_path_factory.mktemp("notebooks")
    for part in ("hook", "configs"):
        (folder / part).symlink_to(ROOT / part)
    for part, files in (
        ("data", ["make_demo_scene.py"]),
        ("notebooks", ["small_model.py"]),
    ):
        (folder / part).mkdir()
        for file in files:
            shutil.copy(ROOT / part / file, folder / part)
    return folder


@pytest.fixture
def run(workplace, monkeypatch):
    """Run a notebook in the workplace; errors in cells are raised."""

    def execute(name: str, settings: str = "") -> str:
        # The kernel inherits the environment: inline figures.
        monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
        # Block downloads with an invalid proxy.
        for proxy in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
            monkeypatch.setenv(proxy, "http://127.0.0.1:9")
        notebook = nbformat.read(ROOT / f"notebooks/{name}.ipynb", as_version=4)
        notebook.cells[SETTINGS].source += f"\n{settings}"
        resources = {"metadata": {"path": workplace}}
        nbclient.NotebookClient(
            notebook, timeout=500, kernel_name="python3", resources=resources
        ).execute()
        assert len(pictures_of(notebook)) >= 2
        return printed_by(notebook)

    return execute


def outputs_of(notebook) -> list:
    return [o for cell in notebook.cells if cell.cell_type == "code" for o in cell.outputs]


def pictures_of(notebook) -> list:
    kinds = {"image/png", "image/jpeg"}
    return [o for o in outputs_of(notebook) if kinds & set(o.get("data", {}))]


def printed_by(notebook) -> str:
    """Printed output, and tables as text."""
    texts = [o.get("text") or o.get("data", {}).get("text/plain", "") for o in outputs_of(notebook)]
    return "\n".join(texts)


def number_after(words: str, printed: str) -> float:
    return float(re.search(re.escape(words) + r"\s*([\d.e+-]+)", printed)[1])


def valid_pixels(workplace: Path) -> int:
    with rasterio.open(workplace / "data/demo/images/scene.tif") as source:
        return int((source.dataset_mask() > 0).sum())


def test_there_is_one_test_for_each():
    assert [path.stem for path in NOTEBOOKS] == NAMES


def test_look_and_tokenise(run):
    printed = run(NAMES[0])
    assert "1536 x 1024 pixels of 1 metre" in printed
    owners = number_after("assignment", printed.replace("(1, ", ""))
    assert 2 <= number_after("\n", printed[printed.index("assignment") :]) <= owners


def test_train_on_your_data(run, workplace):
    from hook.apis import load_model

    printed = run(NAMES[1])
    folder = workplace / "work_dirs/notebooks/model"
    model = load_model((folder / "config.py", folder / "checkpoint.pth"))
    assert set(model.dataset_meta["classes"]) == set(CLASSES)
    # Most pixels of each true class are right, except roofs, which resemble roads.
    for name, place in (("field", 1), ("forest", 2), ("water", 4)):
        shares = re.search(rf"true {name} +([\d. ]+)", printed)[1].split()
        assert float(shares[place]) > 60


def test_map_a_scene(run, workplace):
    run(NAMES[2])
    folder, pixels = workplace / "work_dirs/notebooks", valid_pixels(workplace)
    assert cog_validate(folder / "map.tif", quiet=True)[0]
    with (
        rasterio.open(folder / "map.tif") as land,
        rasterio.open(workplace / "data/demo/images/scene.tif") as scene,
    ):
        assert (land.crs, land.transform, land.shape) == (scene.crs, scene.transform, scene.shape)
        assert np.array_equal(land.read(1) == 255, scene.dataset_mask() == 0)
    polygons = geopandas.read_file(folder / "map.gpkg")
    assert polygons.is_valid.all()
    assert polygons.area.sum() == pytest.approx(pixels, rel=1e-3)  # 1 m2 each
    classes = read_category_names(folder / "map.tif")
    with rasterio.open(workplace / "data/demo/masks/scene.tif") as source:
        truth = source.read(1)
    with rasterio.open(folder / "map.tif") as source:
        drawn = source.read(1)
    names = np.array([*classes, "no data"])[np.minimum(drawn, len(classes))]
    true_names = np.array([*CLASSES, "no data"])[np.minimum(truth, len(CLASSES))]
    assert (names == true_names)[truth != 255].mean() > 0.8
    areas = pd.read_csv(folder / "areas.csv")
    assert areas.zone.nunique() == 6
    assert areas.pixels.sum() == pixels


def test_find_similar_regions(run, workplace):
    printed = run(NAMES[3])
    folder = workplace / "work_dirs/notebooks"
    regions = geopandas.read_parquet(folder / "regions.parquet")
    assert regions.pixels.sum() == valid_pixels(workplace)
    assert regions.area.sum() == pytest.approx(valid_pixels(workplace))
    similar = geopandas.read_file(folder / "similar.gpkg")
    assert len(similar) == 20
    assert similar.similarity.is_monotonic_decreasing
    land = geopandas.read_file(folder / "land.gpkg")
    assert len(land) == len(regions)
    assert set(land.class_name) <= set(CLASSES)
    assert number_after("by vectors", printed) > 60


def test_compare_with_patches(run):
    printed = run(NAMES[4], "steps, seeds = 10, (0,)")  # more in the committed outputs
    for name in ("patch embedding", "HOOK with skip", "skip without tokens", "same time"):
        assert name in printed


def test_multispectral(run, workplace):
    printed = run(NAMES[5])
    assert "\n0 pixels differ" in printed
    assert number_after("noise marked as no data: tokens move by up to", printed) < 1e-5
    assert number_after("noise taken for data: tokens move by up to", printed) > 1e-2
    assert "no band named 'nir'" in printed
    assert "its pixels blank: 0 pixels of the map differ" in printed
    assert "cloud masked: 100% of it has no class" in printed
    with rasterio.open(workplace / "work_dirs/notebooks/with_ndvi.tif") as source:
        assert source.descriptions[-1] == "ndvi"
        ndvi = source.read(source.count)
    assert np.isfinite(ndvi).sum() == valid_pixels(workplace)
    assert np.nanmax(np.abs(ndvi)) <= 1


def test_scene_as_codes(run, workplace):
    pytest.importorskip("constriction")
    printed = run(NAMES[6])
    assert "\n0 pixels differ in validity" in printed and "0 values differ" in printed
    folder = workplace / "work_dirs/notebooks"
    assert cog_validate(folder / "codes.tif", quiet=True)[0]
    with (
        rasterio.open(folder / "decoded.tif") as decoded,
        rasterio.open(workplace / "data/demo/images/scene.tif") as scene,
    ):
        # The bands of the scene are blue, green and red. Their means would have larger errors.
        before, after = scene.read([3, 2, 1]).astype(float), decoded.read()
        valid = scene.dataset_mask() > 0
        error = np.sqrt(np.square(after - before)[:, valid].mean(axis=1))
        assert np.all(error < 0.7 * before[:, valid].std(axis=1))
        assert np.array_equal(decoded.dataset_mask() > 0, valid)


def test_images_for_a_map(run, workplace):
    printed = run(NAMES[7], "steps, part = 20, (384, 1184, 192)")  # more in the committed outputs
    assert 0 < number_after("bits of a code of the test tiles:", printed) < 10
    assert "at seams of windows" in printed and "not an observation" in printed
    folder = workplace / "work_dirs/notebooks/generator"
    with (
        rasterio.open(folder / "wanted-generated-0-0000.tif") as image,
        rasterio.open(folder / "wanted.tif") as wanted,
    ):
        assert (image.crs, image.transform, image.shape) == (
            wanted.crs,
            wanted.transform,
            (192, 192),
        )
        assert image.tags()["GENERATED"] == "YES" and image.read().std() > 10


def test_a_year_in_codes(run, workplace):
    printed = run(NAMES[8], "steps = 20")  # more in the committed outputs
    assert "\n0 pixels differ in validity" in printed
    assert number_after("filled by the model", printed) > 0
    with (
        rasterio.open(workplace / "data/demo/series.tif") as series,
        rasterio.open(workplace / "work_dirs/notebooks/series/decoded.tif") as decoded,
    ):
        assert decoded.descriptions == series.descriptions and decoded.crs == series.crs
        assert np.array_equal(decoded.read() == 0, (series.read() == 0))


@pytest.fixture(scope="module")
def other_scene(workplace) -> Path:
    """A different scene: aerial RGB as JPEG, without band names and nodata value."""
    blocks = np.random.default_rng(0).integers(40, 220, (3, 25, 30)).astype(np.uint8)
    values = np.kron(blocks, np.ones((12, 12), np.uint8))
    profile = dict(driver="GTiff", count=3, height=300, width=360, dtype="uint8", tiled=True)
    profile |= dict(crs="EPSG:3857", compress="jpeg", photometric="ycbcr", interleave="pixel")
    grid = rasterio.Affine(0.15, 0, 9_520_000, 0, -0.15, 3_202_700)
    (workplace / "other").mkdir()
    path = workplace / "other/scene.tif"
    with rasterio.open(path, "w", transform=grid, **profile) as sink:
        sink.write(values)
    return path


@pytest.mark.parametrize(
    ("number", "settings"),
    [
        (1, "row, column, one, other = 200, 300, 'green', 'red'"),
        (3, "min_area, basemap = 2, 'OpenStreetMap'"),
        (4, "at, cut, truth = (9520010, 3202680), dict(window=128), None"),
        (6, "nir, chip_at = 'red', (10, 10)"),
        (7, "bands, scale, part_at = [1, 2, 3], 1, (20, 40)"),
    ],
)
def test_one_cell_is_changed_for_other_data(run, workplace, other_scene, number, settings):
    name = NAMES[number - 1]
    folder = f"work_dirs/other_{number}"
    settings += f"\nscene, folder = 'other/scene.tif', Path('{folder}')"
    settings += "\npublished = 'hook-fast-tiny_banepa-buildings'"
    if number == 7:
        pytest.importorskip("constriction")
    if number == 4:
        places = [(9520003, 3202697), (9520050, 3202697), (9520003, 3202658), (9520050, 3202658)]
        clicked = [(*place, "ab"[k % 2]) for k, place in enumerate(places)]
        settings += f"\nten_labels = {clicked}"
    printed = run(name, settings)
    made = workplace / folder
    if number == 1:
        assert "3 bands: band 1, band 2, band 3, uint8" in printed
    elif number == 3:
        with rasterio.open(made / "map.tif") as land:
            assert land.shape == (300, 360) and land.crs == "EPSG:3857"
        assert set(geopandas.read_file(made / "map.gpkg").class_name) <= {"background", "building"}
    elif number == 4:
        regions = geopandas.read_parquet(made / "regions.parquet")
        assert regions.pixels.sum() == 300 * 360
        assert set(geopandas.read_file(made / "land.gpkg").class_name) <= {"a", "b"}
    elif number == 7:
        assert "0 pixels differ in validity" in printed and "0 values differ" in printed
    else:
        assert "\n0 pixels differ" in printed
        assert "no band named 'blue'" in printed
        assert number_after("noise marked as no data: tokens move by up to", printed) < 1e-5


def test_masks_do_in_place_of_polygons(run, workplace):
    settings = "labels, label, palette = 'data/demo/masks', None, None\n"
    run(NAMES[1], settings + "epochs, folder = 1, Path('work_dirs/masks')")
    assert (workplace / "work_dirs/masks/model/checkpoint.pth").is_file()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_committed_with_its_outputs(path):
    assert path.stat().st_size < LARGEST
    notebook = nbformat.read(path, as_version=4)
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))  # run once, from top to bottom
    assert len(pictures_of(notebook)) >= 2
    for output in outputs_of(notebook):
        assert output.output_type != "error"
        assert output.get("name") != "stderr"
    title = notebook.cells[0]
    assert title.cell_type == "markdown" and title.source.startswith("# ")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_holds_no_path_of_a_machine(path):
    notebook = nbformat.read(path, as_version=4)
    texts = [cell.source for cell in notebook.cells]
    for output in outputs_of(notebook):
        texts.append(output.get("text", ""))
        texts += [v for k, v in output.get("data", {}).items() if not k.startswith("image/")]
    for text in texts:
        found = MACHINE.search(EMBEDDED.sub("", text))
        assert found is None, text[max(0, found.start() - 60) : found.end() + 60]


def test_tool_that_keeps_outputs_makes_them_small(load_tool, tmp_path):
    tool = load_tool("misc/execute_notebooks.py")
    figure = "import matplotlib.pyplot as plt; plt.plot([1, 2]); plt.show()"
    noise = "import sys; print('words'); print('noise', file=sys.stderr); print('more')"
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(figure), nbformat.v4.new_code_cell(noise)]
    )
    path = tmp_path / "small.ipynb"
    nbformat.write(notebook, path)
    executed = tool.execute(path, timeout=100)
    before = len(pictures_of(executed)[0].data["image/png"])
    tool.shrink(executed)
    [picture] = pictures_of(executed)
    [kept] = [kind for kind in picture.data if kind.startswith("image/")]
    assert len(picture.data[kept]) < before
    assert [o.text for o in executed.cells[1].outputs] == ["words\nmore\n"]


def test_tool_refuses_what_should_not_be_committed(load_tool):
    from hook.errors import ConfigError

    tool = load_tool("misc/execute_notebooks.py")
    with pytest.raises(ConfigError, match="too large"):
        tool.check("x" * 2000, Path("a.ipynb"), max_kb=1)
    with pytest.raises(ConfigError, match="a path of this machine"):
        tool.check(f"see {ROOT}/data", Path("a.ipynb"), max_kb=1)
