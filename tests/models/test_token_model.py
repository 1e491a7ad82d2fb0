"""What goes into models beside images, and that mmseg's configs get the same numbers as before."""

import numpy as np
import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.structures import PixelData
from mmseg.models import EncoderDecoder
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

from hook.datasets.transforms import Albumentations, PackClsSample, PackSegSample
from hook.engine.configs import setup_environment
from hook.engine.models import build_model
from hook.errors import DataError
from hook.models import TokenSegmentor
from hook.models.token_model import collect_facts
from hook.structures import ClsDataSample
from hook.tokenizers import ImageFacts, SpaceTimeTokenizer

FAST = dict(type="hook.HookTokenizer", preset="fast", img_size=32, seed_dims=16, num_tokens=4)


def config(tokenizer, test_cfg=None, **preprocessor):
    backbone = dict(
        type="hook.TokenViT", tokenizer=tokenizer, embed_dims=16, depth=2, num_heads=2,
        out_indices=(0, 1),
    )  # fmt: skip
    head = dict(
        type="FCNHead", in_channels=16, channels=16, num_convs=0, num_classes=3, in_index=1,
        concat_input=False, norm_cfg=dict(type="BN"), dropout_ratio=0.0,
    )  # fmt: skip
    options = dict(mean=[0.0] * 3, std=[1.0] * 3) | preprocessor
    return dict(
        type="EncoderDecoder",
        data_preprocessor=dict(type="hook.SegDataPreProcessor", **options),
        backbone=backbone,
        decode_head=head,
        auxiliary_head=head | dict(in_index=0),
        test_cfg=test_cfg or dict(mode="whole"),
    )


def ours(options):
    setup_environment()
    torch.manual_seed(0)
    return build_model(Config(dict(model=options, default_scope="mmseg"))).eval()


# ------------------------------------------------------------------------- mmseg's EncoderDecoder
@pytest.mark.parametrize("kind", ["EncoderDecoder", "mmseg.EncoderDecoder", EncoderDecoder])
@pytest.mark.parametrize("size", [(32, 32), (50, 41)])
@pytest.mark.parametrize(
    "test_cfg", [dict(mode="whole"), dict(mode="slide", crop_size=(24, 24), stride=(16, 12))]
)
def test_configs_of_mmseg_give_the_same_numbers(kind, size, test_cfg, seg_samples):
    options = config(dict(FAST), test_cfg)
    model = ours(options | dict(type=kind))
    assert type(model) is TokenSegmentor
    stock = MODELS.build(ConfigDict(options)).eval()
    assert type(stock) is EncoderDecoder
    assert list(stock.state_dict()) == list(model.state_dict())
    stock.load_state_dict(model.state_dict())
    image = torch.randn(2, 3, *size)
    meta = dict(ori_shape=size, img_shape=size, pad_shape=size)
    batch = [
        {"inputs": list(image), "data_samples": [SegDataSample(metainfo=meta) for _ in image]}
        for _ in range(2)
    ]
    with torch.no_grad():
        assert torch.equal(model.inference(image, [meta] * 2), stock.inference(image, [meta] * 2))
        assert torch.equal(model(image)[0], stock(image)[0])
        for mine, theirs in zip(model.test_step(batch[0]), stock.test_step(batch[1]), strict=True):
            assert torch.equal(mine.seg_logits.data, theirs.seg_logits.data)
            assert torch.equal(mine.pred_sem_seg.data, theirs.pred_sem_seg.data)
    labelled = seg_samples(2, classes=3)
    losses = [each.loss(torch.zeros(2, 3, 64, 64), labelled) for each in (model, stock)]
    assert losses[0].keys() == losses[1].keys() and len(losses[0]) == 4
    for name in losses[0]:
        assert torch.equal(losses[0][name], losses[1][name])


# ----------------------------------------------------------------------------- ground resolution
@pytest.mark.parametrize("task", ["segmentation", "classification"])
def test_metres_reach_a_tokenizer_that_was_trained_with_them(task):
    options = config(FAST | dict(resolution=10.0))
    if task == "classification":
        body = {k: v for k, v in options["backbone"].items() if k != "out_indices"}
        options = dict(
            type="hook.TokenClassifier",
            data_preprocessor=dict(type="hook.ClsDataPreProcessor"),
            backbone=body,
            head=dict(type="hook.LinearClsHead", num_classes=2, in_channels=16),
        )
    model, kind = ours(options), SegDataSample if task == "segmentation" else ClsDataSample
    images = torch.randn(3, 3, 32, 32)
    meta = dict(ori_shape=(32, 32), img_shape=(32, 32))
    samples = [kind(metainfo=meta | more) for more in (dict(resolution=20.0), {}, dict())]
    samples[2].set_metainfo(dict(resolution=float("nan")))
    with torch.no_grad():
        tokens = [one.tokens.output.tokens[0] for one in model.predict(images, samples)]
        far = model.backbone.tokenizer(images, facts=ImageFacts(resolution=20.0)).tokens
        usual = model.backbone.tokenizer(images).tokens
    assert torch.allclose(tokens[0], far[0], atol=1e-5)
    assert not torch.allclose(tokens[0], usual[0], atol=1e-4)
    for row in (1, 2):  # where nothing is known, as in training
        assert torch.allclose(tokens[row], usual[row], atol=1e-5)


def test_metres_do_not_reach_a_tokenizer_trained_without():
    model, image = ours(config(dict(FAST))), torch.randn(1, 3, 32, 32)
    meta = dict(ori_shape=(32, 32), img_shape=(32, 32))
    with torch.no_grad():
        samples = (
            model.predict(image, [SegDataSample(metainfo=meta | more)])[0]
            for more in ({}, dict(resolution=77.0))
        )
        first, second = (sample.seg_logits.data for sample in samples)
    assert torch.equal(first, second)


