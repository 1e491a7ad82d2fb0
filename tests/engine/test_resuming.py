"""A resumed run equals the unbroken one, or the log says what differs."""

import errno
import json
import multiprocessing
import os
import random
import shutil
import socket
import uuid

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import init_default_scope
from torch import nn
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from hook.checkpoint import load_checkpoint
from hook.datasets.seeding import keep_random_state
from hook.engine.resuming import changed_settings
from hook.engine.runner import build_runner, set_resume
from hook.errors import CheckpointError, ConfigError, HookError
from hook.registry import DATASETS, METRICS, MODELS


@DATASETS.register_module()
class NoisyPoints(Dataset):
    """Points with noise of all three global generators."""

    def __init__(self, count=6, classes=("a", "b")):
        self.count, self.metainfo = count, {"classes": tuple(classes)}

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        noise = random.random() + np.random.rand() + torch.rand(3)  # noqa: NPY002
        return {"inputs": index + noise}


@DATASETS.register_module()
class NoisyStream(IterableDataset):
    """The same without indices; each of two workers reads half of them."""

    metainfo = {"classes": ("a", "b")}

    def __len__(self):
        return 8

    def __iter__(self):
        points = NoisyPoints(8)
        return (points[index] for index in range(get_worker_info().id, 8, 2))


@MODELS.register_module()
class DropoutLine(BaseModel):
    """Draws random numbers in the main process."""

    def __init__(self):
        super().__init__()
        self.line = nn.Linear(3, 1)

    def forward(self, inputs, mode="tensor"):
        out = self.line(nn.functional.dropout(torch.stack(inputs), 0.5, self.training))
        return {"loss": (out - 1).square().mean()} if mode == "loss" else list(out)


@METRICS.register_module()
class Scores(BaseMetric):
    """Given scores, one for each validation; then they repeat."""

    def __init__(self, name="mIoU", values=(1.0, 3.0, 2.0)):
        super().__init__()
        self.name, self.values, self.count = name, values, 0

    def process(self, data_batch, data_samples):
        self.results.append(1)

    def compute_metrics(self, results):
        self.count += 1
        return {self.name: self.values[(self.count - 1) % len(self.values)]}


class Interrupt(Hook):
    """End the run at an iteration, or in the validation after it."""

    def __init__(self, at, in_validation=False):
        self.at, self.in_validation = at, in_validation

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == self.at and not self.in_validation:
            raise KeyboardInterrupt

    def before_val_epoch(self, runner):
        if runner.iter == self.at and self.in_validation:
            raise KeyboardInterrupt


def config(work_dir, **changes):
    """A run of 3 iterations in each epoch; ``changes`` are dotted keys."""
    points = dict(type="NoisyPoints")
    cfg = Config(
        dict(
            default_scope="hook",
            model=dict(type="DropoutLine"),
            train_dataloader=dict(
                dataset=points,
                sampler=dict(type="DefaultSampler", shuffle=True),
                batch_size=2,
                num_workers=0,
            ),
            val_dataloader=dict(
                dataset=points,
                sampler=dict(type="DefaultSampler", shuffle=False),
                batch_size=6,
                num_workers=0,
            ),
            val_evaluator=dict(type="Scores"),
            optim_wrapper=dict(optimizer=dict(type="AdamW", lr=0.1)),
            param_scheduler=[
                dict(type="LinearLR", start_factor=0.1, by_epoch=False, end=4),
                dict(
                    type="CosineAnnealingLR",
                    by_epoch=True,
                    begin=1,
                    end=4,
                    T_max=3,
                    convert_to_iter_based=True,
                ),
            ],
            train_cfg=dict(type="EpochBasedTrainLoop", max_epochs=4),
            val_cfg=dict(type="ValLoop"),
            default_hooks=dict(
                checkpoint=dict(type="CheckpointHook", interval=1, max_keep_ckpts=2),
                logger=dict(type="LoggerHook", interval=1),
            ),
            randomness=dict(seed=0),
            work_dir=str(work_dir),
        )
    )
    for key, value in changes.items():
        *parents, last = key.split(".")
        section = cfg
        for name in parents:
            section = section[name]
        section[last] = value
    return cfg


