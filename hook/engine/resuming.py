"""Resume a training so that it equals the unbroken run; what differs is logged."""

import ast
import copy
import inspect
from collections.abc import Iterator, Mapping, Sized
from typing import Any

from mmengine.hooks import CheckpointHook, EarlyStoppingHook, Hook
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapperDict
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, IterBasedTrainLoop, Runner

from hook.checkpoint import check_classes, warn_input_changes
from hook.datasets.seeding import SeededSampler, set_random_state
from hook.engine.configs import RUNNER_KEYS
from hook.errors import CheckpointError
from hook.registry import HOOKS

# Settings that change neither weights nor scores of a run.
_WITHOUT_EFFECT = (
    "resume load_from work_dir launcher log_level log_processor visualizer experiment_name "
    "custom_imports default_hooks.logger default_hooks.timer default_hooks.visualization"
).split()
OF_OPTIMIZATION = ("optim_wrapper", "param_scheduler", "auto_scale_lr")
_LISTED_CHANGES = 20
# Entries of parameter groups that depend on PyTorch's version.
_FLAGS = set(
    "decoupled_weight_decay param_names foreach fused capturable differentiable maximize".split()
)
# What a scheduler counts, unlike its settings.
_COUNTED = ("last_step", "best", "num_bad_epochs", "cooldown_counter")


# ---------------------------------------------------------------------------------- checks
def check_resumable(runner: Runner, checkpoint: Mapping, source: str) -> None:
    """Check that a checkpoint holds the state of a training with the runner's optimizer.

    Raises:
        CheckpointError: If it holds weights only, or the state of another optimizer.
        ConfigError: If the training data have its classes in another order.
    """
    meta = checkpoint.get("meta") or {}
    lacking = [key for key in ("optimizer", "message_hub") if key not in checkpoint]
    lacking += [f"meta.{key}" for key in ("epoch", "iter") if key not in meta]
    if lacking:
        raise CheckpointError(
            f"checkpoint {source} cannot be resumed: it does not hold the state of a training",
            expected="weights, optimizer and counters, as in epoch_*.pth and iter_*.pth",
            found=f"no {', '.join(lacking)}; best_*.pth and published models hold weights only",
            remedy="resume from the newest epoch_*.pth or iter_*.pth of the run (--resume without "
            "a file), or start a new run from these weights: "
            f"--cfg-options load_from={source}",
        )
    for name, wrapper in _optimizers(runner):
        saved = checkpoint["optimizer"].get(name, {}) if name else checkpoint["optimizer"]
        both = saved.get("param_groups", []), wrapper.optimizer.param_groups
        sizes = [[len(group["params"]) for group in groups] for groups in both]
        names = [{key for group in groups for key in group} for groups in both]
        differ = {key for key in names[0] ^ names[1] if not key.startswith("initial_")} - _FLAGS
        if sizes[0] != sizes[1] or differ:
            raise CheckpointError(
                f"checkpoint {source} cannot be resumed: it holds the state of another optimizer",
                expected=f"that of {type(wrapper.optimizer).__name__} in optim_wrapper, for groups "
                f"of {sizes[1]} parameters",
                found=f"groups of {sizes[0]} parameters"
                + (f"; only one of the two has {', '.join(sorted(differ))}" if differ else ""),
                remedy="keep optim_wrapper of the interrupted run, or start a new run from these "
                f"weights: --cfg-options load_from={source}",
            )
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    before, now = checkpoint.get("num_samples"), _num_samples(runner)
    if before not in (None, now):
        runner.resume_notes.append(f"training data: {before} -> {now} samples")
    meta = getattr(runner.train_dataloader.dataset, "metainfo", None) or {}
    if meta.get("classes"):
        check_classes(model, checkpoint, meta["classes"], source)
        before = ((checkpoint["meta"].get("dataset_meta") or {}).get("classes")) or meta["classes"]
        if set(before) != set(meta["classes"]):
            runner.resume_notes.append(f"classes: {list(before)} -> {list(meta['classes'])}")
        warn_input_changes(model, checkpoint, meta, source)


def _num_samples(runner: Runner) -> int | None:
    dataset = runner.train_dataloader.dataset
    return len(dataset) if isinstance(dataset, Sized) else None


