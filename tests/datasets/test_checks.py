"""The check before training: each mistake people make is found, named and mended as told."""

import os
import re
import shutil
import warnings

import geopandas
import numpy as np
import pytest
import shapely
import torch
from mmengine.dataset import BaseDataset, ConcatDataset, RepeatDataset
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from hook.datasets import GeoTIFFFolder
from hook.datasets.checks import check_dataset, check_pair, raise_findings
from hook.errors import ConfigError, DataError
from hook.structures import ClsDataSample

MEAN, STD = [100.0, 110.0, 120.0], [40.0, 40.0, 40.0]


class Packed(BaseDataset):
    """Samples as a pipeline packs them, from arrays in memory."""

    def __init__(self, images, labels=None, valid=None, **meta):
        self.images, self.labels, self.valid = images, labels, valid
        super().__init__(metainfo=meta, serialize_data=False)

    def load_data_list(self):
        return [{"img_path": f"{index}.tif"} for index in range(len(self.images))]

    def prepare_data(self, idx):
        image = self.images[idx]
        if isinstance(image, Exception):
            raise image
        image = torch.as_tensor(np.asarray(image, dtype=np.float32))
        label = None if self.labels is None else self.labels[idx]
        if isinstance(label, int):
            sample = ClsDataSample(gt_label=label)
        else:
            sample = SegDataSample()
            if label is not None:
                sample.gt_sem_seg = PixelData(data=torch.as_tensor(np.asarray(label))[None])
        if self.valid is not None:
            mask = np.asarray(self.valid[idx], np.uint8)
            sample.valid_mask = PixelData(data=torch.as_tensor(mask)[None])
        return {"inputs": image, "data_samples": sample}


def images(count=6, bands=3, size=16, scale=1.0, seed=0):
    rng = np.random.default_rng(seed)
    means = np.linspace(MEAN[0], MEAN[-1], bands)[:, None, None]
    return [(rng.normal(means, 40, (bands, size, size)) * scale) for _ in range(count)]


def masks(values, count=6, size=16):
    rng = np.random.default_rng(1)
    return [rng.choice(values, (size, size)).astype(np.int64) for _ in range(count)]


def check(dataset, num_classes=3, **changes):
    facts = dict(ignore_index=255, mean=MEAN, std=STD, in_channels=3)
    return check_dataset(dataset, num_classes, **{**facts, **changes})


def only(findings):
    assert len(findings) == 1, "\n".join(map(str, findings))
    return findings[0]


NAMES = ("water", "forest", "field")


def test_fitting_data_pass():
    dataset = Packed(images(), masks([0, 1, 2, 255]), classes=NAMES, bands=("r", "g", "b"))
    assert check(dataset) == []
    raise_findings([], "before training")


def test_fitting_classification_passes():
    dataset = Packed(images(), [0, 1, 2, 0, 1, 2], classes=NAMES)
    assert check(dataset) == []


class TestBands:
    def test_images_against_the_model(self):
        findings = check(Packed(images(bands=4), masks([0, 1, 2]), classes=NAMES))
        assert {finding.found for finding in findings} == {4}
        assert any("in_channels" in finding.expected for finding in findings)
        assert any("mean" in finding.expected for finding in findings)

    def test_meta_against_the_model(self):
        dataset = Packed(images(), masks([0, 1, 2]), classes=NAMES, bands=("r", "g", "b", "nir"))
        assert "nir" in only(check(dataset)).found

    def test_statistics_against_the_model(self):
        dataset = Packed(images(), masks([0, 1, 2]), classes=NAMES)
        findings = check(dataset, mean=MEAN[:2], std=STD[:2])
        assert any("mean of the data preprocessor" == finding.what for finding in findings)

    def test_images_of_different_band_counts(self):
        mixed = images(3) + images(3, bands=4)
        finding = only(check(Packed(mixed, masks([0, 1, 2]), classes=NAMES)))
        assert "3 in 3 images and 4 in 3 images" in finding.found and finding.in_data

    def test_meta_and_preprocessor_differ(self):
        dataset = Packed(images(), masks([0, 1, 2]), classes=NAMES, mean=[0.0, 0.0, 0.0], std=STD)
        assert "metainfo['mean']" in only(check(dataset)).expected


