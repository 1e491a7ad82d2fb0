"""Two processes over gloo on a CPU against one process."""

import csv
import json

import numpy as np

from hook.checkpoint import load_checkpoint

# Sums over other batches differ in the last bits.
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
    # The step did something, so that equality means something.
    start = load_checkpoint(tiny.write_checkpoint(tmp_path / "base.py", tmp_path / "start.pth"))
    moved = max(
        float((value - start["state_dict"][key]).abs().max())
        for key, value in first["state_dict"].items()
    )
    assert moved > 100 * WEIGHT_TOLERANCE