# ---------------------------------------------------------------------------------- config
def _read_settings(text: str) -> dict[str, str] | None:
    """Return dotted keys and values of a config's text, which is not executed."""
    found: dict[str, str] = {}

    def add(key: str, node: ast.expr) -> None:
        if isinstance(node, ast.Call) and not node.args:
            items = [(one.arg, one.value) for one in node.keywords]
        elif isinstance(node, ast.Dict):
            names = [getattr(name, "value", name) for name in node.keys]
            items = list(zip(names, node.values, strict=True))
        elif isinstance(node, (ast.List, ast.Tuple)):
            if not any(isinstance(one, (ast.Call, ast.Dict)) for one in node.elts):
                found[key] = ast.unparse(ast.List(node.elts, ast.Load()))
                return
            items = list(enumerate(node.elts))
        else:
            found[key] = ast.unparse(node)
            return
        for name, value in items:
            add(f"{key}.{name}", value)

    try:
        for line in ast.parse(text).body:
            if isinstance(line, ast.Assign) and line.targets[0].id in RUNNER_KEYS:
                add(line.targets[0].id, line.value)
    except (SyntaxError, ValueError, AttributeError, RecursionError, MemoryError):
        return None
    return found


def changed_settings(before: str, now: str) -> dict[str, tuple[str, str]] | None:
    """Return the settings with an effect on a run that differ between the texts of two configs.

    Returns:
        (before, now) by dotted key; None if a text cannot be read.
    """
    if before == now:
        return {}
    old, new = _read_settings(before), _read_settings(now)
    if not old or new is None:
        return None
    pairs = {key: (old.get(key, "not set"), new.get(key, "not set")) for key in {**old, **new}}
    return {
        key: pair
        for key, pair in pairs.items()
        if pair[0] != pair[1]
        and not any(key == one or key.startswith(f"{one}.") for one in _WITHOUT_EFFECT)
    }


# ------------------------------------------------------------------------------- optimizer
def _optimizers(runner: Runner) -> Iterator[tuple[str, Any]]:
    """Yield the optimizer wrappers with their names; a single one has none."""
    wrapper = runner.optim_wrapper
    yield from wrapper.items() if isinstance(wrapper, OptimWrapperDict) else [("", wrapper)]


def _of(schedulers: Any, name: str) -> list:
    schedulers = schedulers.get(name) if isinstance(schedulers, dict) else schedulers
    return schedulers or []


def hyperparameters(runner: Runner) -> dict[str, list[dict]]:
    """Return a copy of the hyperparameters of all parameter groups, by optimizer."""
    return {
        name: [
            {key: copy.copy(value) for key, value in group.items() if key != "params"}
            for group in wrapper.optimizer.param_groups
        ]
        for name, wrapper in _optimizers(runner)
    }


def _settings(state: Mapping) -> dict:
    return {k: v for k, v in state.items() if not k.startswith("_") and k not in _COUNTED}


def follow_schedule(
    runner: Runner, configured: dict[str, list[dict]], saved: Any, changed: bool
) -> list[str]:
    """Set hyperparameters and schedulers of a resumed run.

    MMEngine takes them from the checkpoint, whatever the config says. Here that holds only if the
    config's schedule is the checkpoint's; otherwise the config's is stepped up to the current
    iteration.

    Args:
        runner: A runner whose optimizer and counters are those of the checkpoint.
        configured: :func:`hyperparameters` of the config, before resuming.
        saved: ``param_schedulers`` of the checkpoint.
        changed: Whether the config's optimization is known to differ.

    Returns:
        What differs from the checkpoint, for the log.
    """
    notes = []
    for name, wrapper in _optimizers(runner):
        schedulers, states = _of(runner.param_schedulers, name), _of(saved, name)
        if (
            not changed
            and len(schedulers) == len(states)
            and all(
                _settings(one.state_dict()) == _settings(state)
                for one, state in zip(schedulers, states, strict=True)
            )
        ):
            for one, state in zip(schedulers, states, strict=True):
                one.load_state_dict(state)
            continue
        before = wrapper.optimizer.param_groups[0]["lr"]
        own = inspect.signature(type(wrapper.optimizer)).parameters
        for group, values in zip(wrapper.optimizer.param_groups, configured[name], strict=True):
            for key in [key for key in group if key.startswith("initial_") and key not in values]:
                del group[key]  # of a scheduler that the config no longer has
            group.update({k: v for k, v in values.items() if k.removeprefix("initial_") in own})
        _step(schedulers, runner.train_loop)
        now = wrapper.optimizer.param_groups[0]["lr"]
        if now != before:
            notes.append(f"learning rate by the config's schedule: {before:.4g} -> {now:.4g}")
        if any(getattr(one, "need_val_args", False) for one in schedulers):
            notes.append("schedulers that follow a score start anew")
    return notes


def _step(schedulers: list, loop: EpochBasedTrainLoop | IterBasedTrainLoop) -> None:
    """Step schedulers up to the current iteration, in the order of the training."""
    timed = [one for one in schedulers if not getattr(one, "need_val_args", False)]
    by_iter = [one for one in timed if not one.by_epoch]
    by_epoch = [one for one in timed if one.by_epoch]
    for one in timed:
        one.optimizer._global_step = loop.iter  # else each warns that no step was made
    is_by_epoch = isinstance(loop, EpochBasedTrainLoop)
    epochs, steps = (loop.epoch, len(loop.dataloader)) if is_by_epoch else (1, loop.iter)
    for _ in range(epochs):
        for _ in range(steps if by_iter else 0):
            for one in by_iter:
                one.step()
        for one in by_epoch if is_by_epoch else ():
            one.step()


