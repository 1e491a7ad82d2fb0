"""The homogeneity metric: means over images, beside IoU, in a test of a real model."""

import logging

import numpy as np
import pytest
import torch
from mmengine.evaluator import Evaluator
from mmengine.registry import DefaultScope

from hook.engine.configs import load_config, setup_environment
from hook.engine.runner import build_runner
from hook.errors import ConfigError, DataError
from hook.evaluation.homogeneity import MEASURES, explained_variation, measure_regions
from hook.evaluation.homogeneity_metric import HomogeneityMetric

CLASSES = ("background", "town")


def _sample(regions, truth=None):
    sample = {
        "pred_sem_seg": {"data": torch.zeros(1, *np.shape(regions), dtype=torch.int64)},
        "token_map": {"data": torch.as_tensor(regions)[None]},
        "img_path": "a.tif",
    }
    if truth is not None:
        sample["gt_sem_seg"] = {"data": torch.as_tensor(truth)[None]}
    return sample


def _evaluate(metric, samples, images=None):
    metric.dataset_meta = {"classes": CLASSES}
    for number, sample in enumerate(samples):
        batch = {} if images is None else {"inputs": images[number : number + 1]}
        metric.process(batch, [sample])
    return metric.evaluate(len(samples))


def _maps(count):
    rng = np.random.default_rng(0)
    for size in [(30, 20), (16, 40)][:count]:
        truth = rng.integers(0, 2, size).repeat(2, 0).repeat(3, 1)
        regions = np.roll(truth, 1, 1) + 2 * (np.arange(truth.shape[1]) > 30)
        truth[rng.random(truth.shape) < 0.1] = 255
        yield regions, truth


# ---------------------------------------------------------------------------------- numbers
def test_means_over_images():
    maps = list(_maps(2))
    images = [torch.rand(3, *truth.shape) for _, truth in maps]
    metrics = _evaluate(
        HomogeneityMetric(tolerance=1), [_sample(*pair) for pair in maps], [*images]
    )
    each = [
        measure_regions(regions, truth, image.permute(1, 2, 0).numpy(), 1, stuff=(0,))
        for (regions, truth), image in zip(maps, images, strict=True)
    ]
    for name in MEASURES:
        factor = 1 if name == "VI" else 100
        shown = name if name == "TokenShare" else f"Token{name}"
        expected = factor * (each[0][name] + each[1][name]) / 2
        assert metrics[shown] == pytest.approx(expected, abs=1e-4)
    assert len(metrics) == len(MEASURES)


def test_undefined_measures_do_not_count():
    flat = np.zeros((8, 8), int)
    halves = flat.copy()
    halves[:, 4:] = 1
    metrics = _evaluate(HomogeneityMetric(), [_sample(halves, halves), _sample(flat, flat)])
    assert metrics["TokenBoundaryRecall"] == metrics["TokenASA"] == 100  # one has no boundary
    assert "TokenEV" not in metrics  # no image was given


def test_a_map_of_seeds_is_enlarged():
    truth = np.zeros((8, 8), int)
    truth[:, 4:] = 1
    seeds = np.array([[0, 1], [0, 1]])
    sample = _sample(truth, truth)
    sample["token_map"] = {"data": torch.as_tensor(seeds)[None]}
    assert _evaluate(HomogeneityMetric(), [sample])["TokenASA"] == 100


def test_nothing_to_score(caplog):
    flat = np.zeros((8, 8), int)
    with caplog.at_level(logging.INFO):
        assert _evaluate(HomogeneityMetric(), [_sample(flat)]) == {}
    with pytest.raises(DataError, match="1 of 2 images have no mask"):
        _evaluate(HomogeneityMetric(), [_sample(flat), _sample(flat, flat)])


def test_bad_input():
    with pytest.raises(ConfigError, match=r"hook\.HomogeneityMetric: tolerance"):
        HomogeneityMetric(tolerance=-1)
    with pytest.raises(ConfigError, match="has no class names"):
        HomogeneityMetric().process({}, [_sample(np.zeros((2, 2), int))])
    flat = np.zeros((8, 8), int)
    sample = _sample(flat, flat)
    del sample["token_map"]
    with pytest.raises(ConfigError, match="samples without tokens"):
        _evaluate(HomogeneityMetric(), [sample], [torch.zeros(3, 8, 8)])


