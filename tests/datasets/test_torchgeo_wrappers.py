"""TorchGeo's own data sets, written in their real layouts, through the two wrappers."""

import shutil

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image
from torchgeo.datasets import EuroSAT

from hook.datasets import TorchGeoClassification, TorchGeoSegmentation
from hook.datasets.named import find_dataset_class
from hook.datasets.splits import read_split_list
from hook.errors import ConfigError, DataError
from hook.registry import DATASETS

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

EUROSAT_CLASSES = (
    "AnnualCrop",
    "Forest",
    "HerbaceousVegetation",
    "Highway",
    "Industrial",
    "Pasture",
    "PermanentCrop",
    "Residential",
    "River",
    "SeaLake",
)
EUROSAT_DIR = "ds/images/remote_sensing/otherDatasets/sentinel_2/tif"
LOVEDA_CLASSES = ("Background", "Building", "Road", "Water", "Barren", "Forest", "Agriculture")


@pytest.fixture(scope="module")
def eurosat(tmp_path_factory):
    """EuroSAT with all bands as TorchGeo lays it out: two training images per class."""
    root, rng = tmp_path_factory.mktemp("eurosat"), np.random.default_rng(0)
    names = []
    for name in EUROSAT_CLASSES:
        for number in (1, 2):
            path = root / EUROSAT_DIR / name / f"{name}_{number}.tif"
            path.parent.mkdir(parents=True, exist_ok=True)
            with rasterio.open(
                path, "w", driver="GTiff", count=13, height=64, width=64, dtype="uint16"
            ) as dst:
                dst.write(rng.integers(0, 10000, (13, 64, 64), dtype=np.uint16))
            names.append(f"{name}_{number}.jpg")
    (root / "eurosat-train.txt").write_text("\n".join(names))
    for split in ("val", "test"):
        (root / f"eurosat-{split}.txt").write_text("\n".join(names[::2]))
    return root


@pytest.fixture(scope="module")
def loveda(tmp_path_factory):
    """LoveDA as TorchGeo lays it out: one urban and one rural scene, labels 0 (none) to 7."""
    root, rng = tmp_path_factory.mktemp("loveda"), np.random.default_rng(1)
    for scene in ("Urban", "Rural"):
        for kind, shape, high in (("images_png", (32, 48, 3), 256), ("masks_png", (32, 48), 8)):
            folder = root / "Train" / scene / kind
            folder.mkdir(parents=True)
            Image.fromarray(rng.integers(0, high, shape, dtype=np.uint8)).save(folder / "7.png")
    return root


def write_gid(root, masks, size=8):
    """Write GID-5 tiles ``train/<n>.png`` with the given masks."""
    for folder in ("train", "train_labels"):
        (root / folder).mkdir(parents=True)
    rng = np.random.default_rng(2)
    for number, mask in enumerate(masks):
        image = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
        Image.fromarray(image).save(root / "train" / f"{number}.png")
        Image.fromarray(np.asarray(mask, np.uint8)).save(root / "train_labels" / f"{number}.png")
    return root


