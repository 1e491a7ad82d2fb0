"""Exported files against PyTorch, in ONNX Runtime on the CPU, and what Deepness reads of them."""

import json

import numpy as np
import onnx
import onnx_ir
import onnxruntime
import pytest
import torch

from hook.apis import export_onnx, load_model, predict_files
from hook.engine.models import is_segmentation
from hook.errors import ConfigError
from hook.inference import export
from hook.inference.windows import WindowPredictor

# Sizes that neither 4 nor the windows divide, marks, a skip, a number of tokens for each image.
FAST = """
metainfo["nodata"] = 0
metainfo["resolution"] = 2.0
metainfo["offset"] = [0.1, -0.2]
model["data_preprocessor"].update(mark_invalid=True, test_cfg=dict(size_divisor=8))
model["backbone"].update(
    tokenizer=dict(
        type="hook.HookTokenizer", preset="fast", img_size=32, in_channels=2, seed_dims=16,
        max_tokens=4, num_tokens=4, nan_is_invalid=True, perception_window=3, assign="token",
    ),
    seed_skip=True, explained=0.5, out_indices=(0, 0, 0, 0), dense_size=None,
)
model["neck"] = dict(
    type="hook.SeedPyramid", in_channels=16, seed_channels=16, out_channels=(8, 8, 8, 8)
)
model["decode_head"] = dict(
    type="SegformerHead", in_channels=[8] * 4, in_index=[0, 1, 2, 3], channels=8, num_classes=3,
    norm_cfg=dict(type="BN"), loss_decode=dict(type="CrossEntropyLoss", avg_non_ignore=True),
)
"""
# A stock model of mmseg: its own preprocessor, which swaps the bands, and one output for two
# classes; it slides over crops.
STOCK = """
metainfo.update(classes=("land", "water"), bands=(3, 2, 1), mean=[1.0, 2.0, 3.0])
metainfo.update(scale=[0.01, 0.02, 0.03], palette=None)
model["data_preprocessor"] = dict(
    type="SegDataPreProcessor", mean=[1.0, 2.0, 3.0], std=[0.5, 0.6, 0.7], bgr_to_rgb=True,
    size=(32, 32),
)
model["backbone"] = dict(
    type="MixVisionTransformer", embed_dims=8, num_stages=4, num_layers=[1] * 4,
    num_heads=[1, 1, 2, 2],
)
model["decode_head"] = dict(
    type="SegformerHead", in_channels=[8, 8, 16, 16], in_index=[0, 1, 2, 3], channels=8,
    num_classes=2, out_channels=1, threshold=0.5, norm_cfg=dict(type="BN"),
    loss_decode=dict(type="CrossEntropyLoss", use_sigmoid=True, avg_non_ignore=True),
)
model["test_cfg"] = dict(mode="slide", crop_size=(64, 64), stride=(32, 32))
"""
# Seeds choose tokens, whose maps are resized with a filter; a class token.
TOKEN = """
model["backbone"]["tokenizer"].update(assign="token", with_cls_token=True)
"""
PATCHES = """
model["backbone"]["tokenizer"] = dict(
    type="hook.PatchEmbedTokenizer", img_size=32, patch_size=8, in_channels=2,
    with_pos_embed=True, with_cls_token=True,
)
"""


@torch.no_grad()
def _liven(model):
    """Give random weights biases and statistics, and logits a spread: else any file would agree."""
    torch.manual_seed(1)
    for name, tensor in model.named_parameters():
        if tensor.ndim == 1:
            tensor.add_(torch.randn_like(tensor) * 0.1)
        elif "pos_embed" in name:
            tensor.normal_()
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1)
    classifier = model.decode_head.conv_seg if is_segmentation(model) else model.head.fc
    logits = []
    hook = classifier.register_forward_hook(lambda *args: logits.append(args[-1].transpose(0, 1)))
    side = export._default_window(model)
    model(torch.randn(8, export._num_bands(model), side, side), mode="tensor")
    hook.remove()
    spread = logits[0].flatten(1).std(dim=1)
    classifier.weight.div_(spread.view(-1, *[1] * (classifier.weight.ndim - 1)))
    classifier.bias.sub_(logits[0].flatten(1).mean(dim=1)).div_(spread)
    return model


