"""Everybody who looks at tokens sees those that the model made its answer from."""

import itertools

import numpy as np
import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from hook.engine.configs import setup_environment
from hook.engine.models import build_model
from hook.errors import ConfigError
from hook.evaluation.homogeneity_metric import HomogeneityMetric
from hook.evaluation.superpixels import token_regions
from hook.inference.regions import RegionPredictor
from hook.inference.tokens import image_tokens, tokenize
from hook.structures import ClsDataSample
from hook.tokenizers import ImageFacts
from hook.visualization import hook as validation_hook
from hook.visualization import tokens as token_pictures

SIZES = [(32, 32), (24, 40), (30, 37)]
MEAN, STD = 0.5, 0.3


def build(tokenizer, task="segmentation", slide=False, **backbone):
    """A tiny model; its preprocessor pads segmentation images to multiples of 8."""
    setup_environment()
    options = dict(mean=[MEAN] * 3, std=[STD] * 3)
    if tokenizer.get("preset") == "fast":
        options["mark_invalid"] = True
    body = dict(type="hook.TokenViT", tokenizer=tokenizer, embed_dims=8, depth=2, num_heads=2)
    if task == "segmentation":
        model = dict(
            type="EncoderDecoder",  # as configs of users say
            data_preprocessor=dict(
                type="hook.SegDataPreProcessor", test_cfg=dict(size_divisor=8), **options
            ),
            backbone=body | dict(out_indices=(1,)) | backbone,
            decode_head=dict(
                type="FCNHead", in_channels=8, channels=8, num_convs=0, num_classes=2,
                concat_input=False, norm_cfg=dict(type="BN"),
                loss_decode=dict(type="hook.CrossEntropyLoss"),
            ),
            test_cfg=dict(mode="slide", crop_size=(16, 16), stride=(16, 16))
            if slide else dict(mode="whole"),
        )  # fmt: skip
    else:
        model = dict(
            type="hook.TokenClassifier",
            data_preprocessor=dict(type="hook.ClsDataPreProcessor", **options),
            backbone=body | backbone,
            head=dict(type="hook.LinearClsHead", num_classes=2, in_channels=8),
        )
    torch.manual_seed(0)
    built = build_model(Config(dict(model=model, default_scope="mmseg"))).eval()
    built.cfg, built.dataset_meta = Config({}), dict(classes=("a", "b"), mean=[MEAN] * 3)
    return built


def picture(size, seed=0):
    """Smooth ground with two fields and noise, and a corner without data."""
    rng = np.random.default_rng(seed)
    rows, columns = np.indices(size)
    image = np.stack([rows / 40, columns / 40, (rows > 12) * 0.8 * (columns > 9)])
    image = (image + 0.1 * rng.standard_normal((3, *size))).astype(np.float32)
    valid = np.ones(size, bool)
    valid[-7:, -5:] = False
    return image, valid


@torch.no_grad()
def expected_map(model, image, valid, num_tokens, cells):
    """The token map from the parts of the tokenizer, cell by cell."""
    tokenizer, (height, width) = model.backbone.tokenizer, valid.shape
    filled = np.where(valid, image, MEAN)
    divisor = 8 if hasattr(model, "decode_head") else 1
    padding = ((0, 0), (0, -height % divisor), (0, -width % divisor))
    inputs = np.pad((filled - np.float32(MEAN)) / np.float32(STD), padding)
    inputs = torch.from_numpy(inputs.astype(np.float32))[None]
    if not hasattr(tokenizer, "perceive"):
        rows, columns = inputs.shape[-2] // cells, inputs.shape[-1] // cells
        owners = np.arange(rows * columns).reshape(rows, columns)
    else:
        facts = ImageFacts()
        if tokenizer.takes_valid:
            facts = ImageFacts(torch.from_numpy(np.pad(valid, padding[1:]))[None])
        seeds = tokenizer.perceive(inputs, facts)
        if num_tokens is None and model.backbone.explained is not None:
            num_tokens = int(tokenizer.count_tokens(seeds, model.backbone.explained))
        owners = tokenizer.vectorize(seeds, num_tokens).assignment[0].argmax(0).numpy()
    pixels = owners.repeat(cells, 0).repeat(cells, 1)
    missing = (0, max(height - len(pixels), 0)), (0, max(width - pixels.shape[1], 0))
    return np.where(valid, np.pad(pixels, missing, "edge")[:height, :width], -1)


