"""Stop a training run before it starts if data and config do not match."""

import warnings
from contextlib import suppress
from dataclasses import replace
from typing import Any

from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from torch import nn

from hook.datasets.checks import (
    Finding,
    check_dataset,
    check_pair,
    check_shared_images,
    raise_findings,
)
from hook.datasets.images_in_memory import ImagesInMemory
from hook.datasets.seeding import unwrap
from hook.registry import DATASETS, HOOKS


def model_facts(model: nn.Module) -> dict[str, Any]:
    """Return the keyword arguments of :func:`hook.datasets.checks.check_dataset` for a model.

    Args:
        model: Segmentor or classifier, with or without a distributed wrapper.
    """
    if is_model_wrapper(model):
        model = model.module
    head = getattr(model, "decode_head", None)
    if isinstance(head, nn.ModuleList):
        head = head[-1]
    if head is None:
        head = getattr(model, "head", None)
    preprocessor = getattr(model, "data_preprocessor", None)
    facts: dict[str, Any] = {
        "num_classes": getattr(head, "num_classes", None),
        "ignore_index": getattr(head, "ignore_index", 255),
        "mean": None,
        "std": None,
        "in_channels": _in_channels(getattr(model, "backbone", model)),
    }
    for name in ("mean", "std"):
        values = getattr(preprocessor, name, None)
        # A fixed range of values is no statistic of the data.
        if values is not None and getattr(preprocessor, "value_range", None) is None:
            facts[name] = values.flatten().tolist()
    return facts


def _in_channels(backbone: nn.Module) -> int | None:
    for part in (getattr(backbone, "tokenizer", None), backbone):
        if isinstance(getattr(part, "in_channels", None), int):
            return part.in_channels
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d):
            return module.in_channels
    return None


@HOOKS.register_module()
class DatasetCheckHook(Hook):
    """Compare training and validation data with the model before the first iteration.

    Compares bands, value range, label histogram, ignore index and class names
    (:func:`hook.datasets.checks.check_dataset`) and ends the run with a list of all mismatches and
    their remedies. Warns of images that validation or test data share with the training data. In
    distributed runs rank 0 checks and all ranks stop.

    Args:
        max_samples: Number of samples to read from each data set.

    Raises:
        ConfigError: If the config does not match the data.
        DataError: If the data are at fault.
    """

    priority = "VERY_HIGH"

    def __init__(self, max_samples: int = 32) -> None:
        self.max_samples = max_samples

    def before_train(self, runner: Any) -> None:
        """Run the checks; raise on all ranks if there are findings."""
        shared: list[list[Finding] | None] = [None]
        if is_main_process():
            shared = [self._findings(runner)]
        broadcast_object_list(shared, src=0)
        raise_findings(shared[0], "before training")
        print_log("data and config match", logger="current")

    def _findings(self, runner: Any) -> list[Finding]:
        facts = model_facts(runner.model)
        train = unwrap(runner.train_loop.dataloader.dataset)
        if isinstance(train, ImagesInMemory):
            train = train.dataset
        findings = check_dataset(train, **facts, max_samples=self.max_samples)
        self._warn_shared_tests(runner, train)
        loop = runner.val_loop
        if loop is None:
            return findings
        reported = {(one.what, str(one.found)) for one in findings}
        validation = loop.dataloader.dataset
        facts |= dict(max_samples=self.max_samples, held_out=True)
        for one in check_dataset(validation, **facts):
            if (one.what, str(one.found)) not in reported:
                findings.append(replace(one, what=f"validation data: {one.what}"))
        return findings + check_pair(train, validation)

    @staticmethod
    def _warn_shared_tests(runner: Any, train: Any) -> None:
        """Compare the images of the test data, if it can be built, with those of training."""
        configs = [runner.cfg.get(f"{part}_dataloader") for part in ("val", "test")]
        validation, test = ((loader or {}).get("dataset") for loader in configs)
        if test is None or test == validation:
            return
        with suppress(Exception):  # the data may be elsewhere; the test reports what is wrong
            shared = check_shared_images(train, DATASETS.build(test), "test")
            if shared is not None:
                warnings.warn(f"{shared}", stacklevel=2)
