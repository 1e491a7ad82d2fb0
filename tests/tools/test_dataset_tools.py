"""The prepare scripts on tiny downloads in the original layouts, and their lists."""

import hashlib
import importlib
import json
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import rasterio
from PIL import Image

from hook.datasets import GeoTIFFFolder, TorchGeoClassification, TorchGeoSegmentation
from hook.datasets.named import GID5, NWPURESISC45, WHURS19, EuroSATRGB, NaSCTG2
from hook.errors import ConfigError, DataError

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


@pytest.fixture
def tool(repo, monkeypatch):
    """Import a script of tools/dataset_tools by name."""
    monkeypatch.syspath_prepend(str(repo / "tools" / "dataset_tools"))
    return importlib.import_module


def write_classes(folder, names, images, side=8, suffix=".jpg"):
    rng = np.random.default_rng(0)
    for name in names:
        (folder / name).mkdir(parents=True)
        for number in range(1, images + 1):
            image = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
            Image.fromarray(image).save(folder / name / f"{name}_{number:03d}{suffix}")


def write_image(path, array):
    """Write a (C, H, W) array as plain TIFF."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        count=array.shape[0],
        height=array.shape[1],
        width=array.shape[2],
        dtype="uint8",
    ) as dst:
        dst.write(array)


def zip_folder(folder, path):
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, file.relative_to(folder.parent))
    return path


def read_list(path):
    return path.read_text().split()


class TestDraw:
    def test_sizes_of_the_paper(self, tool):
        names = {
            name: [f"{name}/{name}_{number:03d}.jpg" for number in range(1, 701)]
            for name in NWPURESISC45.class_names
        }
        train, test = tool("preparing").draw_split(names, 6300)
        assert len(train) == 6300 and len(test) == 25200
        assert not set(train) & set(test)
        counts = {name: sum(file.startswith(f"{name}/") for file in train) for name in names}
        assert set(counts.values()) == {140}
        # The draw must not change: published results depend on it.
        digest = hashlib.sha256("\n".join(train).encode()).hexdigest()
        assert digest == NWPU_TRAIN_SHA256

    def test_seed_and_order(self, tool):
        draw = tool("preparing").draw_split
        names = {"a": [f"a/{i}" for i in range(20)], "b": [f"b/{i}" for i in range(10)]}
        backwards = {key: value[::-1] for key, value in reversed(names.items())}
        assert draw(names, 9, seed=1) == draw(backwards, 9, seed=1)
        assert draw(names, 9, seed=1) != draw(names, 9, seed=2)
        train, test = draw(names, 9, 6)
        assert [sum(name.startswith(key) for name in train) for key in "ab"] == [6, 3]
        assert len(test) == 6 and not set(train) & set(test)

    def test_share(self, tool):
        names = {"a": [f"a/{i}" for i in range(51)], "b": [f"b/{i}" for i in range(60)]}
        train, test = tool("preparing").draw_split(names, 0.5)
        assert len(train) == 26 + 30 and len(test) == 25 + 30

    def test_too_many(self, tool):
        draw = tool("preparing").draw_split
        with pytest.raises(ConfigError, match="cannot be drawn"):
            draw({"a": ["a/1"]}, 2)
        with pytest.raises(ConfigError, match="too small"):
            draw({"a": ["a/1", "a/2"]}, 0.5, 0.9)

    def test_make_splits(self, tool, tmp_path, capsys):
        write_classes(tmp_path / "set", ("x", "y"), 4)
        tool("make_splits").main(
            [str(tmp_path / "set"), "--name", "mine", "--train", "0.25", "--seed", "5"]
        )
        train = read_list(tmp_path / "splits" / "mine_train_hook_seed5.txt")
        test = read_list(tmp_path / "splits" / "mine_test_hook_seed5.txt")
        assert len(train) == 2 and len(test) == 6
        assert sorted(train + test) == sorted(
            f"{name}/{name}_{number:03d}.jpg" for name in "xy" for number in range(1, 5)
        )
        assert "mine_train_hook_seed5.txt: 2 files" in capsys.readouterr().out

    @pytest.mark.parametrize("text", ["-3", "0", "1.5", "many"])
    def test_bad_amount(self, tool, tmp_path, text):
        with pytest.raises(SystemExit) as caught:
            tool("make_splits").main([str(tmp_path), "--name", "a", "--train", text])
        assert caught.value.code == 2

    def test_missing_folder_from_the_command_line(self, repo, tmp_path):
        done = subprocess.run(
            [
                sys.executable,
                str(repo / "tools/dataset_tools/make_splits.py"),
                str(tmp_path / "none"),
                "--name=a",
                "--train=3",
            ],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 1 and "does not exist" in done.stderr
        assert "Traceback" not in done.stderr


NWPU_TRAIN_SHA256 = "7306101f41e51136e2d6e8927b66dd991a29153f82d2e778acd61b6323d9e31a"


class TestClassFolders:
    @pytest.mark.parametrize(
        ("script", "cls", "inside", "suffix"),
        [
            ("prepare_nwpu_resisc45", NWPURESISC45, "NWPU-RESISC45", ".jpg"),
            ("prepare_whu_rs19", WHURS19, "WHU-RS19/RSDataset", ".jpg"),
            ("prepare_nasc_tg2", NaSCTG2, "NaSC-TG2/RGB", ".png"),
        ],
    )
    def test_prepare(self, tool, tmp_path, monkeypatch, script, cls, inside, suffix):
        download = tmp_path / "download" / inside
        write_classes(download, cls.class_names, 2, suffix=suffix)
        module = tool(script)
        # The paper's sizes need the complete download: use half of the replica.
        prepare = tool("preparing").prepare_class_folders
        monkeypatch.setattr(
            tool("preparing"),
            "prepare_class_folders",
            lambda *args, **options: prepare(*args, **{**options, "train": 0.5}),
        )
        archive = zip_folder(tmp_path / "download", tmp_path / "download.zip")
        name = script.removeprefix("prepare_")
        for source, out in ((archive, "from_zip"), (tmp_path / "download", "from_folder")):
            module.main([str(source), str(tmp_path / out)])
            sizes = []
            for split in ("train", "test"):
                dataset = TorchGeoClassification(
                    cls.__name__,
                    data_root=str(tmp_path / out),
                    split_list=f"splits/{name}_{split}_hook_seed0.txt",
                    dtype="uint8",
                )
                sizes.append(len(dataset))
                sample = dataset.load_sample(len(dataset) - 1)
                original = download / "/".join(sample["img_path"].split("/")[-2:])
                np.testing.assert_array_equal(sample["img"], np.asarray(Image.open(original)))
                assert cls.class_names[sample["gt_label"]] == original.parent.name
            assert sizes == [len(cls.class_names)] * 2
        assert read_list(
            tmp_path / "from_zip/splits" / f"{name}_train_hook_seed0.txt"
        ) == read_list(tmp_path / "from_folder/splits" / f"{name}_train_hook_seed0.txt")

    def test_incomplete_download(self, tool, tmp_path, capsys):
        write_classes(tmp_path / "d", WHURS19.class_names[:-1], 1)
        with pytest.raises(SystemExit) as caught:
            tool("prepare_whu_rs19").main([str(tmp_path / "d"), str(tmp_path / "out")])
        assert caught.value.code == 1 and "missing: Viaduct" in capsys.readouterr().err
        assert not (tmp_path / "out").exists()

    def test_other_spelling(self, tool, tmp_path):
        names = [name.replace("angular", "angle") for name in NaSCTG2.class_names]
        write_classes(tmp_path / "d", names, 1)
        tool("preparing").prepare_class_folders(
            tmp_path / "d",
            tmp_path / "out",
            directory="NaSC-TG2",
            name="n",
            class_names=NaSCTG2.class_names,
            train=5,
            aliases=NaSCTG2.aliases,
        )
        assert len(NaSCTG2(tmp_path / "out")) == 10

    @pytest.mark.parametrize("kind", ["missing", "rar", "damaged"])
    def test_bad_archives(self, tool, tmp_path, kind):
        path = tmp_path / "download.zip"
        if kind == "rar":
            path.write_bytes(b"Rar!\x1a\x07\x01\x00" + bytes(100))
        elif kind == "damaged":
            write_classes(tmp_path / "d", ("a",), 3, side=64)
            zip_folder(tmp_path / "d", path)
            content = bytearray(path.read_bytes())
            content[200:400] = bytes(200)
            path.write_bytes(bytes(content))
        with pytest.raises(DataError, match="does not exist|not a zip archive|cannot be unpacked"):
            with tool("preparing").opened_source(path):
                pytest.fail("opened a broken archive")


class TestEuroSAT:
    def test_committed_lists(self, tool, repo):
        folder = repo / "configs/_base_/splits/eurosat"
        lists = {
            path.stem: tool("prepare_eurosat").read_compact_list(path)
            for path in folder.glob("*.txt")
        }
        sizes = {name: len(names) for name, names in lists.items()}
        assert sizes == {
            "eurosat_rgb_train": 1200,
            "eurosat_rgb_val": 400,
            "eurosat_rgb_test": 400,
            "eurosat_rgb_15k_train": 12000,
            "eurosat_rgb_15k_test": 3000,
            "eurosat_ms_train": 86,
            "eurosat_ms_val": 29,
            "eurosat_ms_test": 35,
        }
        sets = {name: set(names) for name, names in lists.items()}
        assert all(len(sets[name]) == size for name, size in sizes.items())
        assert not sets["eurosat_rgb_15k_train"] & sets["eurosat_rgb_15k_test"]
        assert sets["eurosat_rgb_train"] | sets["eurosat_rgb_val"] <= sets["eurosat_rgb_15k_train"]
        assert sets["eurosat_rgb_test"] <= sets["eurosat_rgb_15k_test"]
        assert not sets["eurosat_rgb_train"] & sets["eurosat_rgb_val"]
        for part, names in lists.items():
            counts = np.unique([name.split("/")[0] for name in names], return_counts=True)
            assert tuple(counts[0]) == EuroSATRGB.class_names
            assert len(set(counts[1])) == 1 or part.startswith("eurosat_ms")

    def test_lists_are_those_of_the_lot(self, tool, repo, shared_data):
        lot = shared_data / "classification"
        if not (lot / "eurosat_rgb_15k.zip").is_file():
            pytest.skip("no EuroSAT lots")
        read = tool("prepare_eurosat").read_compact_list
        folder = repo / "configs/_base_/splits/eurosat"
        for split in ("train", "val", "test"):
            assert read(folder / f"eurosat_rgb_{split}.txt") == read_list(
                lot / "eurosat_rgb/splits" / f"{split}.txt"
            )
        with zipfile.ZipFile(lot / "eurosat_rgb_15k.zip") as archive:
            for split in ("train", "test"):
                text = archive.read(f"eurosat_rgb_15k/splits/{split}.txt").decode()
                assert read(folder / f"eurosat_rgb_15k_{split}.txt") == text.split()

    def test_large_lot_has_a_list_without_validation_images(self, tool, tmp_path, repo):
        module = tool("prepare_eurosat")
        for split in ("train", "test"):
            for name in module.read_split("eurosat_rgb_15k", split):
                path = tmp_path / "EuroSAT_RGB" / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
        module.main([str(tmp_path / "EuroSAT_RGB"), str(tmp_path / "data")])
        folder = tmp_path / "data"
        names = read_list(folder / "eurosat_rgb_15k/splits/train_without_val.txt")
        val = set(read_list(folder / "eurosat_rgb/splits/val.txt"))
        assert len(names) == 11600 and len(val) == 400 and not val & set(names)
        train = set(read_list(folder / "eurosat_rgb_15k/splits/train.txt"))
        assert train == val | set(names)

    def test_rebuilds_the_small_lot(self, tool, tmp_path, capsys, repo):
        module = tool("prepare_eurosat")
        folder = repo / "configs/_base_/splits/eurosat"
        for split in ("train", "val", "test"):
            for name in module.read_compact_list(folder / f"eurosat_rgb_{split}.txt"):
                path = tmp_path / "EuroSAT_RGB" / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(name.encode())
        (tmp_path / "EuroSAT_RGB/Forest/Forest_99999.jpg").write_bytes(b"not in any list")
        module.main([str(tmp_path / "EuroSAT_RGB"), str(tmp_path / "data")])
        out = capsys.readouterr().out
        assert "1200 train, 400 val, 400 test" in out and "eurosat_rgb_15k skipped" in out
        assert not (tmp_path / "data/eurosat_rgb_15k").exists()
        written = list((tmp_path / "data/eurosat_rgb").glob("*/*.jpg"))
        assert len(written) == 2000
        for path in written[:50]:
            assert path.read_text() == f"{path.parent.name}/{path.name}"
        names = read_list(tmp_path / "data/eurosat_rgb/splits/train.txt")
        assert names == module.read_compact_list(folder / "eurosat_rgb_train.txt")
        assert read_list(tmp_path / "data/eurosat_rgb/classes.txt") == list(EuroSATRGB.class_names)

    def test_another_download(self, tool, tmp_path):
        write_classes(tmp_path / "d", ("Forest",), 2)
        with pytest.raises(DataError, match="is not EuroSAT RGB"):
            tool("prepare_eurosat").prepare_rgb(tmp_path / "d", tmp_path / "data")

    def test_all_bands(self, tool, tmp_path):
        rng = np.random.default_rng(0)
        names = [f"{name}_{number}" for name in EuroSATRGB.class_names for number in (1, 2)]
        for name in names:
            path = tmp_path / "EuroSATallBands" / name.rsplit("_")[0] / f"{name}.tif"
            write_image(path, rng.integers(0, 256, (13, 8, 8), dtype=np.uint8))
        with pytest.raises(DataError, match=r"eurosat-train.txt.* missing"):
            tool("prepare_eurosat").prepare_all_bands(
                tmp_path / "EuroSATallBands", tmp_path / "data"
            )
        for split in ("train", "val", "test"):
            text = "\n".join(f"{name}.jpg" for name in names)
            (tmp_path / f"eurosat-{split}.txt").write_text(text)
        tool("prepare_eurosat").main([str(tmp_path / "EuroSATallBands"), str(tmp_path / "data")])
        dataset = TorchGeoClassification("EuroSAT", data_root=str(tmp_path / "data/eurosat"))
        assert len(dataset) == 20 and dataset.load_sample(5)["img"].shape == (8, 8, 13)
        with pytest.raises(DataError, match=r"150 GeoTIFFs.*\n.*\d+ missing"):
            tool("prepare_eurosat").prepare_all_bands(
                tmp_path / "EuroSATallBands", tmp_path / "data", small=True
            )

    def test_the_small_lot_of_all_bands(self, tool, shared_data, tmp_path):
        lot = shared_data / "multiband" / "eurosat_ms_small"
        tool("prepare_eurosat").main([str(lot), str(tmp_path), "--small"])
        for split, size in (("train", 86), ("val", 29), ("test", 35)):
            names = (tmp_path / "eurosat_ms" / f"eurosat-{split}.txt").read_text().split()
            listed = read_list(lot / "splits" / f"{split}.txt")
            assert sorted(names) == sorted(name.split("/")[1] for name in listed)
            root, args = str(tmp_path / "eurosat_ms"), dict(split=split)
            dataset = TorchGeoClassification("EuroSAT", data_root=root, dataset_args=args)
            assert len(dataset) == size


def gid_download(folder, scenes=4, height=70, width=100):
    """The official layout: colour masks of random blocks, one scene partly unlabelled."""
    rng = np.random.default_rng(0)
    colours = np.array([(0, 0, 0), *GID5.palette], dtype=np.uint8)
    labels = {}
    for number in range(scenes):
        name = f"GF2_PMS1__L1A000{number}-MSS1"
        label = rng.integers(0, 6, (height, width))
        label[:32, :32] = 0  # a tile without any label
        labels[name] = label
        image = rng.integers(0, 256, (3, height, width), dtype=np.uint8)
        write_image(folder / "image_RGB" / f"{name}.tif", image)
        write_image(
            folder / "label_5classes" / f"{name}_label.tif", colours[label].transpose(2, 0, 1)
        )
    return labels


class TestGID5:
    def test_tiles(self, tool, tmp_path):
        source, out = tmp_path / "GID", tmp_path / "gid5"
        labels = gid_download(source)
        arguments = [str(source), str(out), "--train", "6", "--test", "7", "--size", "32"]
        tool("prepare_gid5").main(arguments)
        scenes = {}
        for split, count in (("train", 6), ("test", 7)):
            dataset = TorchGeoSegmentation("GID5", dict(split=split), data_root=str(out))
            assert len(dataset) == count
            scenes[split] = set()
            for index in range(count):
                sample = dataset.load_sample(index)
                stem = sample["img_path"].split("/")[-1].removesuffix(".png")
                name, row, column = stem.rsplit("_", 2)
                row, column = int(row), int(column)
                assert row % 32 == column % 32 == 0 and (row, column) != (0, 0)
                window = np.s_[row : row + 32, column : column + 32]
                stored = labels[name][window]
                expected = np.where(stored == 0, 255, stored - 1)
                np.testing.assert_array_equal(sample["gt_seg_map"], expected)
                with rasterio.open(source / "image_RGB" / f"{name}.tif") as src:
                    image = src.read()[:, window[0], window[1]]
                np.testing.assert_array_equal(sample["img"], image.transpose(1, 2, 0))
                scenes[split].add(name)
            names = read_list(out / "splits" / f"gid5_{split}_hook_seed0.txt")
            assert len(names) == count and all((out / name).is_file() for name in names)
        assert not scenes["train"] & scenes["test"]

    def test_fewer_tiles_than_asked_for(self, tool, tmp_path, capsys):
        gid_download(tmp_path / "GID", scenes=2)
        tool("prepare_gid5").main(
            [str(tmp_path / "GID"), str(tmp_path / "out"), "--size", "32", "--test", "2"]
        )
        # 2 x 3 tiles per scene, one without labels.
        assert "5 tiles (2000 requested" in capsys.readouterr().out

    def test_index_masks(self, tool, tmp_path):
        labels = gid_download(tmp_path / "GID", scenes=2)
        for name, label in labels.items():
            path = tmp_path / "GID/label_5classes" / f"{name}_label.tif"
            write_image(path, label[None].astype(np.uint8))
        counts = (
            tool("prepare_gid5").GID5Tiles().prepare(tmp_path / "GID", tmp_path / "o", 2, 2, 32)
        )
        assert counts == {"train": 2, "test": 2}

    def test_strange_colour(self, tool, tmp_path):
        labels = gid_download(tmp_path / "GID", scenes=2)
        name = next(iter(labels))
        strange = np.full((3, 70, 100), 77, dtype=np.uint8)
        write_image(tmp_path / "GID/label_5classes" / f"{name}_label.tif", strange)
        with pytest.raises(DataError, match=r"without a class[\s\S]*77, 77, 77"):
            tool("prepare_gid5").GID5Tiles().prepare(tmp_path / "GID", tmp_path / "o", 9, 9, 32)

    def test_pairs(self, tool, tmp_path):
        labels = gid_download(tmp_path / "GID", scenes=2)
        prepare = tool("prepare_gid5").GID5Tiles().prepare
        name = next(iter(labels))
        mask = tmp_path / "GID/label_5classes" / f"{name}_label.tif"
        write_image(mask, np.zeros((3, 70, 99), dtype=np.uint8))
        with pytest.raises(DataError, match="does not fit"):
            prepare(tmp_path / "GID", tmp_path / "o", 2, 2, 32)
        mask.write_bytes(mask.read_bytes()[:60])
        with pytest.raises(DataError, match="cannot be read"):
            prepare(tmp_path / "GID", tmp_path / "o", 2, 2, 32)
        mask.unlink()
        with pytest.raises(DataError, match="has no mask"):
            prepare(tmp_path / "GID", tmp_path / "o", 2, 2, 32)
        with pytest.raises(DataError, match="not the official"):
            prepare(tmp_path / "o", tmp_path / "p", 2, 2, 32)


def test_deepglobe(tool, tmp_path):
    module = tool("prepare_deepglobe_land_cover")
    rng = np.random.default_rng(0)
    colours = np.array(module.COLOURS, dtype=np.int64)
    labels = {}
    for number in (119, 855, 6399):
        label = np.kron(rng.integers(0, 7, (5, 7)), np.ones((16, 16), int))
        labels[str(number)] = label
        # Slightly wrong colours, as in the download.
        mask = (colours[label] + rng.integers(-9, 10, (*label.shape, 3))).clip(0, 255)
        image = np.kron(rng.integers(0, 256, (5, 7, 3)), np.ones((16, 16, 1)))
        folder = tmp_path / "archive" / "train"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.astype(np.uint8)).save(folder / f"{number}_sat.jpg", quality=95)
        Image.fromarray(mask.astype(np.uint8)).save(folder / f"{number}_mask.png")
    (tmp_path / "archive/valid").mkdir()
    Image.new("RGB", (80, 80)).save(tmp_path / "archive/valid/7_sat.jpg")
    out = tmp_path / "deepglobe"
    archive = zip_folder(tmp_path / "archive", tmp_path / "archive.zip")
    module.main([str(archive), str(out), "--train", "4", "--test", "5", "--size", "32"])
    for split, count in (("train", 4), ("test", 5)):
        dataset = TorchGeoSegmentation(
            "DeepGlobeLandCover", dict(split=split), data_root=str(out), label_map={6: 255}
        )
        assert len(dataset) == count and len(dataset.metainfo["classes"]) == 6
        for index in range(count):
            sample = dataset.load_sample(index)
            stem = sample["img_path"].split("/")[-1].removesuffix("_sat.jpg")
            name, row, column = stem.split("_")
            row, column = int(row), int(column)
            window = np.s_[row : row + 32, column : column + 32]
            expected = np.where(labels[name][window] == 6, 255, labels[name][window])
            np.testing.assert_array_equal(sample["gt_seg_map"], expected)
            original = np.asarray(Image.open(tmp_path / f"archive/train/{name}_sat.jpg"))[window]
            # Another JPEG compression at quality 100 changes values by rounding only.
            assert np.abs(original.astype(int) - sample["img"].astype(int)).max() <= 4
    with pytest.raises(DataError, match="not the DeepGlobe"):
        module.DeepGlobeTiles().prepare(tmp_path / "archive/valid", tmp_path / "o")


class TestBanepa:
    def test_grid_of_a_tile(self, tool):
        import torchgeo  # noqa: F401 - brings pyproj
        from pyproj import Transformer

        transform = tool("prepare_banepa").tile_transform("OAM-386694-220241-19", 512, 512)
        # Web mercator tiles in metres, by pyproj.
        half = 20037508.342789244
        side = 2 * half / 2**19
        to_degrees = Transformer.from_crs(3857, 4326, always_xy=True)
        for column, row in ((0, 0), (512, 512)):
            x = -half + side * (386694 + column / 512)
            y = half - side * (220241 + row / 512)
            np.testing.assert_allclose(
                transform * (column, row), to_degrees.transform(x, y), rtol=0, atol=1e-11
            )
        with pytest.raises(DataError, match="OAM-<x>-<y>-<z>"):
            tool("prepare_banepa").tile_transform("chip_7", 512, 512)

    def test_masks_are_those_of_the_lot(self, tool, tmp_path, shared_data):
        lot = shared_data / "segmentation/banepa_buildings"
        if not lot.is_dir():
            pytest.skip("no Banepa chips")
        counts = tool("prepare_banepa").prepare_banepa(lot, tmp_path)
        assert counts == {"train": 32, "val": 8, "test": 8, "unlabelled": 16}
        masks = sorted((lot / "masks").glob("*.tif"))
        assert len(masks) == 48
        for theirs in masks:
            with rasterio.open(theirs) as a, rasterio.open(tmp_path / "masks" / theirs.name) as b:
                np.testing.assert_array_equal(b.read(), a.read())
                assert a.transform == b.transform and a.crs == b.crs
                grid = b.transform
            with rasterio.open(tmp_path / "images" / theirs.name) as ours:
                with rasterio.open(lot / "images" / theirs.name) as original:
                    np.testing.assert_array_equal(ours.read(), original.read())
                assert ours.crs.to_epsg() == 4326 and ours.transform == grid
        for split in ("train", "val", "test"):
            assert read_list(tmp_path / "splits" / f"{split}.txt") == read_list(
                lot / "splits" / f"{split}.txt"
            )
        dataset = GeoTIFFFolder(
            images=str(tmp_path / "images"),
            masks=str(tmp_path / "masks"),
            metainfo=dict(classes=("background", "building")),
            chip_size=256,
        )
        assert len(dataset) == 48 * 4
        with rasterio.open(tmp_path / "scene.tif") as ours:
            assert ours.shape == (4096, 3072) and ours.crs.to_epsg() == 3857
            values = ours.read().astype(int)
            grid = ours.transform
        scene = shared_data / "scenes/banepa_rgb_3857.tif"
        if scene.is_file():  # the same mosaic from a different JPEG encoder
            with rasterio.open(scene) as theirs:
                assert grid.almost_equals(theirs.transform, 1e-6)
                assert abs(values - theirs.read()).mean() < 1

    def clone(self, folder, repo):
        """The required files of a clone: 64 grey chips and one building per labelled tile."""
        from rasterio.transform import xy

        module = importlib.import_module("prepare_banepa")
        features = []
        for split in ("train", "val", "test"):
            for name in read_list(repo / f"configs/_base_/splits/banepa/{split}.txt"):
                path = folder / "data/sample/train/oam" / f"{name}.tif"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (16, 16), (90, 90, 90)).save(path, format="JPEG")
                grid = module.tile_transform(name, 16, 16)
                corners = [(2, 3), (2, 7), (6, 7), (6, 3), (2, 3)]
                ring = [
                    [float(v) for v in xy(grid, row, column, offset="ul")]
                    for row, column in corners
                ]
                features.append(
                    {
                        "type": "Feature",
                        "properties": {},
                        "geometry": {"type": "Polygon", "coordinates": [ring]},
                    }
                )
        path = folder / "data/sample/train/osm/osm_features_0.geojson"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
        return folder

    def test_from_a_clone(self, tool, tmp_path, repo):
        module = tool("prepare_banepa")
        clone = self.clone(tmp_path / "clone", repo)
        module.main([str(clone), str(tmp_path / "out")])
        with rasterio.open(tmp_path / "out/scene.tif") as scene:
            assert scene.shape == (8 * 16, 6 * 16) and (abs(scene.read() - 90.0) < 3).all()
        expected = np.zeros((16, 16), np.uint8)
        expected[2:6, 3:7] = 1
        for path in (tmp_path / "out/masks").glob("*.tif"):
            with rasterio.open(path) as src:
                np.testing.assert_array_equal(src.read(1), expected)
        next((clone / "data/sample/train/oam").glob("*.tif")).unlink()
        with pytest.raises(DataError, match="lacks chips"):
            module.prepare_banepa(clone, tmp_path / "again")
        with pytest.raises(DataError, match="not a clone"):
            module.prepare_banepa(tmp_path / "out/masks", tmp_path / "again")
        (clone / "data/sample/train/osm/osm_features_0.geojson").write_text("{")
        with pytest.raises(DataError):
            module.prepare_banepa(clone, tmp_path / "again")
        assert not (tmp_path / "again").exists()


class TestDubai:
    @pytest.mark.parametrize(
        ("length", "starts"),
        [
            (200, [0]),
            (256, [0]),
            (319, [0]),
            (544, [0, 288]),
            (797, [0, 270, 541]),
            (838, [0, 194, 388, 582]),
            (1817, [0, 260, 520, 780, 1041, 1301, 1561]),
        ],
    )
    def test_windows_are_spread_evenly(self, tool, length, starts):
        assert tool("prepare_dubai_landcover").window_starts(length, 256) == starts

    def download(self, folder, masks, images=None):
        """Write a download from index masks and images by name; images default to one colour."""
        colours = dict(enumerate(((60, 16, 152), (132, 41, 246), (110, 193, 228), (254, 221, 58))))
        colours |= {4: (226, 169, 41), 5: (0, 0, 0), 255: (155, 155, 155)}
        rng = np.random.default_rng(0)
        for name, mask in masks.items():
            scene, part = name.removeprefix("tile").split("_part")
            for kind, suffix in (("images", "jpg"), ("masks", "png")):
                path = folder / f"Tile {scene}" / kind / f"image_part_00{part}.{suffix}"
                path.parent.mkdir(parents=True, exist_ok=True)
                if kind == "masks":
                    rgb = np.zeros((*mask.shape, 3), np.uint8)
                    for index, colour in colours.items():
                        rgb[mask == index] = colour
                    Image.fromarray(rgb).save(path)
                elif images:
                    path.write_bytes(images[name].read_bytes())
                else:
                    colour = tuple(rng.integers(0, 256, 3).tolist())
                    Image.new("RGB", mask.shape[::-1], colour).save(path)
        (folder / "Tile 1").mkdir(exist_ok=True)
        return folder

    def test_from_a_download(self, tool, tmp_path, repo, monkeypatch, capsys):
        module = tool("prepare_dubai_landcover")
        monkeypatch.setattr(module, "SIDE", 8)
        lists = {
            split: read_list(repo / f"configs/_base_/splits/dubai_landcover/{split}.txt")
            for split in ("train", "val", "test")
        }
        assert {split: len(names) for split, names in lists.items()} == dict(
            train=18, val=17, test=17
        )
        rng = np.random.default_rng(0)
        values = [*range(6), 255]  # 5 is black
        masks = {name: rng.choice(values, (12, 20)) for names in lists.values() for name in names}
        source = self.download(tmp_path / "clone/Semantic segmentation dataset", masks)
        module.main([str(tmp_path / "clone"), str(tmp_path / "out")])
        assert "windows, 108 train, 102 val, 102 test" in capsys.readouterr().out
        for split, names in lists.items():
            dataset = GeoTIFFFolder(
                "images",
                "masks",
                tmp_path / "out",
                dict(classes=tuple(module.CLASSES), bands=("red", "green", "blue")),
                split=dict(file="windows_8.csv", attribute="split", value=split, size=8),
                chip_size=8,
                test_mode=True,
            )
            assert len(dataset) == 6 * len(names)
            for sample in map(dataset.load_sample, range(len(dataset))):
                row, col, *_ = sample["geo"]["window"]
                name = sample["img_path"].split("/")[-1].removesuffix(".jpg")
                part = np.s_[row : row + 8, col : col + 8]
                expected = np.where(masks[name] == 5, 255, masks[name])[part]
                np.testing.assert_array_equal(sample["gt_seg_map"], expected)
                with Image.open(tmp_path / f"out/images/{name}.jpg") as image:
                    np.testing.assert_allclose(sample["img"], np.array(image)[part], atol=2)
        (source / "Tile 7/masks/image_part_003.png").unlink()
        with pytest.raises(DataError, match="1 files missing"):
            module.prepare_dubai_landcover(tmp_path / "clone", tmp_path / "again")
        with pytest.raises(DataError, match="no Tile 1"):
            module.prepare_dubai_landcover(tmp_path / "out", tmp_path / "again")
        for size, value, message in (((12, 21), 1, "does not fit"), ((12, 20), 9, None)):
            mask = np.full((*size, 3), value * 7, np.uint8)
            if message is None:
                message = r"without a class[\s\S]*63, 63, 63"
            else:
                mask[:] = 155
            Image.fromarray(mask).save(source / "Tile 7/masks/image_part_003.png")
            with pytest.raises(DataError, match=message):
                module.prepare_dubai_landcover(tmp_path / "clone", tmp_path / "again")
        assert not (tmp_path / "again/windows_8.csv").exists()

    def test_files_are_those_of_the_lot(self, tool, tmp_path, shared_data, monkeypatch):
        lot = shared_data / "segmentation/dubai_landcover"
        if not lot.is_dir():
            pytest.skip("no Dubai land cover")
        module = tool("prepare_dubai_landcover")
        names = dict(train="tile8_part1", val="tile2_part2", test="tile1_part4")
        monkeypatch.setattr(module, "SPLITS_DIR", tmp_path / "splits")
        for split, name in names.items():
            path = tmp_path / "splits/dubai_landcover" / f"{split}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(name)
        masks = {n: np.array(Image.open(lot / "masks" / f"{n}.png")) for n in names.values()}
        images = {name: lot / "images" / f"{name}.jpg" for name in names.values()}
        source = self.download(tmp_path / "download", masks, images)
        counts = module.prepare_dubai_landcover(source, tmp_path / "out")
        assert counts == dict(train=54, val=4, test=9)
        for name in names.values():
            for file in (f"images/{name}.jpg", f"masks/{name}.png"):
                assert (tmp_path / "out" / file).read_bytes() == (lot / file).read_bytes()
        rows = (lot / "windows_256.csv").read_bytes().splitlines()
        expected = [row for row in rows if row.split(b",")[1].decode() in ["stem", *masks]]
        assert (tmp_path / "out/windows_256.csv").read_bytes().splitlines() == expected