class TestValues:
    def test_data_in_0_to_1_under_statistics_of_0_to_255(self):
        low = [np.clip(image / 255, 0, 1) for image in images()]
        finding = only(check(Packed(low, masks([0, 1, 2]), classes=NAMES)))
        assert finding.what == "value range" and "metainfo['scale'] (255" in finding.remedy

    def test_data_in_0_to_255_under_statistics_of_0_to_1(self):
        dataset = Packed(images(), masks([0, 1, 2]), classes=NAMES)
        finding = only(check(dataset, mean=[0.4] * 3, std=[0.2] * 3))
        assert finding.what == "value range" and "1/255" in finding.remedy

    def test_sixteen_bits_under_statistics_of_eight(self):
        dataset = Packed(images(scale=100), masks([0, 1, 2]), classes=NAMES)
        assert "statistics.py" in only(check(dataset)).remedy

    def test_one_dead_band(self):
        dead = images()
        for image in dead:
            image[1] = 110
        finding = only(check(Packed(dead, masks([0, 1, 2]), classes=NAMES)))
        assert "(band 2 out of range)" in finding.found

    def test_dark_images_are_not_a_mistake(self):
        dark = [image * 0.3 for image in images()]
        assert check(Packed(dark, masks([0, 1, 2]), classes=NAMES)) == []

    def test_constant_images(self):
        flat = [np.full((3, 8, 8), 100.0) for _ in range(4)]
        finding = only(check(Packed(flat, masks([0, 1, 2], 4, 8), classes=NAMES)))
        assert "constant" in finding.found and finding.in_data

    def test_nan_in_valid_pixels(self):
        broken = images()
        broken[2][0, 3, 3] = np.nan
        finding = only(check(Packed(broken, masks([0, 1, 2]), classes=NAMES)))
        assert "1 of 6 images" in finding.found
        valid = [np.isfinite(image).all(axis=0) for image in broken]
        assert check(Packed(broken, masks([0, 1, 2]), valid, classes=NAMES)) == []

    def test_nodata_takes_everything(self):
        nothing = [np.zeros((16, 16))] * 6
        finding = only(check(Packed(images(), masks([0, 1, 2]), nothing, classes=NAMES)))
        assert finding.what == "valid pixels"

    def test_invalid_pixels_do_not_count(self):
        filled = images()
        valid = [np.ones((16, 16)) for _ in filled]
        for image, mask in zip(filled, valid, strict=True):
            image[:, :8] = -1e6
            mask[:8] = 0
        assert check(Packed(filled, masks([0, 1, 2]), valid, classes=NAMES)) == []


class TestLabels:
    @pytest.mark.parametrize(
        ("values", "remedy"),
        [
            ([1, 2, 3], "labels start at 1: set reduce_zero_label=True"),
            ([0, 1, 2, 3], "reduce_zero_label=True if 0 means unlabelled"),
            ([0, 1, 2, 7], "label_map"),
        ],
    )
    def test_outside_the_classes(self, values, remedy):
        finding = only(check(Packed(images(), masks(values), classes=NAMES)))
        assert finding.what == "labels" and remedy in finding.remedy
        assert f"{max(values)}: " in finding.found

    def test_255_as_a_class(self):
        dataset = Packed(images(), masks([0, 1, 2, 255]), classes=NAMES)
        finding = only(check(dataset, ignore_index=-100))
        assert "set ignore_index=255" in finding.remedy

    def test_everything_ignored(self):
        finding = only(check(Packed(images(), masks([255]), classes=NAMES)))
        assert "only the ignore index" in finding.found

    def test_binary_mask_of_0_and_255(self):
        finding = only(check(Packed(images(), masks([0, 255]), classes=NAMES[:2]), 2))
        assert "label_map={255: 1}" in finding.remedy
        data = Packed(images(), masks([0, 255]), classes=NAMES[:2])
        assert check(data, 2, held_out=True) == []

    def test_sparse_labels_are_no_mistake(self):
        labels = masks([255], count=60)
        labels[20][3, 3], labels[41][5, 5] = 1, 0
        assert check(Packed(images(60), labels, classes=NAMES[:2]), 2, max_samples=4) == []

    def test_reduce_zero_label_ate_a_class(self):
        # Stored 0, 1, 2 are three classes; reduced they are ignored, 0 and 1.
        dataset = Packed(images(), masks([255, 0, 1]), classes=NAMES)
        assert check(dataset) == []
        dataset.reduce_zero_label = True
        assert "set reduce_zero_label=False" in only(check(dataset)).remedy

    def test_a_rare_last_class_is_no_mistake(self):
        labels = masks([255, 0, 1], count=40)
        labels[13][0, 0] = 2
        dataset = Packed(images(40), labels, classes=NAMES)
        dataset.reduce_zero_label = True
        assert check(dataset, max_samples=4) == []

    def test_ignore_index_that_is_a_class(self):
        findings = check(Packed(images(), masks([0, 1, 2]), classes=NAMES), ignore_index=0)
        assert "ignore_index=0" in only(findings).found

    def test_ignore_index_of_the_data_differs(self):
        dataset = Packed(images(), masks([0, 1, 2]), classes=NAMES, ignore_index=254)
        assert "254" in only(check(dataset)).found

    def test_number_of_class_names(self):
        finding = only(check(Packed(images(), masks([0, 1, 2]), classes=NAMES[:2])))
        assert "water, forest" in finding.found

    def test_classification(self):
        dataset = Packed(images(), [0, 1, 2, 3, 1, 2], classes=NAMES)
        finding = only(check(dataset))
        assert finding.expected == "0 to 2" and "reduce_zero_label" not in finding.remedy
        finding = only(check(Packed(images(), None, classes=NAMES)))
        assert "none for 6 of 6" in finding.found