ITERATIONS = {
    "train_cfg": dict(type="IterBasedTrainLoop", max_iters=12, val_interval=2),
    "default_hooks.checkpoint.by_epoch": False,
    "default_hooks.checkpoint.interval": 2,
    "default_hooks.logger.log_metric_by_epoch": False,
    "log_processor": dict(by_epoch=False),
    "param_scheduler": [dict(type="PolyLR", by_epoch=False, end=12)],
}


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch):
    # Of MMEngine between passes over the data.
    monkeypatch.setattr("mmengine.runner.loops.time.sleep", lambda seconds: None)


def train(cfg, resume=None, interrupt=None, in_validation=False):
    """Train in this process, and return the final weights."""
    cfg.experiment_name = uuid.uuid4().hex
    init_default_scope("hook")
    with keep_random_state():
        set_resume(cfg, resume)
        runner = build_runner(cfg)
        if interrupt is None:
            weights = runner.train().state_dict()
        else:
            runner.register_hook(Interrupt(interrupt, in_validation))
            with pytest.raises(KeyboardInterrupt):
                runner.train()
            weights = None
    if interrupt is None:
        assert not multiprocessing.active_children()  # workers have ended
    return weights


def log(work_dir):
    """The log of the newest run of a folder."""
    return max(work_dir.glob("*/*.log"), key=os.path.getmtime).read_text()


def rates(work_dir):
    """Learning rates by iteration, of all runs of a folder."""
    found = {}
    for file in sorted(work_dir.glob("*/vis_data/scalars.json"), key=os.path.getmtime):
        lines = map(json.loads, file.read_text().splitlines())
        found |= {line["iter"]: line["lr"] for line in lines if "lr" in line}
    return found


def assert_equal(one, other):
    assert all(torch.equal(value, other[key]) for key, value in one.items())


@pytest.mark.parametrize("workers", [0, 2, "persistent"])
@pytest.mark.parametrize("loop", ["epochs", "passes", "endless"])
def test_a_resumed_run_equals_the_unbroken_one(loop, workers, tmp_path):
    changes = dict(ITERATIONS) if loop != "epochs" else {}
    if loop == "endless":
        changes["train_dataloader.sampler"] = dict(type="InfiniteSampler", shuffle=True)
    if workers:
        for part in ("train", "val"):
            changes[f"{part}_dataloader.num_workers"] = 2
            changes[f"{part}_dataloader.persistent_workers"] = workers == "persistent"
    if loop == "passes":
        changes["train_dataloader.batch_size"] = 1
        changes["train_cfg"] = {**changes["train_cfg"], "max_iters": 9}
    whole = train(config(tmp_path / "whole", **changes))
    assert_equal(whole, train(config(tmp_path / "again", **changes)))
    train(config(tmp_path / "broken", **changes), interrupt=7)
    assert_equal(whole, train(config(tmp_path / "broken", **changes), "auto"))
    assert "differs from an unbroken" not in log(tmp_path / "broken")
    assert rates(tmp_path / "whole") == rates(tmp_path / "broken")
    assert "finished already" not in log(tmp_path / "broken")


