from pathlib import Path

import pytest
import torch
from mmengine.structures import PixelData
from torchvision.transforms.v2 import functional as TF

from hook.engine.configs import load_config, setup_environment
from hook.engine.models import build_model
from hook.errors import ConfigError, DataError
from hook.models import ClsDataPreProcessor, SegDataPreProcessor
from hook.structures import ClsDataSample

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("kind", [ClsDataPreProcessor, SegDataPreProcessor])
@pytest.mark.parametrize("bands", [1, 3, 4, 8])
def test_normalises_any_number_of_bands(kind, bands):
    mean, std = [float(i) for i in range(bands)], [float(i + 1) for i in range(bands)]
    images = [torch.rand(bands, 8, 8) * 10 for _ in range(2)]
    batch = kind(mean=mean, std=std)(dict(inputs=images))["inputs"]
    expected = torch.stack(images).permute(0, 2, 3, 1).sub(torch.tensor(mean))
    expected = expected.div(torch.tensor(std)).permute(0, 3, 1, 2)
    assert torch.allclose(batch, expected, atol=1e-6)


def test_seg_labels_are_padded_with_the_ignore_index(seg_samples):
    preprocessor = SegDataPreProcessor(mean=[0.0], std=[1.0], size=(80, 80), seg_pad_val=255)
    batch = preprocessor(
        dict(inputs=[torch.rand(3, 64, 64)], data_samples=seg_samples(1)), training=True
    )
    label = batch["data_samples"][0].gt_sem_seg.data
    assert batch["inputs"].shape == (1, 3, 80, 80)
    assert (label[:, 64:] == 255).all()
    assert (label[:, :, 64:] == 255).all()


@pytest.mark.parametrize("kind", [ClsDataPreProcessor, SegDataPreProcessor])
def test_wrong_statistics(kind):
    with pytest.raises(ConfigError, match="one value per band"):
        kind(mean=[0.0], std=[1.0, 2.0])
    with pytest.raises(ConfigError, match="positive"):
        kind(mean=[0.0], std=[0.0])
    with pytest.raises(ConfigError, match="number of bands"):
        kind(mean=[0.0] * 4, std=[1.0] * 4)(dict(inputs=[torch.rand(3, 8, 8)]))


def test_images_of_different_size_are_refused():
    with pytest.raises(ConfigError, match="differ in size"):
        ClsDataPreProcessor()(dict(inputs=[torch.rand(3, 8, 8), torch.rand(3, 9, 8)]))


def test_images_without_a_valid_pixel_are_left_out_of_training():
    preprocessor = ClsDataPreProcessor()
    samples = [ClsDataSample(gt_label=k, metainfo=dict(img_path=f"{k}.tif")) for k in range(3)]
    samples[1].set_metainfo(dict(blank=True))
    images = [torch.full((3, 8, 8), float(k)) for k in range(3)]
    kept = preprocessor(dict(inputs=images, data_samples=samples), training=True)
    assert kept["inputs"][:, 0, 0, 0].tolist() == [0, 2]
    assert [sample.gt_label for sample in kept["data_samples"]] == [0, 2]
    assert len(preprocessor(dict(inputs=images, data_samples=samples))["inputs"]) == 3
    with pytest.raises(DataError, match=r"1\.tif: no valid pixel"):
        preprocessor(dict(inputs=images[1:2], data_samples=samples[1:2]), training=True)


@pytest.mark.parametrize("options", [dict(mixup=0.8), dict(cutmix=1.0), dict(mixup=1, cutmix=1)])
def test_mixing_keeps_the_labels_mass(options):
    preprocessor = ClsDataPreProcessor(num_classes=4, **options)
    samples = [ClsDataSample(gt_label=i) for i in range(4)]
    images = [torch.full((3, 8, 8), float(i)) for i in range(4)]
    mixed = preprocessor(dict(inputs=images, data_samples=samples), training=True)
    scores = torch.stack([sample.gt_score for sample in mixed["data_samples"]])
    assert torch.allclose(scores.sum(1), torch.ones(4))
    # The image's mean is the labels' mean: constant images mix as their labels do.
    means = mixed["inputs"].mean((1, 2, 3))
    assert torch.allclose(means, scores @ torch.arange(4.0), atol=1e-4)


def test_mixing_only_while_training():
    preprocessor = ClsDataPreProcessor(num_classes=4, mixup=1.0)
    samples = [ClsDataSample(gt_label=i) for i in range(2)]
    out = preprocessor(dict(inputs=[torch.rand(3, 8, 8)] * 2, data_samples=samples))
    assert "gt_score" not in out["data_samples"][0]


def test_mixing_needs_the_number_of_classes():
    with pytest.raises(ConfigError, match="num_classes"):
        ClsDataPreProcessor(mixup=1.0)


