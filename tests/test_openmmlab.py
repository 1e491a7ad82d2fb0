"""What HOOK uses of mmengine, mmcv and mmseg; a change of these packages is seen by name."""

import ast
import importlib
from pathlib import Path

from mmengine.config import Config
from mmengine.registry import Registry

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("mmengine", "mmcv", "mmseg")
IMPORTED = {
    "mmcv": "transforms",
    "mmcv.transforms.base": "BaseTransform",
    "": "mmengine",
    "mmengine": "__version__ logging registry",
    "mmengine.config": "Config ConfigDict DictAction",
    "mmengine.config.utils": "MODULE2PACKAGE",
    "mmengine.dataset": (
        "BaseDataset ClassBalancedDataset Compose ConcatDataset RepeatDataset pseudo_collate"
    ),
    "mmengine.device": "get_device utils",
    "mmengine.device.utils": "DEVICE",
    "mmengine.dist": (
        "all_gather_object all_reduce all_reduce_params broadcast broadcast_object_list "
        "get_dist_info get_rank is_distributed is_main_process sync_random_seed"
    ),
    "mmengine.evaluator": "BaseMetric",
    "mmengine.hooks": "CheckpointHook EMAHook EarlyStoppingHook Hook",
    "mmengine.logging": "HistoryBuffer MMLogger print_log",
    "mmengine.model": (
        "BaseDataPreprocessor BaseModel BaseModule ExponentialMovingAverage "
        "convert_sync_batchnorm is_model_wrapper"
    ),
    "mmengine.optim": (
        "DefaultOptimWrapperConstructor OptimWrapper OptimWrapperDict build_optim_wrapper"
    ),
    "mmengine.registry": (
        "DefaultScope MODELS MODEL_WRAPPERS OPTIM_WRAPPERS RUNNERS Registry init_default_scope"
    ),
    "mmengine.runner": (
        "BaseLoop CheckpointLoader EpochBasedTrainLoop IterBasedTrainLoop Runner checkpoint"
    ),
    "mmengine.runner.checkpoint": "CheckpointLoader _safe_torch_load load_from_http",
    "mmengine.structures": "BaseDataElement PixelData",
    "mmengine.visualization": "LocalVisBackend",
    "mmseg": "datasets",
    "mmseg.evaluation": "IoUMetric",
    "mmseg.models": "SegDataPreProcessor",
    "mmseg.models.decode_heads.decode_head": "BaseDecodeHead",
    "mmseg.models.segmentors": "EncoderDecoder",
    "mmseg.registry": "MODELS",
    "mmseg.structures": "SegDataSample",
    "mmseg.utils": "register_all_modules",
}
OVERRIDDEN = {
    "mmcv.transforms.base.BaseTransform": "transform",
    "mmengine.config.DictAction": "__call__ _parse_iterable",
    "mmengine.dataset.BaseDataset": (
        "__len__ _load_metainfo get_data_info load_data_list prepare_data"
    ),
    "mmengine.evaluator.BaseMetric": "compute_metrics process",
    "mmengine.hooks.CheckpointHook": (
        "_save_best_checkpoint _save_checkpoint_with_step after_train_iter before_train"
    ),
    "mmengine.hooks.Hook": (
        "after_load_checkpoint after_run after_test_iter after_train after_train_iter "
        "after_val_epoch "
        "after_val_iter before_run before_save_checkpoint before_test_epoch before_train "
        "before_train_epoch before_train_iter before_val_epoch"
    ),
    "mmengine.model.BaseDataPreprocessor": "forward",
    "mmengine.model.BaseModel": "_load_from_state_dict forward init_weights train train_step",
    "mmengine.model.ExponentialMovingAverage": "avg_func update_parameters",
    "mmengine.model.BaseModule": "forward init_weights train",
    "mmengine.optim.DefaultOptimWrapperConstructor": "add_params",
    "mmengine.optim.OptimWrapper": "optim_context",
    "mmengine.optim.OptimWrapperDict": "initialize_count_status",
    "mmengine.runner.Runner": (
        "build_dataloader build_model build_optim_wrapper build_train_loop dump_config "
        "load_checkpoint register_hooks resume save_checkpoint test train val wrap_model"
    ),
    "mmseg.evaluation.IoUMetric": "compute_metrics process",
    "mmseg.models.SegDataPreProcessor": "forward",
    "mmseg.models.decode_heads.decode_head.BaseDecodeHead": "forward",
    "mmseg.models.segmentors.EncoderDecoder": "_forward inference loss",
}
NAMED_IN_CONFIGS = {
    "mmengine": (
        "AmpOptimWrapper CheckpointHook CosineAnnealingLR DefaultSampler DistSamplerSeedHook "
        "EpochBasedTrainLoop IterBasedTrainLoop IterTimerHook LinearLR LocalVisBackend LoggerHook "
        "OptimWrapper ParamSchedulerHook TestLoop ValLoop Visualizer"
    ),
    "mmseg": "EncoderDecoder FCNHead MixVisionTransformer SegformerHead",
}