@pytest.mark.parametrize("changes", [{}, ITERATIONS], ids=["epochs", "iterations"])
def test_a_finished_run_says_so_and_stays(changes, tmp_path):
    whole = train(config(tmp_path, **changes))
    files = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.pth")}
    assert_equal(whole, train(config(tmp_path, **changes), "auto"))
    assert "The training has finished already, at" in log(tmp_path)
    assert files == {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.pth")}


def test_a_resumed_run_over_a_stream_equals_the_unbroken_one(tmp_path):
    stream = dict(type="NoisyStream")
    changes = {f"train_dataloader.{k}": v for k, v in dict(dataset=stream, sampler=None).items()}
    changes["train_dataloader.num_workers"] = 2
    whole = train(config(tmp_path / "whole", **changes))
    train(config(tmp_path / "broken", **changes), interrupt=9)
    assert_equal(whole, train(config(tmp_path / "broken", **changes), "auto"))


@pytest.mark.parametrize("changes", [{}, ITERATIONS], ids=["epochs", "iterations"])
def test_a_validation_that_was_cut_off_is_made_up_for(changes, tmp_path):
    whole = train(config(tmp_path / "whole", **changes))
    train(config(tmp_path / "broken", **changes), interrupt=6, in_validation=True)
    assert not list((tmp_path / "broken").glob("best_*"))
    best = {"default_hooks.checkpoint.save_best": "mIoU"}
    assert_equal(whole, train(config(tmp_path / "broken", **changes, **best), "auto"))
    assert "was saved but its validation is not on record" in log(tmp_path / "broken")
    # The scores start anew at the validation that is made up for, so the next is the best.
    assert len(list((tmp_path / "broken").glob("best_mIoU_*.pth"))) == 1


def test_a_run_without_a_seed_goes_on_with_the_seed_it_drew(tmp_path):
    changes = {"randomness.seed": None, "train_dataloader.num_workers": 1}
    train(config(tmp_path, **changes), interrupt=7)
    shutil.copytree(tmp_path, tmp_path / "copy")
    first, second = (train(config(d, **changes), "auto") for d in (tmp_path, tmp_path / "copy"))
    assert_equal(first, second)
    assert "differs from an unbroken" not in log(tmp_path)


COSINE = dict(type="CosineAnnealingLR", by_epoch=True, end=8, T_max=8, convert_to_iter_based=True)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"param_scheduler": [COSINE], "train_cfg.max_epochs": 8}, "T_max"),
        ({"param_scheduler": [dict(type="PolyLR", power=1.0, end=4)]}, "PolyLR"),
        ({"param_scheduler": []}, "param_scheduler"),
        ({"param_scheduler": None}, "param_scheduler"),
        ({"optim_wrapper.optimizer.lr": 0.3}, "0.1 -> 0.3"),
        ({"optim_wrapper.optimizer.weight_decay": 0.5}, "not set -> 0.5"),
        ({"train_dataloader.batch_size": 1}, "batch_size: 2 -> 1"),
    ],
    ids=["longer", "other", "empty", "none", "rate", "decay", "batch"],
)
def test_the_schedule_of_the_config_holds_after_resuming(changes, says, tmp_path):
    train(config(tmp_path / "whole", **changes))
    train(config(tmp_path / "broken"), interrupt=7)
    train(config(tmp_path / "broken", **changes), "auto")
    wanted = rates(tmp_path / "whole")
    start = 12 if "train_dataloader.batch_size" in changes else 6
    found = {k: v for k, v in rates(tmp_path / "broken").items() if k > start}
    assert found == pytest.approx({k: wanted[k] for k in found}, rel=1e-9)
    assert max(found) == max(wanted)
    assert says in log(tmp_path / "broken").partition("differs from an unbroken one")[2][:2000]
    left, right = (
        load_checkpoint(max((tmp_path / d).glob("epoch_*.pth"), key=os.path.getmtime))
        for d in ("whole", "broken")
    )
    groups = [c["optimizer"]["param_groups"][0] for c in (left, right)]
    assert {k: v for k, v in groups[0].items() if k != "lr"} == {
        k: v for k, v in groups[1].items() if k != "lr"
    }


@pytest.mark.parametrize("optimizer", [dict(type="SGD", lr=0.1), dict(type="RMSprop", lr=0.1)])
def test_the_state_of_another_optimizer_is_refused(optimizer, tmp_path):
    train(config(tmp_path), interrupt=7)
    with pytest.raises(CheckpointError, match="another optimizer"):
        train(config(tmp_path, **{"optim_wrapper.optimizer": optimizer}), "auto")


def test_classes_in_another_order_are_refused(tmp_path):
    train(config(tmp_path), interrupt=7)
    with pytest.raises(ConfigError, match="different order"):
        train(config(tmp_path, **{"train_dataloader.dataset.classes": ("b", "a")}), "auto")
    train(config(tmp_path, **{"train_dataloader.dataset.classes": ("a", "c")}), "auto")
    assert "\n  classes: ['a', 'b'] -> ['a', 'c']" in log(tmp_path)


def test_other_data_are_named(tmp_path):
    endless = {**ITERATIONS, "train_dataloader.sampler": dict(type="InfiniteSampler")}
    train(config(tmp_path, **endless), interrupt=7)
    train(config(tmp_path, **endless, **{"train_dataloader.dataset.count": 9}), "auto")
    assert "training data: 6 -> 9 samples" in log(tmp_path)


def test_weights_alone_are_not_the_state_of_a_run(tmp_path):
    train(config(tmp_path, **{"default_hooks.checkpoint.save_best": "mIoU"}))
    best = next(tmp_path.glob("best_*.pth"))
    with pytest.raises(CheckpointError, match="no optimizer") as caught:
        train(config(tmp_path), str(best))
    assert f"load_from={best}" in str(caught.value)