def test_training_without_size_pads_to_the_largest(seg_samples):
    samples = seg_samples(1, size=64) + seg_samples(1, size=48)
    images = [torch.rand(3, 64, 64), torch.rand(3, 48, 48)]
    batch = SegDataPreProcessor(mean=[0.0], std=[1.0])(
        dict(inputs=images, data_samples=samples), training=True
    )
    assert batch["inputs"].shape == (2, 3, 64, 64)


@pytest.mark.parametrize(
    "options",
    [
        dict(size=(32, 32), size_divisor=4),
        dict(size=(32, "32")),
        dict(size=32),
        dict(size_divisor=0),
        dict(size_divisor=None),
        dict(test_cfg=dict(size=(32, 32), size_divisor=4)),
        dict(test_cfg=dict(size_divisor=2.5)),
    ],
)
def test_padding_to_a_size_and_a_divisor_is_refused(options):
    with pytest.raises(ConfigError, match="size and size_divisor"):
        SegDataPreProcessor(**options)


def test_windows_without_samples_are_padded_too():
    preprocessor = SegDataPreProcessor(test_cfg=dict(size_divisor=4))
    batch = preprocessor(dict(inputs=[torch.rand(3, 30, 33)] * 2), training=False)
    assert batch["inputs"].shape == (2, 3, 32, 36)


@pytest.mark.parametrize("options", [dict(mixup=0.8), dict(cutmix=1.0)])
def test_mixing_keeps_out_what_is_not_valid(options):
    """Valid is what is valid in all that a mixed image is made of."""
    preprocessor = ClsDataPreProcessor(num_classes=2, mark_invalid=True, **options)
    samples = [ClsDataSample(gt_label=i) for i in range(2)]
    holes = torch.ones(1, 8, 8)
    holes[:, 2:5, 3:] = 0
    samples[0].valid_mask = PixelData(data=holes)
    images = [torch.where(holes > 0, 1.0, 100.0).expand(3, 8, 8), torch.ones(3, 8, 8)]
    mixed = preprocessor(dict(inputs=images, data_samples=samples), training=True)
    spoilt = (mixed["inputs"] - 1).abs().amax(1) > 1e-2
    for image, sample in zip(spoilt, mixed["data_samples"], strict=True):
        assert torch.equal(sample.valid_mask.data[0] == 0, image)
        assert sample.gt_score.sum() == pytest.approx(1)


def test_scales_are_drawn_per_batch_while_training():
    preprocessor = ClsDataPreProcessor(scales=[0.5, 1, 2])
    images = torch.rand(2, 3, 8, 12)
    drawn = set()
    for _ in range(20):
        samples = [ClsDataSample(gt_label=0, metainfo=dict(resolution=10.0)) for _ in range(2)]
        batch = preprocessor(dict(inputs=images, data_samples=samples), training=True)
        height = batch["inputs"].shape[-2]
        drawn.add(height)
        expected = TF.resize(images, [height, height * 3 // 2], antialias=True)
        assert torch.allclose(batch["inputs"], expected, atol=1e-6)
        assert batch["data_samples"][1].resolution == 10 * 8 / height
        assert batch["resized"] == (height != 8)
    assert drawn == {4, 8, 16}
    assert preprocessor(dict(inputs=images))["inputs"].shape == images.shape


def test_resizing_keeps_out_what_is_not_valid():
    holes = torch.ones(1, 8, 8)
    holes[:, 2:5, 3:] = 0
    image = torch.where(holes > 0, 1.0, 100.0).expand(3, 8, 8)
    for scale in (0.5, 0.75, 2):
        samples = [ClsDataSample(gt_label=0, valid_mask=PixelData(data=holes))]
        data = dict(inputs=[image], data_samples=samples)
        preprocessor = ClsDataPreProcessor(scales=[1, scale])
        preprocessor.scales = [scale]
        batch = preprocessor(data, training=True)
        valid = batch["data_samples"][0].valid_mask.data[0] > 0
        assert valid.shape == batch["inputs"].shape[-2:]
        assert valid.any()
        assert torch.allclose(batch["inputs"][0][:, valid], torch.ones(()), atol=0.1)


@pytest.mark.parametrize("scales", [[], [0.0, 1.0], [1.0, float("nan")], [2.0]])
def test_wrong_scales_are_refused(scales):
    with pytest.raises(ConfigError, match="scales"):
        ClsDataPreProcessor(scales=scales)


def test_a_tokenizer_that_takes_no_validity_is_refused():
    setup_environment()
    cfg = load_config(ROOT / "configs/hook/hook_vit-192x6_eurosat-2k-64.py")
    cfg.model.data_preprocessor.mark_invalid = True
    with pytest.raises(ConfigError, match="preset 'fast'"):
        build_model(cfg)
    cfg.model.backbone.tokenizer.update(preset="fast")
    assert build_model(cfg).backbone.tokenizer.takes_valid
    cfg.model.backbone.tokenizer.update(nan_is_invalid=True)  # as configs said before
    assert build_model(cfg).backbone.tokenizer.nan_is_invalid