def answer(model, image, valid, num_tokens):
    """The data sample that comes back from a test step, and the batch."""
    kind = SegDataSample if hasattr(model, "decode_head") else ClsDataSample
    meta = dict(ori_shape=valid.shape, img_shape=valid.shape, num_tokens=num_tokens)
    sample = kind(metainfo=meta)
    sample.valid_mask = PixelData(data=torch.from_numpy(valid.astype(np.uint8))[None])
    filled = torch.from_numpy(np.where(valid, image, np.float32(MEAN)))
    with torch.no_grad():
        return model.test_step({"inputs": [filled], "data_samples": [sample]})[0], filled


def maps_of_all(model, image, valid, num_tokens, monkeypatch):
    """The token map as each reader has it."""
    sample, filled = answer(model, image, valid, num_tokens)
    seen, drawn = [], []
    with monkeypatch.context() as patch:
        measure = "hook.evaluation.homogeneity_metric.measure_regions"
        patch.setattr(measure, lambda regions, *_, **__: seen.append(regions) or _NOTHING)
        metric = HomogeneityMetric()
        metric.dataset_meta = model.dataset_meta
        truth = {"data": torch.zeros(1, *valid.shape, dtype=torch.int64)}
        labelled = sample.to_dict() | dict(gt_sem_seg=truth, pred_sem_seg=truth)
        metric.process({"inputs": [filled]}, [labelled])
        patch.setattr(validation_hook, "draw_sample", lambda *given: drawn.append(given[-1]))
        patch.setattr(validation_hook, "save_png", lambda *_: None)
        hook = validation_hook.TokenVisualizationHook(out_dir=".")
        hook._draw_batch(_Runner(model), {"inputs": [filled]}, [sample], "test", 0)
    regions = RegionPredictor(model, num_tokens)(image[None], valid[None])
    cut = image_tokens(model, image, valid, num_tokens)
    maps = {
        "metric": seen[0],
        "validation picture": drawn[0],
        "regions": np.where(valid, regions.token_ids[0], -1),
        "tokenize": cut.token_map(),
    }
    number = tokenize(model, image, valid, num_tokens).num_tokens
    assert number == sample.tokens.num_tokens == regions.embeddings.shape[1]
    if cut.output.assign != "grid":  # squares are not drawn as regions
        maps["token pictures"] = token_pictures._token_view(
            model, image, valid, num_tokens, None
        ).token_ids
    return maps, sample.tokens


_NOTHING = {
    name: 0.0 for name in __import__("hook.evaluation.homogeneity", fromlist=["MEASURES"]).MEASURES
}


class _Runner:
    def __init__(self, model):
        self.model, self.work_dir = model, "."
        self.test_loop = ConfigDict(dataloader=ConfigDict(dataset=ConfigDict()))
        self.visualizer = ConfigDict(_vis_backends={})


def check(model, num_tokens, size, cells, monkeypatch):
    image, valid = picture(size)
    wanted = expected_map(model, image, valid, num_tokens, cells)
    maps, tokens = maps_of_all(model, image, valid, num_tokens, monkeypatch)
    for reader, found in maps.items():
        np.testing.assert_array_equal(found, wanted, err_msg=reader)
    return tokens


@pytest.mark.parametrize("task", ["segmentation", "classification"])
@pytest.mark.parametrize("with_cls_token", [False, True])
@pytest.mark.parametrize("diffusion_steps", [0, 5])
@pytest.mark.parametrize("assign", ["seed", "token"])
@pytest.mark.parametrize("preset", ["reference", "fast"])
def test_hook(preset, assign, diffusion_steps, with_cls_token, task, monkeypatch):
    tokenizer = dict(
        type="hook.HookTokenizer",
        preset=preset,
        assign=assign,
        img_size=32,
        seed_dims=16,
        num_tokens=5,
        max_tokens=6,
        diffusion_steps=diffusion_steps,
        with_cls_token=with_cls_token,
    )
    model = build(tokenizer, task)
    for size, (explained, num_tokens) in itertools.product(
        SIZES if task == "segmentation" else SIZES[2:], ((None, None), (0.05, None), (0.05, 2))
    ):
        model.backbone.explained = explained
        tokens = check(model, num_tokens, size, 4, monkeypatch)
        assert num_tokens in (None, tokens.num_tokens)


@pytest.mark.parametrize("task", ["segmentation", "classification"])
@pytest.mark.parametrize("with_cls_token", [False, True])
def test_patches(with_cls_token, task, monkeypatch):
    tokenizer = dict(
        type="hook.PatchEmbedTokenizer", img_size=32, patch_size=8, with_cls_token=with_cls_token
    )
    for size in SIZES:
        check(build(tokenizer, task), None, size, 8, monkeypatch)


