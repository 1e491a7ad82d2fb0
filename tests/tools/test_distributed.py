"""Two processes over gloo on a CPU against one process."""

import csv
import json

import numpy as np
import torch

from hook.apis import load_model
from hook.checkpoint import load_checkpoint

# Sums over different batches differ in the last bits.
SCORE_TOLERANCE = 2e-6
WEIGHT_TOLERANCE = 1e-5


def _predictions(folder):
    with (folder / "predictions.csv").open() as file:
        rows = list(csv.reader(file))[1:]
    # file, class and truth, then the scores
    return [row[:3] for row in rows], np.array([row[3:] for row in rows], float)


def test_testing_counts_each_of_an_odd_number_of_images_once(trained, tested, tools, tmp_path):
    config, work_dir = trained
    checkpoint = work_dir / "epoch_4.pth"
    one, two = tested, tmp_path / "two"
    tools.run_pair(
        "tools/dist_test.sh", config, checkpoint, "2", "--work-dir", tmp_path, "--out", two
    )
    names, scores = _predictions(one)
    names_of_two, scores_of_two = _predictions(two)
    assert len(names) == 7
    assert names == names_of_two
    assert np.abs(scores - scores_of_two).max() < SCORE_TOLERANCE
    for file in ("metrics.json", "confusion_matrix.json"):
        assert json.loads((one / file).read_text()) == json.loads((two / file).read_text())


def _varied(config, checkpoint, target):
    """Write the checkpoint with a classifier that predicts several classes."""
    model = load_model((config, checkpoint))
    classifier = model.decode_head.conv_seg
    image, size = torch.randn(4, 2, 32, 32), (32, 32)
    metas = [dict(ori_shape=size, img_shape=size, pad_shape=size)] * len(image)
    with torch.no_grad():
        torch.nn.init.normal_(classifier.weight)
        classifier.bias.zero_()
        classifier.bias.sub_(model.inference(image, metas).mean((0, 2, 3)))
    content = load_checkpoint(checkpoint) | {"state_dict": model.state_dict()}
    torch.save(content, target)
    return target


def test_two_segmentation_metrics_with_augmentation(seg_run, tools, tmp_path):
    config, checkpoint = seg_run
    checkpoint = _varied(config, checkpoint, tmp_path / "varied.pth")
    one, two = tmp_path / "one", tmp_path / "two"
    options = ("--tta", "--work-dir", tmp_path / "run", "--out")
    tools.run("tools/test.py", config, checkpoint, *options, one)
    tools.run_pair("tools/dist_test.sh", config, checkpoint, "2", *options, two)
    metrics = json.loads((one / "metrics.json").read_text())
    assert min(metrics[name] for name in ("mIoU", "mBF1", "mBPrecision", "mBRecall")) > 0
    assert json.loads((two / "metrics.json").read_text()) == metrics
    assert {p.name for p in two.glob("*.tif")} == {f"{name}.tif" for name in tools.tiny.SCENES}


def test_one_step_gives_the_same_weights(tools, tiny, tmp_path):
    step = """
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=1)
train_dataloader = dict(
    batch_size={batch}, sampler=dict(shuffle=False), dataset=dict(count=4)
)
val_cfg = val_dataloader = val_evaluator = None
param_scheduler = None
optim_wrapper = dict(optimizer=dict(_delete_=True, type="SGD", lr=0.1))
custom_hooks = [dict(type="FreezeBatchNorm")]
default_hooks = dict(checkpoint=dict(save_best=None))
"""
    tiny.write_cls_config(tmp_path / "base.py")
    for name, batch in (("one", 4), ("two", 2)):
        (tmp_path / f"{name}.py").write_text('_base_ = ["base.py"]\n' + step.format(batch=batch))
    tools.run("tools/train.py", tmp_path / "one.py", "--work-dir", tmp_path / "one")
    tools.run_pair("tools/dist_train.sh", tmp_path / "two.py", "2", "--work-dir", tmp_path / "two")
    first, second = (load_checkpoint(tmp_path / n / "epoch_1.pth") for n in ("one", "two"))
    assert first["meta"]["iter"] == second["meta"]["iter"] == 1
    largest = max(
        float((value.double() - second["state_dict"][key].double()).abs().max())
        for key, value in first["state_dict"].items()
    )
    assert largest < WEIGHT_TOLERANCE
    # The step changed the weights, so that the comparison is meaningful.
    start = load_checkpoint(tiny.write_checkpoint(tmp_path / "base.py", tmp_path / "start.pth"))
    moved = max(
        float((value - start["state_dict"][key]).abs().max())
        for key, value in first["state_dict"].items()
    )
    assert moved > 100 * WEIGHT_TOLERANCE
