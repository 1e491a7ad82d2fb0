"""Child registries of MMEngine's registries, scope ``hook``.

``parent`` and ``locations`` make ``type='hook.TokenViT'`` resolve in any OpenMMLab config without
``custom_imports``: MMEngine imports ``hook.registry`` by the name of the scope, and a registry
imports its locations at its first look-up. Registries without locations let configs with
``default_scope='hook'`` find MMEngine's classes.

It is imported before mmcv and mmseg, and keeps their messages about missing optional parts, which
HOOK does not use, from the user's output.
"""

import logging
import warnings
from typing import Any

import mmengine.logging
from mmengine import registry as mmengine_registry
from mmengine.registry import Registry

_print_log = mmengine.logging.print_log


def _print_log_above_debug(msg: Any, logger: Any = None, level: int = logging.INFO) -> None:
    """MMEngine's ``print_log``, which without a logger prints messages of level DEBUG too."""
    if logger is not None or level > logging.DEBUG:
        _print_log(msg, logger, level)


mmengine.logging.print_log = _print_log_above_debug  # mmseg: "Could not import OneDL"
warnings.filterwarnings("ignore", "Fail to import ``MultiScaleDeformableAttention``", UserWarning)


def _child(parent: str, *locations: str) -> Registry:
    """Return a child of one of MMEngine's registries."""
    root = getattr(mmengine_registry, parent)
    return Registry(root.name, parent=root, scope="hook", locations=list(locations))


MODELS = _child("MODELS", "hook.models")
TOKENIZERS = Registry("tokenizer", scope="hook", locations=["hook.models"])
QUANTIZERS = Registry("quantizer", scope="hook", locations=["hook.models"])
DATASETS = _child("DATASETS", "hook.datasets")
DATA_SAMPLERS = _child("DATA_SAMPLERS", "hook.datasets")
TRANSFORMS = _child("TRANSFORMS", "hook.datasets")
METRICS = _child(
    "METRICS",
    "hook.evaluation.accuracy",
    "hook.evaluation.alignment_metric",
    "hook.evaluation.boundary_metric",
    "hook.evaluation.codebook_metric",
    "hook.evaluation.homogeneity_metric",
    "hook.evaluation.iou_metric",
    "hook.evaluation.reconstruction_metric",
)
HOOKS = _child(
    "HOOKS",
    "hook.engine.channels_last_hook",
    "hook.engine.frozen_features",
    "hook.engine.time_limit_hook",
    "hook.engine.checkpoint_hook",
    "hook.engine.resuming",
    "hook.visualization.hook",
    "hook.datasets",
)
RUNNERS = _child("RUNNERS", "hook.engine.runner")
OPTIM_WRAPPERS = _child("OPTIM_WRAPPERS", "hook.engine.optim")
VISUALIZERS = _child("VISUALIZERS")
EVALUATOR = _child("EVALUATOR")
LOG_PROCESSORS = _child("LOG_PROCESSORS")
LOOPS = _child("LOOPS")
MODEL_WRAPPERS = _child("MODEL_WRAPPERS")
OPTIMIZERS = _child("OPTIMIZERS")
OPTIM_WRAPPER_CONSTRUCTORS = _child("OPTIM_WRAPPER_CONSTRUCTORS", "hook.engine.optim")
PARAM_SCHEDULERS = _child("PARAM_SCHEDULERS")
VISBACKENDS = _child("VISBACKENDS")
WEIGHT_INITIALIZERS = _child("WEIGHT_INITIALIZERS")