def test_a_run_resumed_elsewhere_leaves_the_first_folder_alone(tmp_path):
    best = {"default_hooks.checkpoint.save_best": "mIoU", "train_cfg.max_epochs": 2}
    first, second = tmp_path / "first", tmp_path / "second"
    train(config(first, **best))
    before = {path.name: path.read_bytes() for path in first.glob("*.pth")}
    best |= {"val_evaluator.values": (9.0, 10.0), "train_cfg.max_epochs": 4}
    train(config(second, **best), str(first / "epoch_2.pth"))
    assert {path.name: path.read_bytes() for path in first.glob("*.pth")} == before
    assert [path.name for path in second.glob("best_*.pth")] == ["best_mIoU_epoch_4.pth"]


def test_the_best_of_a_part_that_is_run_again_is_named(tmp_path):
    changes = {"default_hooks.checkpoint.save_best": "mIoU"}
    changes["default_hooks.checkpoint.max_keep_ckpts"] = -1
    train(config(tmp_path, **changes))  # the best is of epoch 2
    train(config(tmp_path, **changes), "auto")
    assert "not replaced" not in log(tmp_path)
    train(config(tmp_path, **changes), str(tmp_path / "epoch_1.pth"))
    assert f"not replaced: {tmp_path / 'best_mIoU_epoch_2.pth'}" in log(tmp_path)


def test_a_copied_folder_goes_on_by_itself(tmp_path):
    best = {"default_hooks.checkpoint.save_best": "mIoU"}
    old, new = tmp_path / "old", tmp_path / "new"
    train(config(old, **best), interrupt=7)
    shutil.copytree(old, new)
    before = {path.name: path.read_bytes() for path in old.glob("*.pth")}
    train(config(new, **best, **{"val_evaluator.values": (9.0,)}), "auto")
    assert {path.name: path.read_bytes() for path in old.glob("*.pth")} == before
    assert f"Load checkpoint from {new}" in log(new)
    assert len(list(new.glob("best_*.pth"))) == 1  # the copied one was replaced


def test_what_differs_is_logged(tmp_path):
    changes = {"default_hooks.checkpoint.by_epoch": False, "default_hooks.checkpoint.interval": 2}
    train(config(tmp_path, **changes), interrupt=5)
    content = load_checkpoint(tmp_path / "iter_4.pth")
    del content["random_state"]  # as written by earlier versions
    content["meta"]["cfg"] = "not Python ("
    torch.save(content, tmp_path / "iter_4.pth")
    train(config(tmp_path, **changes), "auto")
    text = log(tmp_path)
    for part in ("random draws start anew", "goes on at the start of epoch 2", "config cannot be"):
        assert part in text


def test_configs_are_compared_without_running_them():
    text = "model = dict(type='A', depth={})\nwork_dir = '{}'\nmine = 3\n"
    text += "param_scheduler = [dict(type='B', end=(1, 2)), {{'end': 4}}]\n"
    assert changed_settings(text.format(1, "a"), text.format(1, "b")) == {}
    assert changed_settings(text.format(1, "a"), text.format("open('x', 'w')", "b")) == {
        "model.depth": ("1", "open('x', 'w')")
    }
    nested = "param_scheduler = [dict(type='B', end=[1, 2]), dict(end=5)]"
    assert changed_settings(text.format(1, "a"), nested) == {
        "model.type": ("'A'", "not set"),
        "model.depth": ("1", "not set"),
        "param_scheduler.1.end": ("4", "5"),
    }
    assert changed_settings("x = (", "x = 1") is None


def _rank(rank, port, whole, broken):
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE="2",
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    wrapper = dict(type="MMDistributedDataParallel", device_ids=None)
    for folder, resume, interrupt in (
        (whole, None, None),
        (broken, None, 5),
        (broken, "auto", None),
    ):
        cfg = config(folder, launcher="pytorch", model_wrapper_cfg=wrapper)
        train(cfg, resume, interrupt)