# ------------------------------------------------------------------------------------ hook
def _progress(loop: BaseLoop) -> tuple[str, int, int]:
    """Return the unit of a training loop, how many of it are done, and how many there are."""
    if isinstance(loop, EpochBasedTrainLoop):
        return "epoch", loop.epoch, loop.max_epochs
    return "iteration", loop.iter, loop.max_iters


@HOOKS.register_module()
class ResumeHook(Hook):
    """Save random states in checkpoints, and resume with them.

    - A checkpoint gets ``random_state``, a list with the state of each process, and
      ``num_samples`` of the training data.
    - A resumed run restores it. An iteration-based one first skips the samples already seen.
    - A resumed run first runs the validation that the interruption prevented: MMEngine saves a
      checkpoint, then validates it. Its score, possibly the best one, would be lost.
    """

    # After CheckpointHook has read the best score so far from the message hub.
    priority = "LOWEST"

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Add the random states, and the number of samples."""
        checkpoint["random_state"] = runner.random_states
        checkpoint["num_samples"] = _num_samples(runner)

    def before_train(self, runner: Runner) -> None:
        """Restore the state of a resumed run, and run the missing validation."""
        if "resumed_from" not in runner.message_hub.runtime_info:
            return
        loop, notes = runner.train_loop, runner.resume_notes
        if isinstance(loop, IterBasedTrainLoop):
            if loop.fast_forward_on_resume:
                notes.append("the samples start anew (fast_forward_on_resume)")
            elif loop.iter:
                # Its iterator draws a number, which the unbroken run drew at its start.
                iterator = loop.dataloader_iterator
                iterator.skip_iter(loop.iter)
                iterator._ensure_iterator()
                iterator.skip_iter = lambda num_iters: None
        states = runner.random_states
        if len(states) == runner.world_size:
            set_random_state(states[runner.rank])
        else:
            notes.append(
                f"random draws start anew: the checkpoint has {len(states) or 'no'} random "
                f"state{'s' * (len(states) > 1)} for {runner.world_size} process(es)"
            )
        for _, wrapper in _optimizers(runner):
            if loop.iter % wrapper._accumulative_counts:
                notes.append("gradients accumulated before the checkpoint are lost")
        if any(isinstance(hook, EarlyStoppingHook) for hook in runner.hooks):
            notes.append("EarlyStoppingHook counts anew")
        if notes:
            listed = notes[:_LISTED_CHANGES]
            if len(notes) > len(listed):
                listed.append(f"and {len(notes) - len(listed)} more")
            runner.logger.warning(
                "The resumed run differs from an unbroken one:"
                + "".join(f"\n  {n}" for n in listed)
            )
        if not isinstance(loop, EpochBasedTrainLoop | IterBasedTrainLoop):
            return
        self._validate(runner)
        unit, done, end = _progress(loop)
        if done >= end:
            runner.logger.info(f"The training has finished already, at {unit} {done} of {end}.")

    def before_train_epoch(self, runner: Runner) -> None:
        """Tell the sampler the epoch of its draws."""
        loader = runner.train_dataloader
        samplers = [
            one for one in (loader.sampler, loader.batch_sampler) if isinstance(one, SeededSampler)
        ]
        for sampler in samplers:
            sampler.epoch = runner.epoch
        if (
            not samplers
            and loader.num_workers
            and isinstance(runner.train_loop, EpochBasedTrainLoop)
        ):
            loader.generator.manual_seed(runner.seed + runner.epoch)  # see seed_worker

    def before_val_epoch(self, runner: Runner) -> None:
        """Record the iteration, so that it is saved in the checkpoint of a new best score."""
        runner.message_hub.update_info("iter_validated", runner.iter)

    def _validate(self, runner: Runner) -> None:
        loop = runner.train_loop
        if runner.val_loop is None or loop.iter == 0:
            return
        unit, done, end = _progress(loop)
        loop._decide_current_val_interval()
        if done < loop.val_begin or (done % loop.val_interval and done != end):
            return
        if runner.message_hub.runtime_info.get("iter_validated") == loop.iter:
            return
        runner.logger.info(f"{unit.title()} {done} was saved but its validation is not on record.")
        for hook in runner.hooks:
            if isinstance(hook, CheckpointHook) and hook.last_ckpt is None:
                # A new best score is written to this checkpoint, as without the interruption.
                hook.last_ckpt = runner.message_hub.get_info("resumed_from")
        runner.val_loop.run()
