"""Describe the model of a map in fields of STAC's extension MLM.

Fields: https://github.com/stac-extensions/mlm
"""

import base64
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from hook.engine.models import get_num_bands, get_num_classes, is_segmentation
from hook.geo.styles import distinct_palette
from hook.scenes.stac import ModelCard, class_objects
from hook.zoo.listing import checksum


def model_card(
    model: nn.Module,
    checkpoint: str | os.PathLike | None = None,
    *,
    window: int,
    hyperparameters: Mapping[str, Any] | None = None,
) -> ModelCard:
    """Describe a model in fields of the extension MLM.

    Args:
        model: From :func:`hook.apis.load_model`.
        checkpoint: Its file of weights, if known.
        window: Side of its windows in pixels.
        hyperparameters: Further options that determine its output; None values are left out.

    Returns:
        The JSON-serialisable fields, and the checkpoint as an asset.
    """
    meta = model.dataset_meta
    segments = is_segmentation(model)
    task = "semantic-segmentation" if segments else "scene-classification"
    config = Path(getattr(model.cfg, "filename", None) or "model").stem
    # Names of the extension start with a letter and end with a letter or digit.
    name = re.sub(r"[^a-zA-Z0-9_.-]+", "-", f"hook-{config}").rstrip("_.-")
    classes = list(meta["classes"])
    palette = [tuple(colour) for colour in meta.get("palette") or distinct_palette(len(classes))]
    scaling = _value_scaling(model)
    bands = meta.get("bands") or ()
    count = get_num_bands(model) or len(scaling) or len(bands)
    size = [window, window]
    along = ["height", "width"]
    digest = None if checkpoint is None else checksum(checkpoint)
    details = {
        "config": config,
        "checkpoint_sha256": digest,
        "window": window,
        **(hyperparameters or {}),
    }
    fields = {
        "mlm:name": name,
        "mlm:architecture": _architecture(model),
        "mlm:tasks": [task],
        "mlm:framework": "PyTorch",
        "mlm:framework_version": str(torch.__version__),
        "mlm:total_parameters": sum(weights.numel() for weights in model.parameters()),
        "mlm:input": [
            {
                "name": "scene",
                "bands": [str(band) for band in bands],
                "input": {
                    "shape": [-1, count or -1, *size],
                    "dim_order": ["batch", "bands" if bands else "channel", *along],
                    "data_type": "float32",
                },
                "value_scaling": scaling or None,
                "resize_type": None,
                "pre_processing_function": None,
            }
        ],
        "mlm:output": [
            {
                "name": "probabilities",
                "tasks": [task],
                "result": {
                    "shape": [-1, get_num_classes(model), *(size if segments else ())],
                    "dim_order": ["batch", "class", *(along if segments else ())],
                    "data_type": "float32",
                },
                "classification:classes": class_objects(classes, palette),
                "post_processing_function": None,
            }
        ],
        "mlm:hyperparameters": {key: value for key, value in details.items() if value is not None},
    }
    return ModelCard(fields, digest and _model_asset(digest, [str(band) for band in bands]))


def _model_asset(sha256: str, bands: Sequence[str]) -> dict[str, Any]:
    """Return the checkpoint as an asset, named by its digest (RFC 6920) instead of its path."""
    digest = base64.urlsafe_b64encode(bytes.fromhex(sha256)).decode().rstrip("=")
    asset = {
        "href": f"ni:///sha-256;{digest}",
        "type": "application/octet-stream",
        "title": "Checkpoint of the model, by its checksum",
        "roles": ["mlm:model"],
        "mlm:artifact_type": "torch.save",
    }
    return asset | ({"eo:bands": [{"name": band} for band in bands]} if bands else {})


def _architecture(model: nn.Module) -> str:
    """Return the class names of tokenizer, backbone and head."""
    backbone = getattr(model, "backbone", None)
    parts = (
        getattr(backbone, "tokenizer", None),
        backbone,
        getattr(model, "decode_head", None) or getattr(model, "head", None),
    )
    names = [type(part).__name__ for part in parts if part is not None]
    return " + ".join(names) or type(model).__name__


def _value_scaling(model: nn.Module) -> list[dict[str, Any]]:
    """Return the normalisation of each band in native values.

    The extension has one step per band, so ``value * scale + offset`` and the model's statistics,
    which are in these units, are combined.
    """
    processor, meta = model.data_preprocessor, model.dataset_meta
    if getattr(processor, "mean", None) is None or getattr(processor, "std", None) is None:
        return []
    mean, std = (
        value.flatten().double().cpu().numpy() for value in (processor.mean, processor.std)
    )
    scale, offset = (
        np.asarray(default if meta.get(key) is None else meta[key], np.float64)
        for key, default in (("scale", 1.0), ("offset", 0.0))
    )
    # Digits of float32.
    return [
        {"type": "z-score", "mean": float(f"{mean:.7g}"), "stddev": float(f"{std:.7g}")}
        for mean, std in zip((mean - offset) / scale, std / scale, strict=True)
    ]
