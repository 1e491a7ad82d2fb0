import numpy as np
import pytest
import torch
from mmengine.dataset import Compose
from mmengine.registry import DefaultScope
from torch.utils.data import DataLoader

from hook.datasets import Albumentations, ChangeImage, PackClsSample, PackSegSample, ScaleBands
from hook.errors import ConfigError
from hook.registry import TRANSFORMS

META = {"scale": 1e-4, "offset": 0.0, "mean": [0.1, 0.2, 0.3, 0.4, 0.5], "ignore_index": 255}


def sample(rng, size=(24, 32), bands=5, dtype="uint16", **extra):
    high = 250 if dtype == "uint8" else 9000
    return {
        "img": rng.integers(1, high, (*size, bands)).astype(dtype),
        "valid": (rng.random(size) < 0.9).astype(np.uint8),
        "gt_seg_map": rng.integers(0, 4, size).astype(np.uint8),
        "seg_fields": ["gt_seg_map", "valid"],
        "img_shape": size,
        "ori_shape": size,
        "img_path": "some.tif",
        "reduce_zero_label": False,
        "dataset_meta": META,
        "sample_idx": 3,
        "geo": {"source": "some.tif"},
        **extra,
    }


def test_scale_bands(rng):
    before = sample(rng)
    native, valid = before["img"].copy(), before["valid"] == 1
    after = ScaleBands()(before)
    assert after["img"].dtype == np.float32 and after["in_model_units"]
    np.testing.assert_allclose(after["img"][valid], native[valid] * 1e-4, rtol=1e-6)
    np.testing.assert_allclose(
        after["img"][~valid], np.broadcast_to(META["mean"], (int((~valid).sum()), 5)), rtol=1e-6
    )


def test_arguments_go_before_the_meta(rng):
    before = sample(rng, valid=np.ones((24, 32), np.uint8))
    native = before["img"].copy()
    np.testing.assert_allclose(ScaleBands(scale=2, offset=1)(before)["img"], native * 2.0 + 1)


@pytest.mark.parametrize("scaled_before", [False, True])
def test_pack_seg_sample(rng, scaled_before):
    results = sample(rng)
    native, valid, labels = (results[key].copy() for key in ("img", "valid", "gt_seg_map"))
    if scaled_before:
        results = ScaleBands()(results)
    packed = PackSegSample()(results)
    inputs, data = packed["inputs"], packed["data_samples"]
    assert inputs.dtype == torch.float32 and inputs.shape == (5, 24, 32) and inputs.is_contiguous()
    np.testing.assert_allclose(
        inputs.numpy()[:, valid == 1], native.transpose(2, 0, 1)[:, valid == 1] * 1e-4, rtol=1e-6
    )
    np.testing.assert_allclose(inputs.numpy()[:, valid == 0].mean(axis=1), META["mean"], rtol=1e-5)
    assert data.gt_sem_seg.data.dtype == torch.int64 and data.gt_sem_seg.data.shape == (1, 24, 32)
    np.testing.assert_array_equal(data.gt_sem_seg.data[0], labels)
    assert data.valid_mask.data.dtype == torch.uint8
    np.testing.assert_array_equal(data.valid_mask.data[0], valid)
    assert data.img_shape == data.ori_shape == data.pad_shape == (24, 32)
    assert data.geo == {"source": "some.tif"} and data.sample_idx == 3
    assert data.img_path == "some.tif" and data.reduce_zero_label is False


def test_pack_without_labels_or_validity(rng):
    packed = PackSegSample()({"img": rng.random((4, 6, 2)).astype(np.float32)})
    assert packed["inputs"].shape == (2, 4, 6)
    assert "gt_sem_seg" not in packed["data_samples"]
    assert "valid_mask" not in packed["data_samples"]