class TestReport:
    def test_all_at_once(self):
        low = [np.clip(image / 255, 0, 1) for image in images()]
        dataset = Packed(low, masks([1, 2, 3]), classes=NAMES[:2])
        findings = check(dataset)
        assert len(findings) == 3
        with pytest.raises(ConfigError, match="in 3 points") as caught:
            raise_findings(findings, "before training")
        for finding in findings:
            assert finding.remedy in str(caught.value)

    def test_faults_of_the_data_alone(self):
        broken = images()
        broken[0][:] = np.nan
        broken[0][0, 0, 0] = 1
        findings = check(Packed(broken, masks([0, 1, 2]), classes=NAMES))
        with pytest.raises(DataError, match="pixel values"):
            raise_findings(findings, "before training")

    def test_samples_that_cannot_be_loaded(self):
        fault = DataError("a.tif cannot be read", expected="an image", found="junk", remedy="mend")
        dataset = Packed([fault, *images(4), fault], masks([0, 1, 2]), classes=NAMES)
        finding = only(check(dataset))
        assert "a.tif" in finding.what and "2 of the samples" in finding.what
        assert finding.remedy == "mend" and finding.in_data

    def test_no_samples(self):
        assert only(check(Packed([], []))).found == "none"

    def test_max_samples(self):
        with pytest.raises(ConfigError, match="max_samples"):
            check(Packed(images(), masks([0])), max_samples=0)

    def test_random_state_is_left_alone(self):
        class Random(Packed):
            def prepare_data(self, idx):
                np.random.rand()  # noqa: NPY002
                torch.rand(1)
                return super().prepare_data(idx)

        np.random.seed(3)  # noqa: NPY002
        torch.manual_seed(3)
        expected = np.random.rand(), torch.rand(1).item()  # noqa: NPY002
        np.random.seed(3)  # noqa: NPY002
        torch.manual_seed(3)
        check(Random(images(), masks([0, 1, 2]), classes=NAMES))
        assert (np.random.rand(), torch.rand(1).item()) == expected  # noqa: NPY002


def test_pair_of_data_sets():
    train = Packed(images(), masks([0, 1, 2]), classes=NAMES, bands=(1, 2, 3))
    assert check_pair(train, train) == []
    other = Packed(images(), masks([0, 1, 2]), classes=NAMES[::-1], bands=(3, 2, 1))
    assert [finding.what for finding in check_pair(train, other)] == [
        "classes of the validation data",
        "bands of the validation data",
    ]


def test_shared_images_are_found(tmp_path):
    from PIL import Image

    from hook.datasets import TorchGeoSegmentation

    for folder in ("train", "train_labels"):
        (tmp_path / folder).mkdir()
        for name in "abc":
            Image.new("RGB" if folder == "train" else "L", (4, 4)).save(
                tmp_path / folder / f"{name}.png"
            )
    for name, lines in (("first", "a\nb"), ("second", "b\nc"), ("third", "c")):
        (tmp_path / f"{name}.txt").write_text(lines)
    first, second, third = (
        TorchGeoSegmentation("GID5", data_root=str(tmp_path), split_list=f"{name}.txt")
        for name in ("first", "second", "third")
    )
    assert check_pair(first, third) == []
    finding = only(check_pair(first, second))
    assert "1 shared" in finding.found and finding.found.endswith("b.png")