class TestClassification:
    def test_values_are_rasterios(self, eurosat):
        dataset = TorchGeoClassification("EuroSAT", data_root=str(eurosat), dtype="uint16")
        assert len(dataset) == 20
        for index in (0, 7, 19):
            sample = dataset.load_sample(index)
            with rasterio.open(sample["img_path"]) as src:
                np.testing.assert_array_equal(sample["img"], src.read().transpose(1, 2, 0))
            assert sample["img"].dtype == np.uint16
            assert dataset.metainfo["classes"][sample["gt_label"]] in sample["img_path"]
            assert sample["valid"].shape == (64, 64) and sample["valid"].all()
            assert sample["img_shape"] == sample["ori_shape"] == (64, 64)
            assert sample["seg_fields"] == ["valid"] and sample["reduce_zero_label"] is False

    def test_bands_by_name_and_index(self, eurosat):
        names = ("B8A", "B04", "B02")
        order = [EuroSAT.all_band_names.index(name) for name in names]
        by_class = TorchGeoClassification(
            "EuroSAT", dict(bands=names), data_root=str(eurosat)
        ).load_sample(3)
        for bands in (names, tuple(index + 1 for index in order)):
            by_meta = TorchGeoClassification(
                "EuroSAT", data_root=str(eurosat), metainfo=dict(bands=bands)
            ).load_sample(3)
            np.testing.assert_array_equal(by_meta["img"], by_class["img"])
        with rasterio.open(by_class["img_path"]) as src:
            expected = src.read([index + 1 for index in order])
        np.testing.assert_array_equal(by_class["img"], expected.transpose(1, 2, 0))

    @pytest.mark.parametrize(
        ("bands", "message"),
        [(("B99",), "B99"), ((0, 1), "below 1"), (("B02", 3), "mixes"), ((1, 14), "too few bands")],
    )
    def test_unknown_band(self, eurosat, bands, message):
        with pytest.raises((ConfigError, DataError), match=message):
            TorchGeoClassification(
                "EuroSAT", data_root=str(eurosat), metainfo=dict(bands=bands)
            ).load_sample(0)

    def test_metainfo_of_the_class(self, eurosat):
        meta = TorchGeoClassification("EuroSAT", data_root=str(eurosat)).metainfo
        assert meta["classes"] == EUROSAT_CLASSES
        assert meta["bands"] == EuroSAT.all_band_names
        assert meta["split"] == "train"
        assert len({tuple(colour) for colour in meta["palette"]}) == 10

    def test_labels_follow_the_config(self, eurosat):
        # Other order and other spelling: "Sea Lake" is the folder SeaLake.
        classes = ("Sea Lake", *EUROSAT_CLASSES[:-1])
        dataset = TorchGeoClassification(
            "EuroSAT", data_root=str(eurosat), metainfo=dict(classes=classes)
        )
        for index in range(len(dataset)):
            name = classes[dataset.get_data_info(index)["gt_label"]].replace(" ", "")
            assert f"/{name}_" in dataset.load_sample(index)["img_path"]
        assert dataset.load_sample(19)["gt_label"] == 0

    def test_unknown_class_name(self, eurosat):
        with pytest.raises(ConfigError, match="not the classes of the data") as caught:
            TorchGeoClassification(
                "EuroSAT",
                data_root=str(eurosat),
                metainfo=dict(classes=(*EUROSAT_CLASSES[:-1], "Ocean")),
            )
        assert "Ocean" in str(caught.value) and "SeaLake" in str(caught.value)

    def test_nodata_is_not_valid(self, eurosat):
        dataset = TorchGeoClassification("EuroSAT", data_root=str(eurosat))
        image = dataset.load_sample(0)["img"]
        value = float(image[5, 6, 2])
        dataset = TorchGeoClassification(
            "EuroSAT", data_root=str(eurosat), metainfo=dict(nodata=value)
        )
        valid = dataset.load_sample(0)["valid"]
        np.testing.assert_array_equal(valid, (image != value).all(axis=2))
        assert valid[5, 6] == 0

    def test_cast_that_loses_values(self, eurosat):
        dataset = TorchGeoClassification("EuroSAT", data_root=str(eurosat), dtype="uint8")
        with pytest.raises(DataError, match="would change pixel values"):
            dataset.load_sample(0)
        with pytest.raises(ConfigError, match="dtype"):
            TorchGeoClassification("EuroSAT", data_root=str(eurosat), dtype="byte8")

    def test_unreadable_image(self, eurosat, tmp_path):
        import shutil

        root = tmp_path / "copy"
        shutil.copytree(eurosat, root)
        victim = root / EUROSAT_DIR / "Forest" / "Forest_1.tif"
        victim.write_bytes(victim.read_bytes()[:500])
        dataset = TorchGeoClassification("EuroSAT", data_root=str(root))
        with pytest.raises(DataError, match=r"Forest_1.tif .*cannot be read"):
            dataset.load_sample(2)

    def test_pipeline_and_workers(self, eurosat):
        dataset = DATASETS.build(
            dict(
                type="hook.TorchGeoClassification",
                dataset="EuroSAT",
                data_root=str(eurosat),
                metainfo=dict(mean=[1000.0] * 13, scale=0.5),
                pipeline=[dict(type="hook.PackClsSample")],
            )
        )
        loader = torch.utils.data.DataLoader(dataset, num_workers=2, collate_fn=lambda items: items)
        samples = [item for batch in loader for item in batch]
        assert len(samples) == 20
        for index, packed in enumerate(samples):
            assert packed["data_samples"].gt_label == index // 2
            assert packed["data_samples"].sample_idx == index
            expected = dataset.load_sample(index)["img"].transpose(2, 0, 1) * 0.5
            np.testing.assert_allclose(packed["inputs"].numpy(), expected)

    def test_indices(self, eurosat):
        dataset = TorchGeoClassification("EuroSAT", data_root=str(eurosat), indices=[4, 1])
        assert [dataset.get_data_info(i)["gt_label"] for i in range(len(dataset))] == [2, 0]

    def test_a_segmentation_set_has_no_label(self, loveda):
        dataset = TorchGeoClassification("LoveDA", data_root=str(loveda))
        with pytest.raises(DataError, match="no label"):
            dataset.load_sample(0)