@pytest.mark.parametrize(("scale", "offset"), [(1e-4, 0.0), ([0.1, 0.2, 0.3], [1.0, 2.0, 3.0])])
@pytest.mark.parametrize("in_meta", [False, True])
def test_units_are_those_of_the_meta_or_of_the_sample(rng, scale, offset, in_meta):
    image = rng.integers(0, 3000, (8, 8, 3)).astype(np.uint16)
    units = dict(scale=scale, offset=offset)
    found = PackSegSample()({"img": image, **(dict(dataset_meta=units) if in_meta else units)})
    expected = image * np.asarray(scale) + np.asarray(offset)
    np.testing.assert_allclose(found["inputs"].numpy().transpose(1, 2, 0), expected, rtol=1e-5)


def test_a_scale_of_resizing_is_no_unit(rng):
    image = rng.random((8, 8, 2)).astype(np.float32)
    resized = Compose(
        [dict(type="RandomResize", scale=(4, 4), ratio_range=(1, 1), resize_type="mmcv.Resize")]
    )
    packed = PackSegSample()(resized({"img": image, "seg_fields": []}))
    assert packed["inputs"].max() <= 1


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_infinite_values_are_filled(value):
    image = np.ones((4, 4, 2), np.float32)
    image[1, 2, 0] = value
    packed = PackSegSample()({"img": image, "dataset_meta": {"mean": [5.0, 6.0]}})
    np.testing.assert_array_equal(packed["inputs"][:, 1, 2], [5, 6])


def test_an_image_without_a_valid_pixel_is_marked(rng):
    results = sample(rng, gt_label=np.int64(2))
    assert "blank" not in PackClsSample()(dict(results))["data_samples"]
    results["valid"] = np.zeros_like(results["valid"])
    assert PackClsSample()(results)["data_samples"].blank


def test_pack_cls_sample(rng):
    results = sample(rng, gt_label=np.int64(2))
    packed = PackClsSample()(results)
    assert packed["inputs"].shape == (5, 24, 32)
    assert packed["data_samples"].gt_label == 2
    assert packed["data_samples"].img_shape == (24, 32)
    assert "gt_label" not in PackClsSample()(sample(rng))["data_samples"]


@pytest.mark.parametrize(("dtype", "bands"), [("uint8", 3), ("uint16", 5), ("int16", 8)])
def test_mmseg_transforms_take_n_bands(rng, dtype, bands):
    meta = {"scale": 1e-4, "mean": 0.1}
    with DefaultScope.overwrite_default_scope("mmseg"):
        pipeline = Compose(
            [
                dict(type="hook.ScaleBands"),
                dict(type="Resize", scale=(48, 36)),
                dict(type="RandomFlip", prob=1.0, direction="horizontal"),
                dict(type="RandomCrop", crop_size=(20, 28)),
                dict(type="hook.PackSegSample"),
            ]
        )
        packed = pipeline(sample(rng, bands=bands, dtype=dtype, dataset_meta=meta))
    data = packed["data_samples"]
    assert packed["inputs"].shape == (bands, 20, 28)
    assert data.flip and data.flip_direction == "horizontal"
    assert 0.8 < data.valid_mask.data.float().mean() < 1
    assert (packed["inputs"][:, data.valid_mask.data[0] == 0] == np.float32(0.1)).all()


def test_pixels_that_mmseg_makes_up_are_not_valid(rng):
    with DefaultScope.overwrite_default_scope("mmseg"):
        pipeline = Compose(
            [dict(type="RandomRotate", prob=1.0, degree=(45, 45)), dict(type="hook.PackSegSample")]
        )
    data = pipeline(
        sample(
            rng,
            size=(32, 32),
            bands=3,
            dtype="uint8",
            valid=np.ones((32, 32), np.uint8),
            dataset_meta={},
        )
    )["data_samples"]
    # mmseg fills the corners of every segmentation field with 255.
    assert data.valid_mask.data[0, 0, 0] == 0 and data.valid_mask.data[0, 16, 16] == 1
    assert data.gt_sem_seg.data[0, 0, 0] == 255