def _scenes(folder, *names, **options):
    options = (
        dict(
            metainfo=dict(classes=("a", "b", "c")),
            mode="cover",
            chip_size=32,
            split=list(names) or None,
        )
        | options
    )
    return GeoTIFFFolder("images", "masks", str(folder), **options)


def _shared(train, other):
    """The warnings of two data sets about images in both."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert check_pair(train, other) == []
    return [str(one.message) for one in caught if one.category is UserWarning]


def test_scenes_in_two_lists_are_warned_of(folder):
    images = folder / "images"
    train = _scenes(folder, "s0", "s1")
    assert _shared(train, _scenes(folder, "s2")) == []
    (images / "link.tif").symlink_to(images / "s0.tif")
    os.link(images / "s1.tif", images / "hard.tif")
    shutil.copy(images / "s0.tif", images / "copied.tif")
    for name in ("link", "hard", "copied"):
        number = "1" if name == "hard" else "0"
        shutil.copy(folder / f"masks/s{number}.tif", folder / f"masks/{name}.tif")
    for names, what in (
        (["images/s1.tif", "s2"], "1 validation images are also in .*s1.tif"),
        (["s0", "s1"], "2 validation images are also in"),
        (["link"], "1 validation images are also in .*link.tif"),
        (["hard"], "1 validation images are also in .*hard.tif"),
        (["copied"], "1 validation images as copies are also in .*copied.tif"),
    ):
        for other in (_scenes(folder, *names), RepeatDataset(_scenes(folder, *names), 2)):
            (text,) = _shared(ConcatDataset([_scenes(folder, "s0"), train]), other)
            assert re.search(what, text), text


def test_images_of_any_data_set_are_compared(folder):
    class Listed(BaseDataset):
        def load_data_list(self):
            return [{"img_path": str(folder / "images" / name)} for name in self.metainfo["names"]]

    first, second, third = (
        Listed(metainfo=dict(names=names))
        for names in (["s0.tif"], ["../images/s0.tif"], ["s1.tif"])
    )
    assert len(_shared(first, second)) == 1 and _shared(first, third) == []


def test_areas_of_one_scene_are_compared(folder, rng, write_raster):
    left, middle, right = (
        dict(bounds=(500000 + 300 * k, 5199000, 500300 + 300 * k, 5201000), crs="EPSG:32633")
        for k in range(3)
    )
    datasets = [
        GeoTIFFFolder(
            "images/s0.tif", "masks/s0.tif", str(folder), split=split, chip_size=32, mode="cover",
            metainfo=dict(classes=("a", "b", "c")),
        )
        for split in (left, middle, right, None)
    ]  # fmt: skip
    assert _shared(datasets[0], datasets[1]) == _shared(datasets[2], datasets[1]) == []
    assert len(_shared(datasets[0], datasets[3])) == 1
    shapes = geopandas.GeoSeries([shapely.box(*b["bounds"]) for b in (left, middle)], crs=32633)
    table = geopandas.GeoDataFrame(dict(part=["a", "b"]), geometry=shapes)
    table.to_crs(4326).to_file(folder / "parts.gpkg")
    parts = [
        _scenes(folder, split=dict(file="parts.gpkg", attribute="part", value=v)) for v in "ab"
    ]
    assert _shared(*parts) == []
    assert len(_shared(parts[0], datasets[0])) == 1
    # Sparse labels of one scene: polygons, and all else is ignored.
    for part, shape in zip("ab", shapes, strict=True):
        one = geopandas.GeoSeries([shape], crs=32633)
        one.to_crs(4326).to_file(folder / f"{part}.geojson")
    options = dict(metainfo=dict(classes=("a", "b")), mode="cover", background="ignore")
    sparse = [
        GeoTIFFFolder("images/s0.tif", f"{part}.geojson", str(folder), chip_size=32, **options)
        for part in "ab"
    ]
    assert _shared(*sparse) == [] and len(_shared(sparse[0], sparse[0])) == 1
    chips = [_scenes(folder, indices=chosen) for chosen in ([0, 2], [1, 3])]
    assert _shared(*chips) == []
    assert len(_shared(chips[0], chips[0])) == 1
