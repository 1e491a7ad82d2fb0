"""Weights of timm's vision transformers for the blocks of a TokenViT."""

from pathlib import Path

import timm
from mmengine.logging import print_log
from timm.layers import resample_abs_pos_embed
from timm.models import adapt_input_conv
from torch import Tensor, nn

from hook.checkpoint import load_checkpoint
from hook.errors import CheckpointError
from hook.tokenizers.positions import fit_positions
from hook.tokenizers.stem import adapt_bands


def load_pretrained(backbone: nn.Module, checkpoint: str) -> dict[str, list[str]]:
    """Load a ViT's blocks and, for patch embedding, its projection, positions and class token.

    Weights of a TokenViT include those of its tokenizer, adapted to the backbone's number of bands
    (:func:`hook.tokenizers.stem.adapt_bands`) and to the grid of its learned positions.

    Args:
        backbone: The :class:`hook.models.TokenViT` to initialise.
        checkpoint: A file with a timm ViT's or a TokenViT's weights (``.pth``, ``.safetensors``),
            or timm's name of a model, with or without ``timm/`` in front.

    Returns:
        ``loaded`` keys of the backbone, ``left_out`` keys of the checkpoint, and ``kept`` keys of
        the backbone that keep their initialisation; they are also logged.

    Raises:
        CheckpointError: The file is missing or unsafe, the name is unknown or its weights cannot
            be downloaded, a shape differs, or no block matches.
    """
    state = _state_of(checkpoint)
    wanted = backbone.state_dict()
    source = _rename(backbone, state)
    loaded, wrong = {}, []
    for key, value in source.items():
        if key in wanted:
            if value.shape == wanted[key].shape:
                loaded[key] = value
            else:
                wrong.append(f"{key}: {tuple(value.shape)}, needs {tuple(wanted[key].shape)}")
    if wrong:
        raise CheckpointError(
            f"{checkpoint}: the shapes of the weights differ from the backbone's",
            expected=f"embed_dims={backbone.embed_dims}, {len(backbone.blocks)} blocks",
            found="; ".join(wrong[:4]) + (f"; and {len(wrong) - 4} more" if wrong[4:] else ""),
            remedy="set embed_dims, num_heads and mlp_ratio to the model's, or use a different one",
        )
    if not any(key.startswith("blocks.") for key in loaded):
        raise CheckpointError(
            f"{checkpoint} holds no transformer block of this backbone",
            expected="keys like blocks.0.attn.qkv.weight",
            found=", ".join(sorted(state)[:4]) or "no weights",
            remedy="use the weights of a timm VisionTransformer or of a TokenViT",
        )
    backbone.load_state_dict(loaded, strict=False)
    report = {
        "loaded": sorted(loaded),
        "left_out": sorted(set(source) - set(loaded)),
        "kept": sorted(set(wanted) - set(loaded)),
    }
    for what, keys in (
        ("loaded", report["loaded"]),
        ("left out of the checkpoint", report["left_out"]),
        ("not in the checkpoint, initialised at random", report["kept"]),
    ):
        print_log(f"{checkpoint}: {len(keys)} tensors {what}: {_summary(keys)}", "current")
    return report