def test_beside_the_iou_metric():
    with DefaultScope.overwrite_default_scope("mmseg"):
        evaluator = Evaluator([dict(type="hook.IoUMetric"), dict(type="hook.HomogeneityMetric")])
    evaluator.dataset_meta = {"classes": CLASSES}
    maps = list(_maps(2))
    for pair in maps:
        evaluator.process([_sample(*pair)], {})
    metrics = evaluator.evaluate(len(maps))
    assert next(iter(metrics)) == "mIoU"
    assert {"mIoU", "TokenASA", "TokenObjectShare", "TokenShare"} <= set(metrics)


# ---------------------------------------------------------------------------------- models
@pytest.fixture(scope="module")
def seg_config(tiny, scenes, tmp_path_factory):
    """A tiny segmentation whose test names the metric, and a checkpoint."""
    folder = tmp_path_factory.mktemp("homogeneity")
    extra = 'test_evaluator.append(dict(type="hook.HomogeneityMetric", tolerance=2))'
    config = tiny.write_seg_config(folder / "seg.py", scenes, extra)
    return config, tiny.write_checkpoint(config, folder / "seg.pth")


@pytest.fixture
def runner(seg_config, tmp_path):
    """Its runner, before the test."""
    setup_environment()
    cfg = load_config(seg_config[0])
    cfg.load_from, cfg.work_dir = str(seg_config[1]), str(tmp_path)
    return build_runner(cfg)


@torch.no_grad()
def token_map_of(model, image, sample, num_tokens=None):
    """The token that owns each pixel, from the tokenizer alone."""
    inputs = (image[None] - model.data_preprocessor.mean) / model.data_preprocessor.std
    weights = model.backbone.tokenizer(inputs, num_tokens).assignment[0]
    owners = weights.argmax(0).repeat_interleave(4, 0).repeat_interleave(4, 1)
    return owners.where(sample.valid_mask.data[0] > 0, -1).numpy()


def test_in_a_test_of_a_model(runner):
    metrics = runner.test()
    model, dataset = runner.model.eval(), runner.test_dataloader.dataset
    values = []
    for item in dataset:
        image, sample = item["inputs"], item["data_samples"]
        regions = token_map_of(model, image, sample)
        assert np.array_equal(regions < 0, sample.valid_mask.data[0].numpy() == 0)
        truth = sample.gt_sem_seg.data[0].numpy()
        values.append(measure_regions(regions, truth, image.permute(1, 2, 0).numpy(), 2))
    assert len(values) == 13
    for name in ("ASA", "UE", "VI", "EV", "CO"):
        known = [of[name] for of in values if not np.isnan(of[name])]
        expected = (1 if name == "VI" else 100) * np.mean(known)
        assert metrics[f"Token{name}"] == pytest.approx(expected, abs=1e-3)
    assert {"mIoU", "mBF1"} <= set(metrics)


def test_with_augmentation_the_tokens_are_those_of_the_image_itself(runner):
    item = runner.test_dataloader.dataset[3]
    kept = []
    for tta in (None, "d4"):
        runner.model.eval().test_cfg = dict(mode="whole", tta=tta)
        metric = HomogeneityMetric()
        metric.dataset_meta = runner.test_dataloader.dataset.metainfo
        batch = {"inputs": [item["inputs"]], "data_samples": [item["data_samples"].clone()]}
        with torch.no_grad():
            outputs = runner.model.test_step(batch)
        metric.process(batch, [sample.to_dict() for sample in outputs])
        kept += metric.results
    assert np.array_equal(*kept, equal_nan=True) and not np.isnan(kept[0]).all()


# ---------------------------------------------------------------------------------- pixels
def test_explained_variation_is_that_of_the_image(runner):
    item = runner.test_dataloader.dataset[3]
    image, sample = item["inputs"], item["data_samples"]
    model = runner.model.eval()
    regions, fewer = (token_map_of(model, image, sample, number) for number in (None, 2))
    assert fewer.max() < 2
    pixels = image.permute(1, 2, 0).numpy()
    assert 0 < explained_variation(pixels, fewer) < 1
    assert 0 < explained_variation(pixels, regions) < 1