def trees():
    for folder in ("hook", "tools"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield ast.parse(path.read_text())


def upstream_names(tree):
    """Local name -> full name of all that a file imports from the three packages."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in PACKAGES:
            for alias in node.names:
                found[alias.asname or alias.name] = f"{node.module}.{alias.name}"
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] in PACKAGES:
                    found[alias.asname or alias.name] = alias.name
    return found


def resolve(name):
    module, _, attribute = name.rpartition(".")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (AttributeError, ValueError):
        return importlib.import_module(name)


def by_owner(names):
    owners = {}
    for name in sorted(names):
        owner, _, attribute = name.rpartition(".")
        owners.setdefault(owner, []).append(attribute)
    return {owner: " ".join(attributes) for owner, attributes in owners.items()}


def test_imported_names():
    found = set()
    for tree in trees():
        local = upstream_names(tree)
        found |= set(local.values())
        for node in ast.walk(tree):
            # Attributes of modules, such as `mmengine.__version__`.
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) in local:
                owner = local[ast.unparse(node.value)]
                if isinstance(resolve(owner), type(ast)):
                    found.add(f"{owner}.{node.attr}")
    for name in found:
        resolve(name)
    assert by_owner(found) == IMPORTED


def test_overridden_methods():
    found = set()
    for tree in trees():
        # ImageModel is ours, and overrides only `forward` itself.
        local = {"ImageModel": "mmengine.model.BaseModel"} | upstream_names(tree)
        for node in ast.walk(tree):
            if not isinstance(node, ast.ClassDef):
                continue
            for base in (local[ast.unparse(b)] for b in node.bases if ast.unparse(b) in local):
                methods = {m.name for m in node.body if isinstance(m, ast.FunctionDef)}
                methods &= set(dir(resolve(base))) - set(dir(object))
                found |= {f"{base}.{method}" for method in methods}
    assert by_owner(found) == OVERRIDDEN


def test_names_in_configs():
    """Classes named in the configs without HOOK's scope, by the package that registers them."""
    import mmengine.registry
    import mmseg.registry
    from mmseg.utils import register_all_modules

    register_all_modules(init_default_scope=False)
    named = set()

    def collect(value):
        if isinstance(value, dict) and value.get("type") == "hook.Albumentations":
            return  # names of another package
        if isinstance(value, dict):
            named.update({value.get("type")} if isinstance(value.get("type"), str) else ())
            value = list(value.values())
        if isinstance(value, list | tuple):
            for part in value:
                collect(part)

    for path in sorted((ROOT / "configs").glob("*/*.py")):
        collect(Config.fromfile(path).to_dict())
    registries = [
        value
        for module in (mmseg.registry, mmengine.registry)
        for value in vars(module).values()
        if isinstance(value, Registry)
    ]
    found = set()
    for name in (n.rpartition(".")[2] for n in named if not n.startswith("hook.")):
        classes = {r.module_dict[name] for r in registries if name in r.module_dict}
        assert classes, f"{name} is not registered"
        found |= {f"{c.__module__.split('.')[0]}.{name}" for c in classes}
    # The others are PyTorch's own.
    found = {name for name in found if name.split(".")[0] in PACKAGES}
    assert by_owner(found) == NAMED_IN_CONFIGS