def test_few_tokens_of_many(monkeypatch):
    """With ``explained`` an image may need few of the model's twelve; nobody shows more."""
    tokenizer = dict(
        type="hook.HookTokenizer", preset="fast", img_size=32, seed_dims=16, num_tokens=12
    )
    model = build(tokenizer, explained=0.05)
    tokens = check(model, None, (32, 32), 4, monkeypatch)
    assert tokens.num_tokens < 12
    assert check(model, 12, (32, 32), 4, monkeypatch).num_tokens == 12


def test_small_parts_are_merged_alike(monkeypatch):
    """The metric and the regions agree on ``min_region_pixels`` too."""
    tokenizer = dict(
        type="hook.HookTokenizer", preset="fast", img_size=32, seed_dims=16, num_tokens=6
    )
    model, (image, valid) = build(tokenizer), picture((32, 40))
    sample, _ = answer(model, image, valid, None)
    merged = token_regions(sample.tokens, 64)
    regions = RegionPredictor(model, min_region_pixels=64)(image[None], valid[None]).token_ids[0]
    np.testing.assert_array_equal(np.where(valid, regions, -1), merged)
    assert (merged != sample.tokens.token_map()).any()


# ---------------------------------------------------------------------------------- several passes
def test_views_have_the_tokens_of_the_image_itself():
    tokenizer = dict(type="hook.HookTokenizer", preset="fast", img_size=32, seed_dims=16)
    for task in ("segmentation", "classification"):
        model, (image, valid) = build(tokenizer, task), picture((32, 32))
        alone, _ = answer(model, image, valid, None)
        model.test_cfg = dict(mode="whole", tta="d4")
        mean, _ = answer(model, image, valid, None)
        np.testing.assert_array_equal(mean.tokens.token_map(), alone.tokens.token_map())
        if task == "classification":
            assert not torch.allclose(mean.pred_score, alone.pred_score, atol=1e-6)


def test_crops_have_no_tokens_of_the_image():
    tokenizer = dict(type="hook.HookTokenizer", preset="fast", img_size=16, seed_dims=16)
    model, (image, valid) = build(tokenizer, slide=True), picture((32, 24))
    sample, filled = answer(model, image, valid, None)
    assert "tokens" not in sample
    metric = HomogeneityMetric()
    metric.dataset_meta = model.dataset_meta
    truth = {"data": torch.zeros(1, 32, 24, dtype=torch.int64)}
    with pytest.raises(ConfigError, match=r"test_cfg\.mode='whole'"):
        metric.process({"inputs": [filled]}, [sample.to_dict() | dict(gt_sem_seg=truth)])
    for cut in (
        lambda: tokenize(model, image, valid),
        lambda: RegionPredictor(model)(image[None], valid[None]),
    ):
        with pytest.raises(ConfigError, match="the model splits a window into crops"):
            cut()
    one_crop = np.ascontiguousarray(image[:, :16, :16]), valid[:16, :16]
    assert "tokens" in answer(model, *one_crop, None)[0]
    assert tokenize(model, *one_crop).num_tokens == model.backbone.tokenizer.num_tokens


def test_crops_know_their_validity():
    """A crop leaves out what is not valid, as the whole image does."""
    tokenizer = dict(type="hook.HookTokenizer", preset="fast", img_size=16, seed_dims=16)
    model, (image, valid) = build(tokenizer, slide=True), picture((32, 32))
    spoilt = np.where(valid, image, np.float32(50))
    scores = []
    for values in (image, spoilt):
        inputs = torch.from_numpy((values - np.float32(MEAN)) / np.float32(STD))[None]
        sample = SegDataSample()
        sample.valid_mask = PixelData(data=torch.from_numpy(valid)[None])
        with torch.no_grad():
            facts = model.image_facts(inputs, [sample])
            scores.append(model.infer(inputs, facts)[0])
    assert torch.allclose(*scores, atol=1e-6)


def test_images_of_a_batch_that_ask_for_different_numbers():
    model = build(dict(type="hook.HookTokenizer", preset="fast", img_size=32, seed_dims=16))
    samples = [SegDataSample(metainfo=dict(num_tokens=number)) for number in (2, 3)]
    with pytest.raises(ConfigError, match="different num_tokens"):
        model.predict(torch.zeros(2, 3, 32, 32), samples)
