"""Stop a training before it starts where data and config do not fit."""

from typing import Any

from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from torch import nn

from hook.datasets.checks import Finding, check_dataset, check_pair, raise_findings
from hook.registry import HOOKS


def model_facts(model: nn.Module) -> dict[str, Any]:
    """Read from a model what its data must fit.

    Args:
        model: Segmentor or classifier, wrapped for distributed training or not.

    Returns:
        ``num_classes``, ``ignore_index``, ``mean``, ``std`` and ``in_channels``, as
        :func:`hook.datasets.checks.check_dataset` takes them.
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
        if values is not None:
            facts[name] = values.flatten().tolist()
    return facts


def _in_channels(backbone: nn.Module) -> int | None:
    tokenizer = getattr(backbone, "tokenizer", None)
    if isinstance(getattr(tokenizer, "in_channels", None), int):
        return tokenizer.in_channels
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d):
            return module.in_channels
    return None


@HOOKS.register_module()
class DatasetCheckHook(Hook):
    """Compare training and validation data with the model before the first iteration.

    Bands, value range, label histogram, ignore index and class names are compared
    (:func:`hook.datasets.checks.check_dataset`), and the run ends with everything that does not
    fit, and what to do about it. With several processes the first one looks and all of them end.

    Args:
        max_samples: How many samples of each data set to look at.

    Raises:
        ConfigError: If the config does not fit the data.
        DataError: If the data are at fault.
    """

    priority = "VERY_HIGH"

    def __init__(self, max_samples: int = 32) -> None:
        self.max_samples = max_samples

    def before_train(self, runner: Any) -> None:
        """Check, and end the run on all processes where something was found.

        Args:
            runner: The MMEngine runner.
        """
        shared: list[list[Finding] | None] = [None]
        if is_main_process():
            shared = [self._findings(runner)]
        broadcast_object_list(shared, src=0)
        raise_findings(shared[0], "before training")
        print_log("data and config fit", logger="current")

    def _findings(self, runner: Any) -> list[Finding]:
        facts = model_facts(runner.model)
        train = runner.train_loop.dataloader.dataset
        findings = check_dataset(train, **facts, max_samples=self.max_samples)
        loop = runner.val_loop
        if loop is None:
            return findings
        told = {(one.what, str(one.found)) for one in findings}
        validation = loop.dataloader.dataset
        for one in check_dataset(validation, **facts, max_samples=self.max_samples):
            if (one.what, str(one.found)) not in told:
                findings.append(
                    Finding(
                        f"validation data: {one.what}",
                        one.expected,
                        one.found,
                        one.remedy,
                        one.in_data,
                    )
                )
        return findings + check_pair(train, validation)