class TestSplitLists:
    def test_chooses_in_the_order_of_the_list(self, eurosat, tmp_path):
        names = ["River/River_2.tif", "Forest/Forest_1.tif"]
        (tmp_path / "few_hook_seed0.txt").write_text("\n".join(names))
        dataset = TorchGeoClassification(
            "EuroSAT", data_root=str(eurosat), split_list=str(tmp_path / "few_hook_seed0.txt")
        )
        paths = [dataset.get_data_info(i)["img_path"] for i in range(len(dataset))]
        assert [path.split("tif/")[-1] for path in paths] == names
        assert dataset.metainfo["split"] == "few_hook_seed0"

    def test_authors_csv(self, tmp_path):
        path = tmp_path / "train.csv"
        path.write_text(",path,label\n0,River/River_2.jpg,8\n1,Forest/Forest_1.jpg,1\n")
        assert read_split_list(path) == ["River/River_2.jpg", "Forest/Forest_1.jpg"]

    def test_the_first_list_that_exists_is_taken(self, eurosat, tmp_path):
        (tmp_path / "ours.txt").write_text("Pasture_1\nPasture_2\nForest_2\n")
        lists = [str(tmp_path / name) for name in ("train.csv", "ours.txt")]
        arguments = dict(dataset="EuroSAT", data_root=str(eurosat), split_list=lists)
        assert TorchGeoClassification(**arguments).metainfo["split"] == "ours"
        (tmp_path / "train.csv").write_text("i,path,label\n0,Forest/Forest_1.jpg,1\n")
        authors = TorchGeoClassification(**arguments)
        assert authors.metainfo["split"] == "train" and len(authors) == 1

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "is empty"),
            ("Forest/Forest_1.tif\nForest/Forest_1.tif\n", "twice"),
            ("Forest/Forest_1.tif\nForest_1.tif\n", "twice"),
            ("Forest/Forest_9.tif\n", "does not contain"),
        ],
    )
    def test_bad_lists(self, eurosat, tmp_path, text, message):
        (tmp_path / "list.txt").write_text(text)
        with pytest.raises(DataError, match=message):
            TorchGeoClassification(
                "EuroSAT", data_root=str(eurosat), split_list=str(tmp_path / "list.txt")
            )

    def test_missing_list_and_broken_csv(self, eurosat, tmp_path):
        with pytest.raises(DataError, match=r"does not exist[\s\S]*make_splits.py"):
            TorchGeoClassification("EuroSAT", data_root=str(eurosat), split_list="nowhere.txt")
        (tmp_path / "bad.csv").write_text("path\nForest_1.jpg\n")
        with pytest.raises(DataError, match="is not a list of files"):
            read_split_list(tmp_path / "bad.csv")


