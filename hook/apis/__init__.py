"""What a notebook imports: models, predictions, maps, tokens and pictures.

The functions load when first used, so that ``import hook.apis`` stays light.
"""

import importlib

_MODULES = {
    "Classifier": "classifier",
    "export_onnx": "export",
    "Prediction": "inference",
    "load_model": "inference",
    "predict_files": "inference",
    "tokenize": "inference",
    "class_statistics": "layers",
    "style_map": "layers",
    "vectorize_map": "layers",
    "SceneMapper": "mapping",
    "RegionPredictor": "regions",
    "RegionExtractor": "regions",
    "RegionIndex": "search",
    "classify_regions": "search",
    "embed_chip": "search",
    "find_similar": "search",
    "download_model": "models",
    "list_models": "models",
    "Panel": "pictures",
    "draw_overview": "pictures",
    "outline_tokens": "pictures",
    "render_attention": "pictures",
    "render_labels": "pictures",
    "render_tokens": "pictures",
    "show_attention": "token_pictures",
    "show_map": "scene_pictures",
    "show_scene": "scene_pictures",
    "show_token_counts": "token_pictures",
    "show_tokens": "token_pictures",
    "stretch_to_rgb": "pictures",
    "TrainingResult": "training",
    "train": "training",
}

__all__ = sorted(_MODULES)


def __getattr__(name: str):
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