def test_a_classification_pipeline_for_testing(rng):
    pipeline = Compose(
        [
            dict(type="hook.ScaleBands"),
            dict(
                type="hook.Albumentations",
                transforms=[
                    dict(type="Resize", height=40, width=40),
                    dict(type="CenterCrop", height=32, width=32),
                ],
            ),
            dict(type="hook.PackClsSample"),
        ]
    )
    results = sample(rng, gt_label=1)
    del results["gt_seg_map"]
    results["seg_fields"] = ["valid"]
    packed = pipeline(results)
    assert packed["inputs"].shape == (5, 32, 32)
    assert packed["data_samples"].img_shape == (32, 32)


def test_a_transform_that_forgets_the_masks_is_found_out(rng):
    pipeline = Compose([dict(type="CenterCrop", crop_size=16), dict(type="hook.PackSegSample")])
    with pytest.raises(ConfigError, match="differ in size") as caught:
        pipeline(sample(rng))
    assert "CenterCrop" in str(caught.value)


# Albumentations -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
@pytest.mark.parametrize("bands", [1, 3, 8])
def test_a_flip_moves_image_and_masks_alike(rng, dtype, bands):
    before = sample(rng, bands=bands, dtype=dtype)
    image, valid, labels = (before[key].copy() for key in ("img", "valid", "gt_seg_map"))
    after = Albumentations([dict(type="HorizontalFlip", p=1)])(before)
    assert after["img"].dtype == image.dtype
    np.testing.assert_array_equal(after["img"], image[:, ::-1])
    np.testing.assert_array_equal(after["valid"], valid[:, ::-1])
    np.testing.assert_array_equal(after["gt_seg_map"], np.where(valid == 1, labels, 255)[:, ::-1])


def test_a_crop_changes_the_shape_and_drops_the_georeference(rng):
    after = Albumentations([dict(type="RandomCrop", height=16, width=20)])(sample(rng))
    assert after["img"].shape == (16, 20, 5) and after["img_shape"] == (16, 20)
    assert after["gt_seg_map"].shape == after["valid"].shape == (16, 20)
    assert "geo" not in after


def test_photometric_transforms_keep_the_georeference(rng):
    results = ScaleBands()(sample(rng))
    labels = results["gt_seg_map"].copy()
    after = Albumentations([dict(type="RandomBrightnessContrast", p=1)])(results)
    assert "geo" in after and after["img"].shape == (24, 32, 5)
    kept = after["valid"] == 1
    np.testing.assert_array_equal(after["gt_seg_map"][kept], labels[kept])


def test_made_up_corners_count_nowhere(rng):
    before = sample(rng, size=(32, 32), valid=np.ones((32, 32), np.uint8))
    rotate = dict(type="Affine", rotate=(45, 45), scale=(1, 1), p=1)
    after = Albumentations([rotate])(before)
    assert after["valid"][0, 0] == 0 and after["valid"][16, 16] == 1
    np.testing.assert_array_equal(after["gt_seg_map"] == 255, after["valid"] == 0)
    assert set(np.unique(after["gt_seg_map"])) <= {0, 1, 2, 3, 255}


def test_wide_labels_and_nested_transforms(rng):
    before = sample(rng, gt_seg_map=rng.integers(0, 70000, (24, 32)).astype(np.int32))
    labels, valid = before["gt_seg_map"].copy(), before["valid"].copy()
    flip = [dict(type="OneOf", transforms=[dict(type="VerticalFlip", p=1)], p=1)]
    after = Albumentations(flip)(before)
    assert after["gt_seg_map"].dtype == np.int32
    np.testing.assert_array_equal(after["gt_seg_map"], np.where(valid == 1, labels, 255)[::-1])