class TestSegmentation:
    def test_loveda_with_zero_unlabelled(self, loveda):
        dataset = TorchGeoSegmentation(
            "LoveDA",
            data_root=str(loveda),
            reduce_zero_label=True,
            dtype="uint8",
            metainfo=dict(classes=LOVEDA_CLASSES),
        )
        assert len(dataset) == 2
        for index in range(2):
            sample = dataset.load_sample(index)
            image = np.asarray(Image.open(sample["img_path"]))
            stored = np.asarray(Image.open(sample["seg_map_path"])).astype(int)
            np.testing.assert_array_equal(sample["img"], image)
            np.testing.assert_array_equal(
                sample["gt_seg_map"], np.where(stored == 0, 255, stored - 1)
            )
            assert sample["gt_seg_map"].dtype == np.uint8
            assert sample["seg_fields"] == ["gt_seg_map", "valid"]

    def test_reduce_zero_label_wants_names(self, loveda):
        with pytest.raises(ConfigError, match="does not name its classes"):
            TorchGeoSegmentation("LoveDA", data_root=str(loveda), reduce_zero_label=True)

    @pytest.mark.parametrize("key", [int, str])
    def test_label_map(self, loveda, key):
        pairs = {0: 255, 1: 0, 2: 1, 3: 1, 4: 0, 5: 255, 6: 0, 7: 1}
        dataset = TorchGeoSegmentation(
            "LoveDA",
            data_root=str(loveda),
            label_map={key(old): new for old, new in pairs.items()},
            metainfo=dict(classes=("nature", "built")),
        )
        sample = dataset.load_sample(1)
        stored = np.asarray(Image.open(sample["seg_map_path"]))
        expected = np.vectorize(pairs.get)(stored)
        np.testing.assert_array_equal(sample["gt_seg_map"], expected)

    def test_labels_outside_the_range(self, loveda):
        dataset = TorchGeoSegmentation(
            "LoveDA",
            data_root=str(loveda),
            label_map={7: 70},
            metainfo=dict(classes=LOVEDA_CLASSES),
        )
        with pytest.raises(DataError, match=r"labels outside[\s\S]*\[70\][\s\S]*reduce_zero_label"):
            dataset.load_sample(0)

    def test_nodata_becomes_the_ignore_index(self, tmp_path):
        root = write_gid(tmp_path, [np.ones((8, 8))])
        arguments = dict(dataset="GID5", data_root=str(root))
        image = TorchGeoSegmentation(**arguments).load_sample(0)["img"]
        value = float(image[3, 4, 1])
        sample = TorchGeoSegmentation(**arguments, metainfo=dict(nodata=value)).load_sample(0)
        missing = (image == value).any(axis=2)
        np.testing.assert_array_equal(sample["gt_seg_map"], np.where(missing, 255, 0))
        np.testing.assert_array_equal(sample["valid"], ~missing)

    def test_mask_of_another_size(self, tmp_path):
        root = write_gid(tmp_path, [np.ones((8, 9))])
        with pytest.raises(DataError, match="mask and its image differ in size"):
            TorchGeoSegmentation("GID5", data_root=str(root)).load_sample(0)

    def test_number_and_order_of_classes(self, tmp_path):
        root = write_gid(tmp_path, [np.ones((8, 8))])
        arguments = dict(dataset="GID5", data_root=str(root))
        names = TorchGeoSegmentation(**arguments).metainfo["classes"]
        with pytest.raises(ConfigError, match="a different number of classes"):
            TorchGeoSegmentation(**arguments, metainfo=dict(classes=names[:4]))
        with pytest.raises(ConfigError, match=r"order of metainfo\['classes'\] differs"):
            TorchGeoSegmentation(**arguments, metainfo=dict(classes=names[::-1]))
        own = TorchGeoSegmentation(**arguments, metainfo=dict(classes=tuple("abcde")))
        assert own.metainfo["classes"] == tuple("abcde")

    def test_mapping_twice(self, loveda):
        with pytest.raises(ConfigError, match="exclude each other"):
            TorchGeoSegmentation(
                "LoveDA", data_root=str(loveda), label_map={0: 255}, reduce_zero_label=True
            )
        with pytest.raises(ConfigError, match="is not a mapping of labels"):
            TorchGeoSegmentation("LoveDA", data_root=str(loveda), label_map={"water": 1})

    def test_a_classification_set_has_no_mask(self, eurosat):
        dataset = TorchGeoSegmentation("EuroSAT", data_root=str(eurosat))
        with pytest.raises(DataError, match="no mask"):
            dataset.load_sample(0)