def _run(path, images):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: images})[0]


def _metadata(path):
    """Read metadata as Deepness does: ONNX Runtime's map, each value as JSON."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found = session.get_modelmeta().custom_metadata_map
    return {key: json.loads(value) for key, value in found.items()}


def _as_deepness(images, path):
    """Give native values (B, C, H, W) to a file as Deepness does."""
    meta = _metadata(path)
    given = np.float32(images * 1.0 / 255.0)
    mean, std = (np.float32(meta[f"standardization_{name}"]) for name in ("mean", "std"))
    return (given - mean[:, None, None]) / std[:, None, None]


@pytest.fixture(scope="module")
def exported(seg_run, tmp_path_factory):
    """The tiny segmentation with the reference tokenizer, its file, and the report."""
    model = _liven(load_model(seg_run))
    path = tmp_path_factory.mktemp("onnx") / "seg.onnx"
    return model, path, export_onnx(model, path)


@pytest.fixture
def build(tiny, scenes, tmp_path):
    """A function from changes of the tiny segmentation to its model."""

    def build(extra):
        config = tiny.write_seg_config(tmp_path / "tiny_seg.py", scenes, extra)
        return _liven(load_model((config, tiny.write_checkpoint(config, tmp_path / "seg.pth"))))

    return build


def _check(path, model, images, valid):
    expected = WindowPredictor(model)(images, valid)
    found = _run(path, _as_deepness(images, path))
    assert found.dtype == np.float32
    assert found.shape == expected.shape
    assert expected.std(axis=(0, 2, 3)).max() > 0.01  # else any file would agree
    assert np.abs(found - expected).max() < 1e-4
    assert np.allclose(found.sum(1), 1, atol=1e-5)


# ------------------------------------------------------------------------------------ agreement
def test_a_batch_of_any_size_agrees(exported):
    model, path, report = exported
    rng = np.random.default_rng(3)
    for batch in (1, 4):
        images = rng.integers(0, 300, (batch, 2, 32, 32)).astype(np.uint16)
        _check(path, model, images, np.ones((batch, 32, 32), bool))
    assert (report.output, report.window, report.num_bands) == (path, 32, 2)
    assert report.size == path.stat().st_size
    assert 0 < report.difference < export.TOLERANCE
    assert list(path.parent.iterdir()) == [path]


def test_deepness_reads_its_settings(exported):
    _, path, _ = exported
    meta = _metadata(path)
    assert meta["model_type"] == "Segmentor"
    assert meta["class_names"] == {"0": "water", "1": "field", "2": "town"}
    assert meta["tile_size"] == meta["tiles_size"] == 32
    assert meta["tiles_overlap"] == 25
    assert meta["seg_thresh"] == meta["seg_small_segment"] == 0
    assert meta["standardization_mean"] == [0, 0]
    assert meta["standardization_std"] == [1, 1]
    assert "resolution" not in meta  # the config knows none
    assert meta["bands"] == ["red", "nir"]
    assert meta["mean"] == pytest.approx([1.3, 1.3])
    assert meta["std"] == pytest.approx([0.7, 0.7])
    assert meta["scale"] == [0.01, 0.01]
    assert meta["offset"] == [0, 0]
    assert meta["num_tokens"] == 4
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (image,), (probabilities,) = session.get_inputs(), session.get_outputs()
    assert image.shape == ["batch", 2, 32, 32]
    assert probabilities.shape == ["batch", 3, 32, 32]
    assert image.type == probabilities.type == "tensor(float)"


def test_the_file_says_nothing_of_where_it_was_made_and_is_the_same_again(exported, repo, tmp_path):
    model, path, _ = exported
    export_onnx(model, tmp_path / "again.onnx")
    data = path.read_bytes()
    assert data == (tmp_path / "again.onnx").read_bytes()
    for trace in (str(repo), str(path.parent), ".py", "site-packages"):
        assert trace.encode() not in data
    onnx.checker.check_model(onnx.load(path), full_check=True)
    assert not any(node.metadata_props or node.doc_string for node in onnx.load(path).graph.node)


def test_fast_with_pixels_without_data(build, tmp_path):
    model, path = build(FAST), tmp_path / "fast.onnx"
    with pytest.raises(ConfigError, match="number of tokens differs between images"):
        export_onnx(model, path)
    export_onnx(model, path, window=38, num_tokens=3, opset=20)
    tokenizer = model.backbone.tokenizer
    assert (model.backbone.explained, tokenizer.num_tokens) == (0.5, 4)  # as before
    meta = _metadata(path)
    assert meta["resolution"] == 200  # centimetres
    assert (meta["tile_size"], meta["num_tokens"], meta["nodata"]) == (38, 3, "0.0")
    assert onnx.load(path).opset_import[0].version == 20

    model.backbone.explained, tokenizer.num_tokens = None, 3
    images = np.random.default_rng(4).integers(1, 300, (2, 2, 38, 38)).astype(np.float32)
    images[0, 0, :9] = 0  # nodata in one band
    images[1, 1, 5:12, 20:] = np.nan
    valid = np.ones((2, 38, 38), bool)
    valid[0, :9], valid[1, 5:12, 20:] = False, False
    _check(path, model, images, valid)


def test_a_stock_model_of_mmseg(build, tmp_path):
    model, path = build(STOCK), tmp_path / "stock.onnx"
    with pytest.raises(ConfigError, match="slides over windows of 96"):
        export_onnx(model, path, window=96)
    report = export_onnx(model, path)
    assert (report.window, report.num_bands) == (64, 3)
    images = np.random.default_rng(5).integers(0, 255, (2, 3, 64, 64)).astype(np.uint8)
    _check(path, model, images, np.ones((2, 64, 64), bool))
    # The three bands differ for the model, so a swap would show.
    swapped = _run(path, _as_deepness(images[:, ::-1], path))
    assert np.abs(swapped - _run(path, _as_deepness(images, path))).max() > 0.01
    assert _metadata(path)["bands"] == [3, 2, 1]


@pytest.mark.parametrize(("extra", "window"), [(TOKEN, 44), (PATCHES, None)])
def test_other_tokenizers(extra, window, build, tmp_path):
    model, path = build(extra), tmp_path / "other.onnx"
    side = export_onnx(model, path, window=window).window
    images = np.random.default_rng(6).integers(0, 300, (2, 2, side, side)).astype(np.uint16)
    _check(path, model, images, np.ones((2, side, side), bool))


def test_a_classification(cls_run, tmp_path):
    from PIL import Image

    model, path = _liven(load_model(cls_run)), tmp_path / "cls.onnx"
    export_onnx(model, path)
    images = np.random.default_rng(0).integers(0, 3, (3, 16, 16, 3), np.uint8)
    files = [tmp_path / f"{i}.png" for i in range(3)]
    for file, image in zip(files, images, strict=True):
        Image.fromarray(image).save(file)
    expected = np.stack([p.scores for p in predict_files(model, files, progress=False)])
    found = _run(path, _as_deepness(images.transpose(0, 3, 1, 2), path))
    assert expected.std(axis=0).max() > 0.01
    assert np.abs(found - expected).max() < 1e-4
    meta = _metadata(path)
    assert meta["model_type"] == "Classifier"
    assert meta["class_names"] == {"0": "dark", "1": "light", "2": "noisy"}
    assert "seg_thresh" not in meta


# ------------------------------------------------------------------------------------ refusals
@pytest.fixture
def quick(exported, monkeypatch):
    """The exported model, and an exporter that gives its file again."""
    model, path, _ = exported
    monkeypatch.setattr(export, "_to_onnx", lambda *_: onnx.load(path))
    return model


def test_a_file_that_disagrees_is_not_kept(quick, tmp_path, monkeypatch):
    export_onnx(quick, tmp_path / "right.onnx")
    with torch.no_grad():
        weight = quick.decode_head.conv_seg.weight
        weight.mul_(1.01)
        try:
            with pytest.raises(
                ConfigError, match="differs from PyTorch in its probabilities"
            ) as caught:
                export_onnx(quick, tmp_path / "x.onnx")
        finally:
            weight.div_(1.01)
    assert float(caught.value.found) > export.TOLERANCE
    # Pixels in other units than Deepness's.
    monkeypatch.setattr(export, "_as_given", lambda images: images)
    with pytest.raises(ConfigError, match="differs from PyTorch in its probabilities"):
        export_onnx(quick, tmp_path / "x.onnx")
    monkeypatch.setattr(export, "_as_given", lambda images: images[..., :16])
    with pytest.raises(ConfigError, match=r"x\.onnx does not run") as caught:
        export_onnx(quick, tmp_path / "x.onnx")
    assert str(tmp_path) not in str(caught.value.found)
    assert [p.name for p in tmp_path.iterdir()] == ["right.onnx"]


def test_probabilities_that_are_nan_are_not_agreement(quick, tmp_path, monkeypatch):
    unknown = np.full((1, 3, 32, 32), np.nan, np.float32)
    monkeypatch.setattr(export, "WindowPredictor", lambda *_, **__: lambda *_: unknown)
    with pytest.raises(ConfigError, match="differs from PyTorch in its probabilities"):
        export_onnx(quick, tmp_path / "x.onnx")
    assert list(tmp_path.iterdir()) == []


def test_what_onnx_cannot_express(build, tmp_path, monkeypatch):
    model = build("")
    head = type(model.decode_head)
    forward = head.forward

    def undecided(self, inputs):
        logits = forward(self, inputs)
        return logits if logits.sum() > 0 else -logits

    monkeypatch.setattr(head, "forward", undecided)
    # PyTorch 2.8 traces one of the two ways, which the comparison finds.
    refusal = "TokenSegmentor with TokenViT cannot be exported|differs from PyTorch"
    with pytest.raises(ConfigError, match=refusal):
        export_onnx(model, tmp_path / "x.onnx")
    assert list(tmp_path.glob("*.onnx")) == []


def test_regions_are_refused(build, tmp_path):
    model = build('model["backbone"]["tokenizer"].update(preset="objects")')
    with pytest.raises(ConfigError, match="preset 'objects'"):
        export_onnx(model, tmp_path / "x.onnx")


class _Program:
    """What PyTorch's exporter returns."""

    def __init__(self, proto):
        self.model = onnx_ir.from_proto(proto)

    @property
    def model_proto(self):
        return onnx_ir.to_proto(self.model)