def test_two_processes_resume_with_their_own_random_states(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folders = tmp_path / "whole", tmp_path / "broken"
    # Not forked: autograd refuses to run in the fork of a process that has used its threads.
    torch.multiprocessing.spawn(_rank, (port, *folders), nprocs=2)
    whole, resumed = (
        load_checkpoint(max(folder.glob("epoch_*.pth"), key=os.path.getmtime)) for folder in folders
    )
    assert_equal(whole["state_dict"], resumed["state_dict"])
    assert len(whole["random_state"]) == 2
    assert "resumed epoch: 2" in log(folders[1])


# --------------------------------------------------------------------------- interrupted runs
class InterruptWhileFormatting(Interrupt):
    """Interrupts a library that raises another exception then."""

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        try:
            super().before_train_iter(runner, batch_idx)
        except:  # noqa: E722
            raise SyntaxError("failed to format") from None


@pytest.mark.parametrize("kind", [Interrupt, InterruptWhileFormatting])
def test_an_interrupted_run_says_which_checkpoint_is_kept(kind, tmp_path):
    runner = build_runner(config(tmp_path, experiment_name=uuid.uuid4().hex))
    runner.register_hook(kind(5, False))
    with keep_random_state(), pytest.raises(KeyboardInterrupt) as caught:
        runner.train()
    kept = tmp_path / "epoch_1.pth"
    assert caught.value.__notes__ == [f"{kept} is kept; continue with --resume"]


# ------------------------------------------------------------------------------ wrong configs
@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"default_hooks.checkpoint.interval": "often"}, "SoundCheckpointHook"),
        ({"train_cfg.val_interval": "1"}, "EpochBasedTrainLoop.run"),
    ],
)
def test_a_value_that_fails_in_use_is_an_error_of_the_config(changes, says, tmp_path):
    with pytest.raises(ConfigError, match="fails in use") as caught:
        train(config(tmp_path, **changes))
    assert says in str(caught.value)
    assert "Traceback" in log(tmp_path) and str(tmp_path) in caught.value.remedy


@DATASETS.register_module()
class BrokenPoints(NoisyPoints):
    """A user's data set with a defect."""

    def __getitem__(self, index):
        return {}["sensor"]


def test_a_defect_of_a_users_own_part_keeps_its_traceback(tmp_path):
    with pytest.raises(KeyError, match="sensor"):
        train(config(tmp_path, **{"train_dataloader.dataset.type": "BrokenPoints"}))


# ------------------------------------------------------------------------------ diverged runs
@pytest.mark.parametrize("changes", [{}, ITERATIONS], ids=["epochs", "iterations"])
def test_a_diverged_run_ends_and_keeps_its_sound_checkpoints(changes, tmp_path):
    changes = {
        **changes,
        "optim_wrapper.optimizer": dict(type="SGD", lr=1e30),
        "param_scheduler": [dict(type="ConstantLR", factor=1e-32, by_epoch=False, end=6)],
        "default_hooks.checkpoint.save_best": "mIoU",
    }
    with pytest.raises(HookError, match="diverged") as caught:
        train(config(tmp_path, **changes))
    assert str(tmp_path) in str(caught.value)
    kept = list(tmp_path.glob("*.pth"))
    assert {"epoch_2.pth", "iter_6.pth"} & {path.name for path in kept}
    for path in kept:
        weights = load_checkpoint(path)["state_dict"]
        assert all(value.isfinite().all() for value in weights.values())


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"train_dataloader.num_worker": 1}, "num_workers"),
        ({"train_cfg": dict(type="EpochBasedTrainLoop", max_epoch=2)}, "max_epochs"),
        ({"optim_wrapper.optimzer": dict(lr=1.0)}, "optimizer"),
        ({"optim_wrapper.optimizer.weight_decy": 0.1}, "weight_decay"),
        ({"param_scheduler": [dict(type="LinearLR", start_facto=0.1)]}, "start_factor"),
        ({"default_hooks.checkpoint.max_keep_ckpt": 1}, "max_keep_ckpts"),
    ],
)
def test_arguments_that_nothing_takes_are_named(changes, says, tmp_path):
    with pytest.raises(ConfigError) as caught:
        train(config(tmp_path, **changes))
    assert caught.value.expected == says


class FullDisk(Hook):
    """From the second epoch on, files that hold more than a few bytes cannot be written."""

    def __init__(self, number, patch):
        self.number, self.patch = number, patch

    def before_train_epoch(self, runner):
        if runner.epoch == 1:
            self.patch.setattr("mmengine.fileio.LocalBackend.put", self.put)

    def put(self, content, path):
        with open(path, "wb") as file:
            file.write(content[:100])
        raise OSError(self.number, os.strerror(self.number), path)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("best", [None, "mIoU"])
