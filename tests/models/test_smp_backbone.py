"""Models of segmentation_models_pytorch as backbones, against the library's own answers."""

import pytest
import segmentation_models_pytorch as smp
import torch
from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope
from mmseg.registry import MODELS
from mmseg.utils import register_all_modules
from torch import nn

from hook.errors import ConfigError
from hook.models import SMPBackbone

UNET = dict(type="hook.SMPBackbone", arch="Unet", encoder_name="resnet18", in_channels=4)


@pytest.fixture(autouse=True)
def scope():
    register_all_modules(init_default_scope=False)
    with DefaultScope.overwrite_default_scope("mmseg"):
        yield


def build(bands=4):
    return MODELS.build(
        ConfigDict(
            type="EncoderDecoder",
            data_preprocessor=dict(
                type="hook.SegDataPreProcessor",
                mean=[0.5] * bands,
                std=[0.25] * bands,
                size=(64, 64),
            ),
            backbone=UNET,
            decode_head=dict(
                type="FCNHead",
                in_channels=16,
                channels=16,
                in_index=0,
                num_convs=0,
                concat_input=False,
                dropout_ratio=0.0,
                num_classes=5,
                loss_decode=dict(type="hook.CrossEntropyLoss"),
            ),
            train_cfg=dict(),
            test_cfg=dict(mode="whole"),
        )
    )


def same_weights(arch, **options):
    """A backbone, and the library's model with the same weights."""
    backbone = SMPBackbone(arch, "resnet18", **options).eval()
    theirs = smp.create_model(arch, "resnet18", encoder_weights=None, classes=5, **options).eval()
    result = theirs.load_state_dict(backbone.model.state_dict(), strict=False)
    assert all(key.startswith("segmentation_head.") for key in result.missing_keys)
    assert not result.unexpected_keys
    return backbone, theirs


@pytest.mark.parametrize("size", [(64, 64), (50, 37), (1, 33)])
@torch.no_grad()
def test_logits_are_the_librarys(size):
    backbone, theirs = same_weights("Unet", in_channels=4)
    model = build().eval()
    model.backbone.load_state_dict(backbone.state_dict())
    classifier = nn.Conv2d(16, 5, kernel_size=3, padding=1)  # the library's has 3 x 3 pixels
    classifier.load_state_dict(theirs.segmentation_head[0].state_dict())
    model.decode_head.conv_seg = classifier
    image = torch.rand(2, 4, *size)
    meta = dict(ori_shape=size, img_shape=size, pad_shape=size)
    logits = model.inference(image, [meta] * 2)
    assert logits.shape == (2, 5, *size)
    assert torch.allclose(logits, theirs(image), atol=1e-5)


@pytest.mark.parametrize("arch", ["UnetPlusPlus", "Linknet", "FPN", "DeepLabV3Plus"])
@torch.no_grad()
def test_images_are_padded_where_the_model_needs_it(arch):
    backbone, theirs = same_weights(arch)
    whole = torch.rand(1, 3, 64, 96)
    features = backbone(whole)[0]
    assert features.shape[1] == backbone.out_channels
    assert torch.allclose(theirs.segmentation_head(features), theirs(whole), atol=1e-5)
    # 60 x 92 pixels are padded to 64 x 96 with zeros at the bottom and at the right.
    whole[..., 60:, :], whole[..., 92:] = 0, 0
    part = backbone(whole[..., :60, :92])[0]
    stride = 96 // features.shape[-1]
    assert torch.allclose(part, backbone(whole)[0][..., : 60 // stride, : 92 // stride], atol=1e-6)


@pytest.mark.parametrize("size", [(61, 70), (33, 31), (5, 64)])
@torch.no_grad()
def test_features_stay_where_they_were_in_an_image_of_any_size(size):
    backbone, _ = same_weights("FPN")
    image = torch.rand(1, 3, *size)
    features = backbone(image)[0]
    assert features.shape == (1, 128, *size)
    # What a head's resize of the whole padded image gives, where the image lies in it.
    rows, columns = (-(-side // 32) * 32 for side in size)
    padded = torch.zeros(1, 3, rows, columns)
    padded[..., : size[0], : size[1]] = image
    resized = nn.functional.interpolate(backbone(padded)[0], (rows, columns), mode="bilinear")
    assert torch.allclose(features, resized[..., : size[0], : size[1]], atol=1e-6)


def test_training_reaches_the_encoder(seg_samples):
    model = build()
    model.init_weights()
    batch = model.data_preprocessor(
        dict(inputs=[torch.rand(4, 64, 64)] * 2, data_samples=seg_samples()), training=True
    )
    loss = model.loss(**batch)["decode.loss_ce"]
    loss.backward()
    assert torch.isfinite(loss)
    assert model.backbone.model.encoder.conv1.weight.grad.abs().sum() > 0
    assert all(p.grad is not None for p in model.parameters())  # what several processes need


def test_options_reach_the_library():
    backbone = SMPBackbone(encoder_name="resnet18", encoder_depth=3, decoder_channels=(32, 16, 8))
    assert backbone.out_channels == 8
    assert backbone(torch.rand(2, 3, 40, 40))[0].shape == (2, 8, 40, 40)


@pytest.mark.parametrize(
    ("options", "remedy"),
    [
        (dict(arch="UNet"), "did you mean Unet"),
        (dict(encoder_name="resnet43"), "did you mean resnet34"),
        (dict(encoder_weights="imagnet"), "did you mean imagenet"),
        (dict(encoder_weights=True), "choose one of these"),
    ],
)
def test_unknown_names(options, remedy):
    with pytest.raises(ConfigError, match=f"model.backbone.{next(iter(options))}") as caught:
        SMPBackbone(**options)
    assert remedy in str(caught.value)


def test_weights_are_fetched_for_training_only(monkeypatch):
    def offline(*args, **kwargs):
        raise FileNotFoundError("no network")

    monkeypatch.setattr("segmentation_models_pytorch.encoders.hf_hub_download", offline)
    backbone = SMPBackbone(encoder_name="resnet18", encoder_weights="imagenet")
    with pytest.raises(ConfigError, match="weights cannot be fetched") as caught:
        backbone.init_weights()
    assert "encoder_weights=None" in str(caught.value)


def test_fetched_weights_are_the_encoders(monkeypatch, tmp_path):
    from safetensors.torch import save_file

    source = smp.encoders.get_encoder("resnet18", weights=None)
    save_file(source.state_dict(), tmp_path / "model.safetensors")
    monkeypatch.setattr(
        "segmentation_models_pytorch.encoders.hf_hub_download",
        lambda repo, filename, revision: str(tmp_path / filename),
    )
    backbone = SMPBackbone(encoder_name="resnet18", encoder_weights="imagenet")
    backbone.init_weights()
    for key, value in source.state_dict().items():
        assert torch.equal(backbone.model.encoder.state_dict()[key], value)