def test_an_exporter_that_falls_back_without_a_word(exported, tmp_path, monkeypatch):
    model, path, _ = exported
    proto = onnx.load(path)
    monkeypatch.setattr(torch.onnx, "export", lambda *_, **__: _Program(proto))
    export_onnx(model, tmp_path / "right.onnx")
    with pytest.raises(ConfigError, match="opset 9 cannot be written"):
        export_onnx(model, tmp_path / "x.onnx", opset=9)
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 3
    with pytest.raises(ConfigError, match="dynamic batch size"):
        export_onnx(model, tmp_path / "x.onnx")
    assert [p.name for p in tmp_path.iterdir()] == ["right.onnx"]


def test_bad_input(exported, seg_run, tmp_path, monkeypatch):
    model = exported[0]
    (tmp_path / "old.onnx").write_text("")
    for name, says in (
        ("x.pt", "exported as ONNX"),
        ("old.onnx", "exists already"),
        ("no/x.onnx", "cannot be written"),
    ):
        # Before the model is loaded: the checkpoint does not exist.
        with pytest.raises(ConfigError, match=says):
            export_onnx((seg_run[0], tmp_path / "none.pth"), tmp_path / name)
    with pytest.raises(ConfigError, match="3 x 3 pixels do not fit"):
        export_onnx(model, tmp_path / "x.onnx", window=3)
    with pytest.raises(ConfigError, match="no queries for that many"):
        export_onnx(model, tmp_path / "x.onnx", num_tokens=5)
    monkeypatch.setattr(export, "_MAX_BYTES", 1000)
    with pytest.raises(ConfigError, match="too large"):
        export_onnx(model, tmp_path / "x.onnx")
    model.train()
    try:
        with pytest.raises(ConfigError, match="training mode"):
            export_onnx(model, tmp_path / "x.onnx")
    finally:
        model.eval()
    assert [p.name for p in tmp_path.iterdir()] == ["old.onnx"]


def test_missing_packages_are_named(exported, tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "onnxscript", None)  # importing it fails
    with pytest.raises(ConfigError, match="packages for the export are missing") as caught:
        export_onnx(exported[0], tmp_path / "x.onnx")
    assert caught.value.found == "no onnxscript"
    assert caught.value.remedy == "pip install 'hook-rs[export]'"