def _state_of(checkpoint: str) -> dict[str, Tensor]:
    """Read the state dict of a file or of a timm model."""
    path = Path(checkpoint).expanduser()
    if path.exists() or path.suffix in {".pth", ".pt", ".bin", ".safetensors", ".ckpt"}:
        state = load_checkpoint(path)
        for name in ("state_dict_ema", "state_dict", "model_ema", "model", "module"):
            if isinstance(state.get(name), dict):
                state = state[name]
                break
        return {key: value for key, value in state.items() if isinstance(value, Tensor)}
    name = checkpoint.removeprefix("timm://").removeprefix("timm/")
    if not timm.is_model(name):
        raise CheckpointError(
            f"init_cfg.checkpoint: {checkpoint!r} is neither a file nor a timm model",
            expected="a path, or a name that timm.list_models(pretrained=True) lists",
            found=checkpoint,
            remedy="correct the path or the name",
        )
    try:
        return timm.create_model(name, pretrained=True, num_classes=0).state_dict()
    except (OSError, RuntimeError, ValueError) as error:
        cfg = timm.get_pretrained_cfg(name)
        hub_id = getattr(cfg, "hf_hub_id", None) or ""
        if hub_id.endswith("/"):
            hub_id += f"{cfg.architecture}.{cfg.tag}" if cfg.tag else cfg.architecture
        address = f"model.safetensors of the Hugging Face repository {hub_id}" if hub_id else ""
        raise CheckpointError(
            f"the weights of timm's {name} cannot be fetched",
            expected=address or getattr(cfg, "url", None) or f"weights of {name} in timm",
            found=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
            remedy=f"download {address or 'the file'} with network access, and set "
            "init_cfg=dict(type='Pretrained', checkpoint=<that file>)",
        ) from None


def _rename(backbone: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename a ViT's tensors to the keys of the backbone."""
    for prefix in ("module.", "backbone."):
        if any(key.startswith(prefix + "blocks.") for key in state):
            state = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    tokenizer, renamed = backbone.tokenizer, dict(state)
    positions = renamed.get("tokenizer.pos_embed")
    if positions is not None and getattr(tokenizer, "pos_embed", None) is not None:
        fitted = fit_positions(positions, tokenizer.grid_size)
        renamed["tokenizer.pos_embed"] = positions if fitted is None else fitted
    if tokenizer.assign != "grid":
        return _adapt_seeds(tokenizer, renamed)
    if "patch_embed.proj.weight" not in renamed:
        return renamed
    weight = renamed.pop("patch_embed.proj.weight")
    renamed["tokenizer.proj.weight"] = adapt_input_conv(tokenizer.in_channels, weight)
    renamed["tokenizer.proj.bias"] = renamed.pop("patch_embed.proj.bias")
    position, cls_token = renamed.get("pos_embed"), renamed.get("cls_token")
    if cls_token is not None and tokenizer.cls_token is not None:
        renamed.pop("cls_token")
        if position is not None and position.shape[1] % 2:
            cls_token = cls_token + position[:, :1]  # timm gives the class token a position too
        renamed["tokenizer.cls_token"] = cls_token
    if position is not None and tokenizer.pos_embed is not None:
        renamed.pop("pos_embed")
        prefix = int(cls_token is not None)
        side = int((position.shape[1] - prefix) ** 0.5)
        if side * side + prefix != position.shape[1]:
            # timm's no_embed_class models give the class token no position.
            prefix, side = 0, int(position.shape[1] ** 0.5)
        renamed["tokenizer.pos_embed"] = resample_abs_pos_embed(
            position[:, prefix:],
            new_size=list(tokenizer.grid_size),
            old_size=[side, side],
            num_prefix_tokens=0,
        )
    return renamed


def _adapt_seeds(tokenizer, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Adapt the weights of a HOOK tokenizer to the bands and learned positions of this one."""
    if not hasattr(tokenizer, "stem"):
        return state
    first = "tokenizer.stem.expand.weight"  # of the paper's stem
    if first not in state:
        first = "tokenizer.stem.down1.conv.weight"
    if first in state:
        state[first] = adapt_bands(state[first], tokenizer.in_channels)
    return state


def _summary(keys: list[str]) -> str:
    """Summarise dotted keys: their first parts, with the number of tensors of each."""
    counts: dict[str, int] = {}
    for key in keys:
        parts = key.split(".")
        head = ".".join(parts[: 2 if parts[0] in ("blocks", "tokenizer") else 1])
        counts[head] = counts.get(head, 0) + 1
    return ", ".join(f"{head} ({n})" for head, n in counts.items()) or "none"
