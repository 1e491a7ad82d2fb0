"""Real scenes of 4, 7 and 8 bands: load, sample, and pass through a training step."""

import numpy as np
import pytest
import rasterio
import torch
from mmengine.config import ConfigDict
from mmengine.dataset import pseudo_collate
from mmengine.optim import OptimWrapper
from mmengine.registry import DefaultScope
from mmseg.registry import MODELS
from mmseg.utils import register_all_modules
from torch.utils.data import DataLoader

from hook.datasets import GeoTIFFFolder, RandomGeoSampler

CHIP = 64
SCENES = {
    # file, its labels (None: a class per half of the brightness), nodata, bands
    "sentinel2": ("sentinel2_l1c_20181013_8band_uint8.tif", None, 255, 8),
    "naip": ("naip_4709963_se_20180716_rgbn_uint8_nodata0.tif", None, None, 4),
    "landsat7": (
        "landsat7_1999322_8band_int16_nodata-9999.tif",
        "landsat7_1999322_training_labels.tif",
        None,
        8,
    ),
    "landsat8": ("landsat8_elkton_b1-7_uint16.tif", "landsat8_elkton_labels.tif", None, 7),
}


def bright_half(image, target):
    """Write a mask on the image's own grid: 1 where the first band is above its median."""
    with rasterio.open(image) as source:
        band, profile = source.read(1), source.profile
    profile.update(count=1, dtype="uint8", nodata=255, compress="deflate", driver="GTiff")
    profile.pop("photometric", None)
    with rasterio.open(target, "w", **profile) as mask:
        mask.write((band > np.median(band)).astype(np.uint8), 1)


@pytest.mark.parametrize("preset", ["reference", "fast"])
@pytest.mark.parametrize("name", sorted(SCENES))
def test_load_sample_and_train(name, preset, shared_data, tmp_path):
    file, labels, nodata, bands = SCENES[name]
    image = shared_data / "multiband" / file
    if labels is None:
        mask = tmp_path / "mask.tif"
        bright_half(image, mask)
        classes, label_map = ("dark", "bright"), None
    else:
        mask = shared_data / "multiband" / labels
        with rasterio.open(mask) as source:
            values = sorted(set(np.unique(source.read(1))) - {source.nodata})
        classes = tuple(f"class {v}" for v in values)
        label_map = {int(v): i for i, v in enumerate(values)}
    with rasterio.open(image) as source:
        assert source.count == bands
        pixels = source.read(masked=True).astype(np.float64)
        fill = source.nodata if nodata is None else nodata
        pixels = np.ma.masked_where(pixels.data == fill, pixels) if fill is not None else pixels
    mean = [float(pixels[b].mean()) for b in range(bands)]
    std = [float(pixels[b].std()) or 1.0 for b in range(bands)]  # one band is constant
    dataset = GeoTIFFFolder(
        images=[str(image)],
        masks=[str(mask)],
        pair_by="location",
        chip_size=CHIP,
        mode="random",
        length=4,
        label_map=label_map,
        metainfo=dict(
            classes=classes, bands=tuple(range(1, bands + 1)), mean=mean, std=std, nodata=nodata
        ),
        pipeline=[dict(type="hook.PackSegSample")],
    )
    loader = DataLoader(
        dataset,
        batch_size=4,
        sampler=RandomGeoSampler(dataset, seed=0),
        collate_fn=pseudo_collate,
    )
    batch = next(iter(loader))
    assert len(batch["inputs"]) == 4
    assert all(chip.shape == (bands, CHIP, CHIP) for chip in batch["inputs"])
    assert all(torch.isfinite(chip).all() for chip in batch["inputs"])

    masks = preset == "fast"  # what has no data is no seed there
    register_all_modules(init_default_scope=False)
    with DefaultScope.overwrite_default_scope("mmseg"):
        model = MODELS.build(
            ConfigDict(
                type="hook.TokenSegmentor",
                data_preprocessor=dict(
                    type="hook.SegDataPreProcessor",
                    mean=mean,
                    std=std,
                    size=(CHIP, CHIP),
                    mark_invalid=masks,
                ),
                backbone=dict(
                    type="hook.TokenViT",
                    tokenizer=dict(
                        type="hook.HookTokenizer",
                        preset=preset,
                        img_size=CHIP,
                        in_channels=bands,
                        seed_dims=32,
                        num_tokens=8,
                    ),
                    embed_dims=48,
                    depth=4,
                    num_heads=4,
                    out_indices=(0, 1, 2, 3),
                ),
                neck=dict(type="hook.TokenPyramid", in_channels=48, out_channels=(16, 16, 16, 16)),
                decode_head=dict(
                    type="hook.SegFormerStyleHead",
                    in_channels=[16] * 4,
                    channels=16,
                    num_classes=len(classes),
                    loss_decode=dict(type="hook.CrossEntropyLoss"),
                ),
                train_cfg=dict(),
                test_cfg=dict(mode="whole"),
            )
        )
    first = next(model.backbone.tokenizer.stem.parameters())
    before = first.detach().clone()
    optimizer = OptimWrapper(torch.optim.AdamW(model.parameters(), lr=1e-3))
    losses = model.train().train_step(batch, optimizer)
    assert torch.isfinite(losses["loss"])
    labelled = any((s.gt_sem_seg.data != 255).any() for s in batch["data_samples"])
    if labelled:  # sparse labels may miss all four chips; then there is nothing to learn
        assert not torch.equal(first, before)
    else:
        assert name in ("landsat7", "landsat8")
