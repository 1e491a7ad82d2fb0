"""Public functions and classes for models, predictions, maps, tokens and pictures.

They are imported on first use.
"""

import importlib

_MODULES = {
    "Classifier": "hook.apis.classifier",
    "export_onnx": "hook.inference.export",
    "Prediction": "hook.inference.files",
    "load_model": "hook.inference.models",
    "predict_files": "hook.inference.files",
    "tokenize": "hook.inference.tokens",
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
    "outline_tokens": "hook.visualization.drawing",
    "render_labels": "hook.visualization.drawing",
    "show_attention": "hook.visualization.tokens",
    "show_map": "hook.visualization.scenes",
    "show_scene": "hook.visualization.scenes",
    "show_token_counts": "hook.visualization.tokens",
    "show_tokens": "hook.visualization.tokens",
    "stretch_to_rgb": "hook.visualization.drawing",
    "TrainingResult": "hook.apis.training",
    "train": "hook.apis.training",
}

__all__ = sorted(_MODULES)


def __getattr__(name: str):
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return __all__