class TestBadInput:
    def test_unknown_dataset_suggests(self):
        with pytest.raises(ConfigError, match="EuroSAT"):
            find_dataset_class("EuroSta")

    def test_geo_datasets_belong_elsewhere(self):
        with pytest.raises(ConfigError, match=r"hook\.GeoTIFFFolder"):
            find_dataset_class("NAIP")

    @pytest.mark.parametrize(
        ("name", "script"),
        [
            ("EuroSAT", "prepare_eurosat.py"),
            ("RESISC45", "prepare_nwpu_resisc45.py"),
            ("NWPURESISC45", "prepare_nwpu_resisc45.py"),
            ("WHURS19", "prepare_whu_rs19.py"),
            ("NaSCTG2", "prepare_nasc_tg2.py"),
            ("EuroSATRGB", "prepare_eurosat.py"),
        ],
    )
    def test_missing_data(self, tmp_path, repo, name, script):
        folder = tmp_path / "nothing here"
        with pytest.raises(DataError) as caught:
            TorchGeoClassification(name, data_root=str(folder))
        assert str(folder) in str(caught.value) and script in str(caught.value)
        assert "<root>/" in str(caught.value.expected)
        assert (repo / "tools/dataset_tools" / script).is_file()
        assert not folder.exists()

    @pytest.mark.parametrize("name", ["GID5", "DeepGlobeLandCover", "LandCoverAI"])
    def test_missing_segmentation_data(self, tmp_path, name):
        with pytest.raises(DataError, match="no data in"):
            TorchGeoSegmentation(name, data_root=str(tmp_path / "none"))

    def test_nothing_is_downloaded(self, tmp_path, monkeypatch):
        import torchgeo.datasets.eurosat as module

        fetched = []
        monkeypatch.setattr(module, "download_url", lambda *args, **kwargs: fetched.append(args))
        with pytest.raises(DataError):
            TorchGeoClassification("EuroSAT", data_root=str(tmp_path))
        assert not fetched
        with pytest.raises((DataError, OSError)):
            monkeypatch.setattr(
                module,
                "download_and_extract_archive",
                lambda *args, **kwargs: fetched.append(args),
            )
            TorchGeoClassification("EuroSAT", dict(download=True), data_root=str(tmp_path))
        assert len(fetched) == 2

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (dict(splitt="train"), "splitt"),
            (dict(split="training"), "train, val, test"),
            (dict(bands=("B99",)), "B99"),
        ],
    )
    def test_bad_arguments(self, eurosat, arguments, message):
        with pytest.raises(ConfigError, match=message):
            TorchGeoClassification("EuroSAT", arguments, data_root=str(eurosat))

    def test_class_named_twice(self, eurosat):
        with pytest.raises(ConfigError, match="twice"):
            TorchGeoClassification(
                "EuroSAT", data_root=str(eurosat), metainfo=dict(classes=("a", "a"))
            )

    def test_tags_that_torchgeo_does_not_apply(self, eurosat, tmp_path):
        shutil.copytree(eurosat, tmp_path, dirs_exist_ok=True)
        for path in (tmp_path / EUROSAT_DIR).rglob("*.tif"):
            with rasterio.open(path, "r+") as dst:
                dst.scales = (1e-4,) * 13
        options = dict(data_root=str(tmp_path), dataset_args=dict(bands=("B04", "B03")))
        with pytest.raises(DataError, match="scale and offset tags, which TorchGeo does not apply"):
            TorchGeoClassification("EuroSAT", **options)
        TorchGeoClassification("EuroSAT", metainfo=dict(scale=1e-4), **options)
