"""Rename keys between official checkpoints and ours, tensors unchanged."""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from hook.errors import CheckpointError
from hook.geo.staging import atomic_write

_TOKENIZER = "backbone.tokenizer."
_NAMES: list[tuple[str, str]] = [
    # official prefix, our prefix; {i} is a number
    ("tokenizer.downsample_module.conv1.", _TOKENIZER + "stem.expand."),
    ("tokenizer.downsample_module.module1.0.", _TOKENIZER + "stem.residual1.conv."),
    ("tokenizer.downsample_module.module1.1.", _TOKENIZER + "stem.residual1.norm."),
    ("tokenizer.downsample_module.module2.0.", _TOKENIZER + "stem.down1.conv."),
    ("tokenizer.downsample_module.module2.1.", _TOKENIZER + "stem.down1.norm."),
    ("tokenizer.downsample_module.module3.0.", _TOKENIZER + "stem.residual2.conv."),
    ("tokenizer.downsample_module.module3.1.", _TOKENIZER + "stem.residual2.norm."),
    ("tokenizer.downsample_module.module4.0.", _TOKENIZER + "stem.down2.conv."),
    ("tokenizer.downsample_module.module4.1.", _TOKENIZER + "stem.down2.norm."),
    ("tokenizer.downsample_module.conv2.", _TOKENIZER + "stem.project."),
    ("tokenizer.pos_embed", _TOKENIZER + "pos_embed"),
    ("tokenizer.semantic_module.{i}.", _TOKENIZER + "perception.blocks.{i}."),
    ("tokenizer.query", _TOKENIZER + "vectorization.queries"),
    ("tokenizer.match_attn.norm_media.", _TOKENIZER + "vectorization.norm_seeds."),
    ("tokenizer.match_attn.norm_latents.", _TOKENIZER + "vectorization.norm_queries."),
    ("tokenizer.match_attn.to_q.", _TOKENIZER + "vectorization.to_query."),
    ("tokenizer.match_attn.to_kv.", _TOKENIZER + "vectorization.to_key_value."),
    ("tokenizer.match_attn.to_out.", _TOKENIZER + "vectorization.proj."),
    ("tokenizer.match_ff.0.", _TOKENIZER + "vectorization.feed_forward.norm."),
    ("tokenizer.match_ff.1.", _TOKENIZER + "vectorization.feed_forward.fc1."),
    ("tokenizer.match_ff.3.", _TOKENIZER + "vectorization.feed_forward.fc2."),
    ("tokenizer.cls_token", _TOKENIZER + "cls_token"),
    ("tokenizer.proj.", _TOKENIZER + "proj."),
    ("backbone.module.{i}.", "backbone.blocks.{i}."),
    ("denseTransform.upsampleX4.{i}.module1.0.", "neck.up4.{i}.conv."),
    ("denseTransform.upsampleX4.{i}.module1.1.", "neck.up4.{i}.norm."),
    ("denseTransform.upsampleX4.{i}.module2.0.", "neck.up4.{i}.up."),
    ("denseTransform.upsampleX4.{i}.module2.1.", "neck.up4.{i}.up_norm."),
    ("denseTransform.upsampleX2.module1.0.", "neck.up2.conv."),
    ("denseTransform.upsampleX2.module1.1.", "neck.up2.norm."),
    ("denseTransform.upsampleX2.module2.0.", "neck.up2.up."),
    ("denseTransform.upsampleX2.module2.1.", "neck.up2.up_norm."),
    ("denseTransform.upsampleX1.", "neck.keep."),
    ("denseTransform.downsample2.", "neck.down2."),
    ("taskHead.linear_c1.proj.", "decode_head.projections.0."),
    ("taskHead.linear_c2.proj.", "decode_head.projections.1."),
    ("taskHead.linear_c3.proj.", "decode_head.projections.2."),
    ("taskHead.linear_c4.proj.", "decode_head.projections.3."),
    ("taskHead.linear_fuse.", "decode_head.fuse."),
    ("taskHead.linear_pred.", "decode_head.conv_seg."),
    ("taskHead.fc.", "head.fc."),
]
# The parts of the official patch-embed classifier, an ``nn.Sequential``.
_SEQUENTIAL = {"0": "tokenizer", "1": "backbone", "2": "taskHead"}


