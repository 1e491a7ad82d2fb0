"""Public functions and classes for models, predictions, maps, tokens and pictures.

They are imported on first use.
"""

import importlib
import warnings

_MODULES = {
    "Classifier": "hook.apis.classifier",
    "export_onnx": "hook.inference.export",
    "Prediction": "hook.inference.files",
    "load_model": "hook.inference.models",
    "predict_files": "hook.inference.files",
    "tokenize": "hook.inference.tokens",
    "decode": "hook.apis.coding",
    "encode": "hook.apis.coding",
    "generate": "hook.apis.generation",
    "surprise_map": "hook.apis.surprise",
    "class_statistics": "hook.apis.layers",
    "style_map": "hook.apis.layers",
    "vectorize_map": "hook.apis.layers",
    "SceneMapper": "hook.apis.mapping",
    "RegionExtractor": "hook.apis.regions",
    "RegionIndex": "hook.apis.search",
    "classify_regions": "hook.apis.search",
    "embed_chip": "hook.apis.search",
    "find_similar": "hook.apis.search",
    "download_model": "hook.zoo",
    "list_models": "hook.zoo",
    "show_attention": "hook.visualization.tokens",
    "show_map": "hook.visualization.scenes",
    "show_scene": "hook.visualization.scenes",
    "show_token_counts": "hook.visualization.tokens",
    "show_tokens": "hook.visualization.tokens",
    "pretrain": "hook.apis.pretraining",
    "TrainingResult": "hook.apis.training",
    "train": "hook.apis.training",
}

_MOVED = dict.fromkeys(
    ("outline_tokens", "render_labels", "stretch_to_rgb"), "hook.visualization.drawing"
)

__all__ = sorted(_MODULES)


def __getattr__(name: str):
    if name in _MOVED:
        warnings.warn(
            f"hook.apis.{name} is deprecated: use {_MOVED[name]}.{name}",
            DeprecationWarning,
            stacklevel=2,
        )
        return getattr(importlib.import_module(_MOVED[name]), name)
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return __all__