@pytest.mark.parametrize(
    ("cfg", "part"),
    [
        (dict(type="HorizontalFlop"), "unknown transform 'HorizontalFlop'"),
        (dict(p=0.5), "unknown transform None"),
        (dict(type="Compose3", transforms=[]), "unknown transform"),
        (dict(type="HorizontalFlip", propability=1), "has no argument propability"),
        (dict(type="RandomResizedCrop"), "invalid arguments of RandomResizedCrop"),
        (dict(type="OneOf", transforms=[dict(type="Nope")]), "unknown transform 'Nope'"),
    ],
)
def test_wrong_transforms_are_named(cfg, part):
    with pytest.raises(ConfigError, match=part):
        Albumentations([cfg])


@pytest.mark.parametrize(
    ("name", "dtype"), [("ToGray", "uint8"), ("ColorJitter", "float32"), ("GaussianBlur", "int16")]
)
def test_a_transform_that_cannot_take_the_image_is_named(rng, name, dtype):
    pipeline = Albumentations([dict(type="HorizontalFlip"), dict(type=name, p=1)])
    message = f"hook.Albumentations: {name} does not support this image"
    with pytest.raises(ConfigError, match=message) as caught:
        pipeline(sample(rng, bands=8, dtype=dtype))
    assert "8 bands" in str(caught.value) and dtype in str(caught.value)


def test_numpy_seed_decides(rng):
    pipeline = Albumentations([dict(type="RandomCrop", height=8, width=8)])
    results = sample(rng)

    def draw(seed):
        np.random.seed(seed)  # noqa: NPY002 - what MMEngine seeds
        return pipeline({**results})["img"]

    np.testing.assert_array_equal(draw(1), draw(1))
    assert not np.array_equal(draw(1), draw(2))


class Samples(torch.utils.data.Dataset):
    def __init__(self):
        image = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64, 1)
        self.results = {"img": image}
        self.crop = Albumentations([dict(type="RandomCrop", height=4, width=4)])

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return int(self.crop(dict(self.results))["img"][0, 0, 0])


def test_workers_differ_and_a_seeded_run_is_repeatable():
    from functools import partial

    from mmengine.dataset import worker_init_fn

    def run(seed):
        init = partial(worker_init_fn, num_workers=2, rank=0, seed=seed)
        loader = DataLoader(Samples(), batch_size=1, num_workers=2, worker_init_fn=init)
        return [int(value) for value in loader]

    first = run(0)
    assert first == run(0) and first != run(1)
    assert first[0::2] != first[1::2]


def test_names_are_registered():
    for name in ("ScaleBands", "Albumentations", "PackSegSample", "PackClsSample"):
        assert TRANSFORMS.get(f"hook.{name}").__name__ == name


def test_changed_images_depend_on_their_number_alone(rng):
    before = sample(rng, dtype="uint8", sample_idx=5)  # 270 degrees, half the size
    native, known = before["img"].copy(), before["valid"] == 1
    after = ChangeImage()(before)
    assert after["img"].shape == (16, 12, 5) and after["valid"].shape == (16, 12)
    assert after["img_shape"] == (16, 12) and "geo" not in after
    known = np.rot90(known, 3).reshape(16, 2, 12, 2).all(axis=(1, 3))
    assert np.array_equal(after["valid"] == 1, known) and known.any() and not known.all()
    packed = PackSegSample()(after)["data_samples"]
    assert packed.change == "rotated" and np.isnan(packed.resolution)
    corner = native[:2, -2:].mean(axis=(0, 1))  # turned into the bottom right corner
    np.testing.assert_allclose(after["img"][-1, -1], corner, atol=1)
    noisy = [
        ChangeImage(noise=0.1)(sample(rng, sample_idx=i, img=native.copy())) for i in (1, 1, 2)
    ]
    assert noisy[0]["change"] == "noise0.1"
    assert np.array_equal(noisy[0]["img"], noisy[1]["img"])
    assert not np.array_equal(noisy[0]["img"], noisy[2]["img"])