def test_a_full_disk_costs_no_checkpoint(number, best, tmp_path, monkeypatch):
    options = dict(max_keep_ckpts=1, save_best=best)
    changes = {f"default_hooks.checkpoint.{key}": value for key, value in options.items()}
    whole = train(config(tmp_path / "whole", **changes))
    cfg = config(tmp_path / "run", **changes)
    cfg.experiment_name = uuid.uuid4().hex
    with keep_random_state(), monkeypatch.context() as patch:
        runner = build_runner(cfg)
        runner.register_hook(FullDisk(number, patch))
        with pytest.raises(HookError, match="cannot be written") as caught:
            runner.train()
    assert "epoch_2.pth" in str(caught.value) and os.strerror(number) in str(caught.value)
    names = {"epoch_1.pth"} | ({"best_mIoU_epoch_1.pth"} if best else set())
    left = {path.name for path in (tmp_path / "run").iterdir() if "pth" in path.name}
    assert left == names
    assert (tmp_path / "run" / "last_checkpoint").read_text().endswith("epoch_1.pth")
    assert all(load_checkpoint(tmp_path / "run" / name) for name in names)
    assert_equal(whole, train(config(tmp_path / "run", **changes), "auto"))


def test_outdated_checkpoints_go_when_the_new_one_is_complete(tmp_path, monkeypatch):
    seen = []

    def replace(source, target, kept=os.replace):
        if str(target).endswith(".pth"):
            seen.append({path.name for path in tmp_path.glob("*.pth")})
        kept(source, target)

    monkeypatch.setattr("hook.engine.runner.os.replace", replace)
    train(
        config(
            tmp_path,
            **{
                "default_hooks.checkpoint.max_keep_ckpts": 1,
                "default_hooks.checkpoint.save_best": "mIoU",
            },
        )
    )
    assert all(any(name.startswith("epoch") for name in names) for names in seen[1:])
    best = [{name for name in names if name.startswith("best")} for names in seen]
    first = next(i for i, names in enumerate(best) if names)
    assert all(best[first:])
    assert {p.name for p in tmp_path.glob("*.pth")} == {"epoch_4.pth", "best_mIoU_epoch_2.pth"}


@pytest.mark.parametrize(
    ("name", "best"), [("mFscore", 1), ("mBF1", 1), ("TokenASA", 1), ("TokenUE", 1), ("strange", 0)]
)
def test_best_by_the_first_score_whose_rule_is_known(name, best, tmp_path):
    changes = {"default_hooks.checkpoint.save_best": "auto", "val_evaluator.name": name}
    train(config(tmp_path, **changes))
    found = [path.name for path in tmp_path.glob("best_*.pth")]
    assert len(found) == best
    if best:
        assert found[0].endswith("epoch_1.pth" if name == "TokenUE" else "epoch_2.pth")
    else:
        assert "keeps no best checkpoint" in log(tmp_path)
    with pytest.raises(ConfigError, match="not computed"):
        train(config(tmp_path / "other", **{"default_hooks.checkpoint.save_best": "mDice"}))


@pytest.mark.parametrize(("rule", "bad"), [("greater", "inf"), ("less", "-inf"), ("less", "nan")])
def test_a_score_that_is_no_number_is_never_the_best(rule, bad, tmp_path):
    changes = {
        "default_hooks.checkpoint.save_best": "mIoU",
        "default_hooks.checkpoint.rule": rule,
        "val_evaluator.values": (float(bad), 2.0, float(bad), 2.0),
    }
    train(config(tmp_path, **changes))
    assert [path.name for path in tmp_path.glob("best_*.pth")] == ["best_mIoU_epoch_2.pth"]
    assert "never the best" in log(tmp_path)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"train_dataloader.batch_size": 7, "train_dataloader.drop_last": True}, "at least 7"),
        ({"train_cfg.max_epochs": 0}, "max_epochs"),
        ({"train_dataloader.dataset.count": 0}, "at least one"),
        (
            {
                **ITERATIONS,
                "train_dataloader.batch_size": 7,
                "train_dataloader.drop_last": True,
            },
            "at least 7",
        ),
    ],
)
def test_a_training_of_no_step_is_refused(changes, says, tmp_path):
    with pytest.raises(ConfigError, match="no step") as caught:
        train(config(tmp_path, **changes))
    assert says in str(caught.value)
    endless = {
        **ITERATIONS,
        "train_dataloader.batch_size": 7,
        "train_dataloader.drop_last": True,
        "train_dataloader.sampler": dict(type="InfiniteSampler"),
    }
    train(config(tmp_path, **endless))