def _rename(state: Mapping[str, Tensor], pairs: list[tuple[str, str]], kind: str | None) -> dict:
    """Rename keys by the first rule that fits; without a ``kind``, keys that no rule fits stay."""
    rules = []
    for old, new in pairs:
        pattern = re.escape(old).replace(re.escape("{i}"), r"(\d+)")
        rest = r"(?P<rest>.+)$" if old.endswith(".") else r"(?P<rest>)$"
        rules.append((re.compile(pattern + rest), new))
    renamed, unknown = {}, []
    for key, value in state.items():
        for pattern, new in rules:
            match = pattern.match(key)
            if match:
                number = match.group(1) if "{i}" in new else ""
                renamed[new.replace("{i}", number) + match.group("rest")] = value
                break
        else:
            renamed[key] = value
            unknown.append(key)
    if unknown and kind is not None:
        raise CheckpointError(
            f"{len(unknown)} keys belong to no part of {kind}",
            expected="the keys of a HOOK or patch-embed model",
            found=", ".join(unknown[:5]) + (", ..." if unknown[5:] else ""),
            remedy="convert the weights of one model, without optimiser state",
        )
    return renamed


def reference_to_hook(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the keys of an official checkpoint to those of our models.

    Args:
        state: Official state dict; a ``module.`` in front of all keys is dropped. Keys of the
            official patch-embed classifier start with 0, 1 and 2.

    Raises:
        CheckpointError: A key is not in the official model.
    """
    if state and all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): value for key, value in state.items()}
    if state and all(key.split(".")[0] in _SEQUENTIAL for key in state):
        parts = (key.partition(".") for key in state)
        names = [f"{_SEQUENTIAL[number]}.{rest}" for number, _, rest in parts]
        state = dict(zip(names, state.values(), strict=True))
    return _rename(state, _NAMES, "the official HOOK model")


def hook_to_reference(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the keys of a model with the paper's parts to those of an official checkpoint.

    Raises:
        CheckpointError: A key has no counterpart in the official model.
    """
    return _rename(state, [(new, old) for old, new in _NAMES], "a HOOK model with official parts")


# Keys of the official codecs, as above; keys without a rule keep their names.
_CODEC_NAMES: list[tuple[str, str]] = [
    ("embedding.weight", "codebook"),
    ("quantize.embedding.weight", "quantizer.codebook"),
    ("quant_conv.", "encoder.quant_conv."),
    ("post_quant_conv.", "decoder.post_quant_conv."),
    ("attn.", ""),  # GigaGAN's attention, whose MLP is beside it
    ("patch_quants.{i}.0.", "branches.{i}."),
    ("final_quant.", "fuse."),
    ("post_quant.", "decompress."),
    ("linear_proj.", "proj."),
]
# Constants that our modules do not store.
_CONSTANTS = ("zero_k_bias", "blur_weight")
# Tables of RQ-VAE end with a row of zeros that stands for no code.
_PADDED = re.compile(r"(^|\.)codebooks\.\d+\.weight$")


def reference_to_codec(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the keys of an official codec, or of one of its parts, to those of our models.

    Raises:
        CheckpointError: The last row of a table of RQ-VAE, which is dropped, is not zero.
    """
    state = {key: value for key, value in state.items() if not key.endswith(_CONSTANTS)}
    for key, value in state.items():
        if _PADDED.search(key):
            if value[-1].any():
                raise CheckpointError(
                    f"{key} must end with a row of zeros",
                    found=value[-1],
                    remedy="convert the weights that the official code saved",
                )
            state[key] = value[:-1]
    return _rename(state, _CODEC_NAMES, None)


# Parts of keys of AToken, from the start of a key or from a dot to a dot.
_SPACE_TIME_NAMES: list[tuple[str, str]] = [
    ("encoder.input_layer", "encoder.embeds.0"),
    ("encoder.post_layernorm", "encoder.norm"),
    ("decoder.input_layer", "decoder.embed"),
    ("decoder.out_norm", "decoder.norm"),
    ("decoder.out_layer", "decoder.outs.0"),
    ("pos_embedder.position_embedding", "table"),
    ("head.attention", "head"),
    ("head.layernorm", "head.norm"),
    ("attn.to_qkv", "qkv"),
    ("attn.to_out", "proj"),
    ("to_out", "proj"),
    ("attn.q_rms_norm", "q_norm"),
    ("attn.k_rms_norm", "k_norm"),
    ("mlp.mlp", "mlp"),
]


def reference_to_space_time(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the keys of AToken to those of a TileAutoencoder with ``SpaceTimeEncoder``."""
    renamed = {}
    for key, value in state.items():
        for old, new in _SPACE_TIME_NAMES:
            key = re.sub(rf"(^|(?<=\.)){re.escape(old)}(?=\.|$)", new, key, count=1)
        key = re.sub(r"^encoder\.", "encoder.tokenizer.", key)
        renamed[re.sub(r"^proj\.", "encoder.proj.", key)] = value
    return renamed


# Parts of keys of Slot-MLLM, from the start of a key or from a dot to a dot.
_SLOT_NAMES: list[tuple[str, str]] = [
    ("encoder.layer", "layers"),
    ("embeddings.LayerNorm", "norm"),
    ("query_tokens", "queries"),
    ("attention.self", "self_attention"),
    ("attention.output", "self_attention.output"),
    ("crossattention.self", "cross_attention"),
    ("crossattention.output", "cross_attention.output"),
    ("intermediate_query.dense", "fc1"),
    ("output_query.dense", "fc2"),
    ("output_query.LayerNorm", "norm"),
    ("self", ""),
    ("output.dense", "proj"),
    ("output.LayerNorm", "norm"),
    ("layers.{i}._codebook.embed_avg", "codebooks.{i}.embed_ema"),
    ("layers.{i}._codebook.embed", "codebooks.{i}.weight"),
    ("layers.{i}._codebook.cluster_size", "codebooks.{i}.cluster_size_ema"),
]


def reference_to_slots(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the keys of Slot-MLLM's Q-Former, attention or codes to those of our modules.

    Projections that the official code does not use are left out.
    """
    renamed = {}
    for key, value in state.items():
        if "key_proj." in key or "value_proj." in key:
            continue
        for old, new in _SLOT_NAMES:
            pattern = re.escape(old).replace(re.escape("{i}"), r"(\d+)")
            key = re.sub(rf"(^|(?<=\.)){pattern}(?=\.|$)", new.replace("{i}", r"\2"), key, count=1)
        renamed[key.lstrip(".")] = value[0] if "codebooks." in key else value
    return renamed


# Parts of keys of the official generators, from the start of a key or from a dot to a dot.
_GENERATOR_NAMES: list[tuple[str, str]] = [
    ("spatial_blocks", "blocks"),
    ("factorized_blocks", "factor_blocks"),
    ("layers", "blocks"),
    ("attention.wqkv", "attn.qkv"),
    ("attention.wo", "attn.proj"),
    ("attention_norm", "norm1"),
    ("ffn_norm", "norm2"),
    ("feed_forward.w1", "mlp.fc1_g"),
    ("feed_forward.w3", "mlp.fc1_x"),
    ("feed_forward.w2", "mlp.fc2"),
    ("mlp.w12", "mlp.fc1"),
    ("mlp.w3", "mlp.fc2"),
    ("class_emb.embedding_table", "condition.table"),  # Open-MAGVIT2, IBQ
    ("cls_embedding.embedding_table", "condition.table"),  # DnD
    ("y_embedder.embedding_table", "condition.table"),  # LightningDiT
    ("pre_emb", "embeds.0"),
    ("post_emb", "embeds.1"),
    ("tok_emb", "embeds.0"),
    ("tok_embeddings", "embeds.0"),
    ("head_nm.rmsnorm", "norms.0.norm"),
    ("head_nm.ada_lin", "norms.0.modulation"),
    ("ada_lin", "modulation"),
    ("head.weight", "heads.0.weight"),
    ("head", "heads"),
    ("output", "heads"),
    ("x_embedder.proj", "patch_embed"),
    ("t_embedder", "time_embed"),
    ("final_layer.norm_final", "norm.norm"),
    ("final_layer.adaLN_modulation", "norm.modulation"),
    ("final_layer.linear", "head"),
    ("adaLN_modulation", "modulation"),
]


def reference_to_generator(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the keys of an official generator to those of our networks.

    Generators are the autoregressive transformers of Open-MAGVIT2 and IBQ, DnD-Transformer and
    LightningDiT. Tables of rotary positions are left out, since ours are computed.
    """
    renamed = {}
    for key, value in state.items():
        if key.startswith("feat_rope.") or key == "freqs_cis":
            continue
        for old, new in _GENERATOR_NAMES:
            key = re.sub(rf"(^|(?<=\.)){re.escape(old)}(?=\.|$)", new, key, count=1)
        key = re.sub(
            r"^norm\.(?:(\d+)\.)?weight$", lambda one: f"norms.{one[1] or 0}.norm.weight", key
        )
        renamed[key] = value
    return renamed


def save_weights(state: Mapping[str, Tensor], path: str | Path, overwrite: bool = False) -> None:
    """Write a state dict atomically.

    Args:
        state: Tensors by key.
        path: ``.safetensors``, or any other name for ``torch.save`` with the tensors under
            ``state_dict``, as in MMEngine.
        overwrite: Replace an existing file.

    Raises:
        CheckpointError: The file exists, or its folder does not.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise CheckpointError(
            f"{path} exists", remedy="pass --overwrite or choose a different file"
        )
    if not path.parent.is_dir():
        raise CheckpointError(f"the folder of {path} does not exist", remedy="create it first")
    tensors = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    with atomic_write(path) as partial:
        if path.suffix == ".safetensors":
            save_file(tensors, str(partial))
        else:
            with open(partial, "wb") as file:  # PyTorch 2.8 does not notice a full disk
                torch.save({"state_dict": tensors, "meta": {}}, file)