def sample_of(transform, crs="EPSG:32633", **more):
    from pyproj import CRS

    size = more.pop("size", (8, 6))
    return dict(
        img=np.zeros((*size, 3), np.uint8),
        valid=np.eye(*size, dtype=np.uint8),
        geo=dict(crs=CRS(crs).to_wkt(), transform=transform, height=8, width=6),
        **more,
    )


@pytest.mark.parametrize("pack", [PackSegSample(), PackClsSample()])
def test_packed_samples_say_what_is_known(pack):
    metres = [
        pack(sample)["data_samples"].resolution
        for sample in (
            sample_of((2, 0, 5e5, 0, -2, 5e6)),
            sample_of((2, 0, 5e5, 0, -2, 5e6), size=(16, 12), scale_factor=(2.0, 2.0)),
            sample_of((1, 0, 5e5, 0, -1, 5e6), "EPSG:2227"),  # feet, far from their zone
            dict(img=np.zeros((8, 6, 3), np.uint8), dataset_meta=dict(resolution=10.0)),
            dict(img=np.zeros((8, 6, 3), np.uint8)),
        )
    ]
    # The last one by pyproj.Geod.
    assert metres[:3] == pytest.approx([2.0, 1.0, 0.3031653], rel=1e-6)
    assert metres[3:] == [10.0, None]
    degrees = pack(sample_of((1e-4, 0, 12.0, 0, -1e-4, 60.0), "EPSG:4326"))["data_samples"]
    assert degrees.resolution == pytest.approx(11.13 * 0.5**0.5, rel=5e-3)
    assert degrees.valid_mask.data.shape == (1, 8, 6) and degrees.valid_mask.data.sum() == 6


def test_augmentation_keeps_the_resolution_where_it_keeps_the_scale():
    for kind, expected in (("HorizontalFlip", 2.0), ("RandomScale", None)):
        sample = Albumentations([dict(type=kind, p=1.0)])(sample_of((2, 0, 5e5, 0, -2, 5e6)))
        assert "geo" not in sample
        metres = PackSegSample()(sample)["data_samples"].resolution
        assert metres == expected or (expected is None and np.isnan(metres))


# --------------------------------------------------------------------------------------- validity
def test_validity_reaches_the_tokenizer_in_training_and_test():
    """What lies under the mask, and padding, change neither losses nor predictions."""
    options = config(dict(FAST), mark_invalid=True, size=(40, 40), test_cfg=dict(size_divisor=8))
    model = ours(options)
    image, valid = torch.randn(3, 30, 37), torch.ones(1, 30, 37)
    valid[:, 20:, 9:] = 0
    results = []
    for filling in (0.0, 9.0):
        sample = SegDataSample(metainfo=dict(ori_shape=(30, 37), img_shape=(30, 37)))
        sample.valid_mask = PixelData(data=valid)
        sample.gt_sem_seg = PixelData(data=torch.ones(1, 30, 37, dtype=torch.int64))
        data = {"inputs": [image.where(valid > 0, filling)], "data_samples": [sample]}
        with torch.no_grad():
            answer = model.test_step({key: list(value) for key, value in data.items()})[0]
            loss = model(**model.data_preprocessor(data, True), mode="loss")
        results.append((answer.seg_logits.data, loss["decode.loss_ce"]))
        assert (answer.tokens.token_map() < 0).sum() == (valid == 0).sum()
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


def test_a_mask_without_invalid_pixels_changes_nothing():
    model = ours(config(dict(FAST), mark_invalid=True))
    inputs, sample = torch.randn(1, 3, 32, 32), SegDataSample()
    sample.valid_mask = PixelData(data=torch.ones(1, 32, 32))
    assert model.image_facts(inputs, [sample]).valid is None
    sample.valid_mask.data[:, 3, 4] = 0
    assert model.image_facts(inputs, [sample]).valid.sum() == 32 * 32 - 1


def test_wavelengths_of_a_part_of_a_batch_are_refused():
    tokenizer = SpaceTimeTokenizer(3, embed_dims=16, depth=1, num_heads=2, resolution=10.0)
    own = dict(wavelengths=[492, 560, 665])
    metas = (own, own), (own, dict(img_path="b.tif")), ({}, {})
    batches = [[ClsDataSample(metainfo=one) for one in both] for both in metas]
    images = torch.rand(2, 3, 16, 16)
    assert collect_facts(tokenizer, images, batches[0]).wavelengths.shape == (2, 3)
    tensors = [ClsDataSample(metainfo=dict(wavelengths=torch.tensor([492.0, 560, 665])))] * 2
    found = collect_facts(tokenizer, images, tensors).wavelengths
    assert found.tolist() == [[492, 560, 665]] * 2
    assert collect_facts(tokenizer, images, batches[2]).wavelengths is None
    with pytest.raises(DataError, match="b.tif: without wavelengths"):
        collect_facts(tokenizer, images, batches[1])


@pytest.mark.parametrize(
    "facts",
    [
        dict(wavelengths=490),
        dict(wavelengths=[490, None, 665]),
        dict(wavelengths=[490, 560]),
        dict(dates=["2018-04-29"]),
        dict(dates=np.array(["2018-04-29"], "datetime64[ns]")),
        dict(dates=5),
        dict(dates=[[1, 2], [3]]),
    ],
)
def test_facts_that_are_no_numbers_are_refused(facts):
    tokenizer = SpaceTimeTokenizer(3, embed_dims=16, depth=1, num_heads=2, resolution=10.0)
    with pytest.raises(DataError, match=f"{next(iter(facts))} of the samples do not fit"):
        collect_facts(tokenizer, torch.rand(1, 3, 16, 16), [ClsDataSample(metainfo=facts)])
