"""TokenViT under mmseg's EncoderDecoder with the paper's and mmseg's heads."""

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope
from mmseg.registry import MODELS
from mmseg.utils import register_all_modules

from hook.errors import ConfigError
from hook.models import TokenPyramid

CE = dict(type="hook.CrossEntropyLoss")
HEADS = {
    "paper": (
        dict(type="hook.TokenPyramid", in_channels=48, out_channels=(16, 24, 32, 32)),
        dict(
            type="hook.SegFormerStyleHead",
            in_channels=[16, 24, 32, 32],
            channels=24,
            num_classes=5,
            loss_decode=CE,
        ),
    ),
    "segformer": (
        None,
        dict(
            type="mmseg.SegformerHead",
            in_channels=[48] * 4,
            in_index=[0, 1, 2, 3],
            channels=24,
            num_classes=5,
            norm_cfg=dict(type="BN"),
            loss_decode=CE,
        ),
    ),
    "upernet": (
        None,
        dict(
            type="mmseg.UPerHead",
            in_channels=[48] * 4,
            in_index=[0, 1, 2, 3],
            pool_scales=(1, 2),
            channels=24,
            num_classes=5,
            norm_cfg=dict(type="BN"),
            loss_decode=CE,
        ),
    ),
    "fcn": (
        None,
        dict(
            type="mmseg.FCNHead",
            in_channels=48,
            in_index=3,
            channels=24,
            num_convs=1,
            num_classes=5,
            norm_cfg=dict(type="BN"),
            loss_decode=CE,
        ),
    ),
}


@pytest.fixture(autouse=True)
def scope():
    register_all_modules(init_default_scope=False)
    with DefaultScope.overwrite_default_scope("mmseg"):
        yield


def build(tokenizer, head="paper", losses=None, preprocessor=None, **options):
    neck, decode = HEADS[head]
    decode = dict(decode, **options)
    if losses is not None:
        decode["loss_decode"] = losses
    return MODELS.build(
        ConfigDict(
            type="hook.TokenSegmentor",
            data_preprocessor=dict(
                dict(type="hook.SegDataPreProcessor", mean=[0.5] * 3, std=[0.25] * 3),
                **(preprocessor or dict(size=(64, 64))),
            ),
            backbone=dict(
                type="hook.TokenViT",
                tokenizer=tokenizer,
                embed_dims=48,
                depth=4,
                num_heads=4,
                out_indices=(0, 1, 2, 3),
            ),
            neck=neck,
            decode_head=decode,
            train_cfg=dict(),
            test_cfg=dict(mode="whole"),
        )
    )


@pytest.mark.parametrize("head", sorted(HEADS))
def test_heads_train_and_predict(tokenizer, head, seg_samples):
    model = build(tokenizer, head)
    batch = model.data_preprocessor(
        dict(inputs=[torch.rand(3, 64, 64)] * 2, data_samples=seg_samples()), training=True
    )
    losses = model.loss(**batch)
    losses["decode.loss_ce"].backward()
    assert torch.isfinite(losses["decode.loss_ce"])
    assert model.backbone.blocks[0].attn.qkv.weight.grad.abs().sum() > 0
    model.eval()
    with torch.no_grad():
        predicted = model.predict(torch.rand(2, 3, 64, 64), seg_samples())
    assert predicted[0].pred_sem_seg.data.shape == (1, 64, 64)
    assert predicted[0].seg_logits.data.shape == (5, 64, 64)


@pytest.mark.parametrize(
    "loss",
    [
        dict(type="hook.DiceLoss"),
        dict(type="hook.FocalLoss"),
        dict(type="hook.CrossEntropyLoss", class_weight=[1, 2, 3, 4, 5], loss_name="loss_weighted"),
    ],
)
def test_losses_for_rare_classes(hook_tokenizer, loss, seg_samples):
    model = build(hook_tokenizer, losses=[CE, loss])
    losses = model.loss(torch.rand(2, 3, 64, 64), seg_samples())
    total = sum(v for k, v in losses.items() if "loss" in k)
    total.backward()
    assert torch.isfinite(total)


def test_training_lowers_the_loss(hook_tokenizer, seg_samples):
    model = build(hook_tokenizer).train()
    image, samples = torch.rand(2, 3, 64, 64), seg_samples()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    history = []
    for _ in range(6):
        loss = model.loss(image, samples)["decode.loss_ce"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(float(loss.detach()))
    assert history[-1] < history[0]


def test_pyramid_levels():
    maps = tuple(torch.rand(1, 48, 8, 8) for _ in range(4))
    levels = TokenPyramid(48, (16, 24, 32, 40)).eval()(maps)
    assert [tuple(level.shape[1:]) for level in levels] == [
        (16, 32, 32),
        (24, 16, 16),
        (32, 8, 8),
        (40, 4, 4),
    ]


def test_pyramid_refuses_other_numbers():
    with pytest.raises(ConfigError, match="out_channels"):
        TokenPyramid(48, (16, 24))
    with pytest.raises(ConfigError, match="four maps"):
        TokenPyramid(48)((torch.rand(1, 48, 4, 4),))


@pytest.mark.parametrize("ignored", [255, 250, -1, 3])
@pytest.mark.parametrize("chosen", [None, 254, 1])
def test_padding_takes_the_label_that_the_head_ignores(
    hook_tokenizer, seg_samples, ignored, chosen
):
    options = dict(size=(80, 80)) | ({} if chosen is None else dict(seg_pad_val=chosen))
    model = build(hook_tokenizer, preprocessor=options, ignore_index=ignored)
    batch = model.data_preprocessor(
        dict(inputs=[torch.rand(3, 64, 64)] * 2, data_samples=seg_samples()), training=True
    )
    padding = batch["data_samples"][0].gt_sem_seg.data[:, 64:].unique().tolist()
    assert padding == [1 if chosen == 1 else ignored]  # a class may be chosen
