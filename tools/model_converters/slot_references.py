"""Quantities of Slot-MLLM's attention, Q-Former, decoder, codes and layout."""

import torch
from codec_references import Golden, build, covers, gradients, refuse_rest
from space_time_references import options_of
from torch import Tensor

from hook.models.autoencoders.slots import SlotBlocks
from hook.models.converters import reference_to_slots
from hook.models.generators.layout import CodeLayout
from hook.registry import QUANTIZERS
from hook.tokenizers.slots import SlotAttention, SlotFormer

ATTENTIONS = {
    "gru3": dict(mode="gru", num_iterations=3),
    "gru1": dict(mode="gru", num_iterations=1),
    "half3": dict(mode="gru", num_iterations=3, half=True),
    "morph": dict(mode="morph"),
    "plain": dict(mode="plain"),
}


def load(network: torch.nn.Module, state: dict[str, Tensor]) -> torch.nn.Module:
    """Load renamed official weights; those of the GRU stand in files of all attentions."""
    state, own = reference_to_slots(state), network.state_dict()
    unused = [key for key in state if key not in own]
    allowed = ("gru.", "mlp.", "norm_slots.", "norm_mlp.")
    if wrong := [key for key in unused if not any(part in key for part in allowed)]:
        raise ValueError(f"the file has unknown weights: {wrong[:5]}")
    network.load_state_dict({key: value for key, value in state.items() if key in own})
    return network.eval()


# The official masks change outputs by the rounding of -10,000 only, so what is masked is compared
# with what is not.
@covers(
    "slotmllm_attention",
    inputs=("slots", "inputs", "mask", "cotangent"),
    bars=(("output_masked", 1e-3, 0.0),),
)
def check_attention(file: Golden) -> dict[str, Tensor]:
    config, ours = options_of(file), {}
    sizes = [config.pop(name) for name in ("hidden", "encoder_width", "heads")]
    for name in ("queries", "inputs", "layer_norm_eps", "attention_axes", "epsilon"):
        config.pop(name)
    for name in config.pop("variants"):
        attention = load(SlotAttention(*sizes, **ATTENTIONS[name]), file.state)
        slots = file.input("slots")
        found = attention(slots, file.io["inputs"])
        ours[f"output_{name}"] = ours[f"output_masked_{name}"] = found.slots
        of_gru = attention.mode == "gru"
        ours[f"attention_{name}"] = found.assignment.mT if of_gru else found.weights
        value = (found.slots * file.io["cotangent"]).mean()
        ours[f"grad_slots_{name}"] = gradients(value, slots=slots)["slots"]
    refuse_rest(config)
    return {name: value for name, value in ours.items() if name in file.io}


@covers("slotmllm_qformer", inputs=("inputs", "query_tokens"))
def check_former(file: Golden) -> dict[str, Tensor]:
    config, ours = options_of(file), {}
    own = dict(num_slots="queries", dims="hidden", input_dims="encoder_width", depth="layers")
    own |= dict(num_heads="heads", hidden_dims="intermediate", cross_every="cross_attention_freq")
    options = {name: config.pop(official) for name, official in own.items()}
    kinds = config.pop("kinds")
    config.pop("slot_layers")
    refuse_rest(config)
    state = file.state | {"query_tokens": file.io["query_tokens"][0]}
    for name in kinds:
        former = load(SlotFormer(**options, **ATTENTIONS[name]), state)
        slots = former(file.io["inputs"]).slots
        # The official code is causal, also when it is asked not to be.
        ours |= {f"output_{name}_{asked}": slots for asked in ("causal", "requested_noncausal")}
    return ours


@covers("slotmllm_blocks", inputs=("slots", "pos_embed"))
def check_blocks(file: Golden) -> dict[str, Tensor]:
    config = options_of(file)
    heads = config.pop("heads")
    refuse_rest(config)
    count, width = file.io["slots"].shape[1:]
    depth = 1 + max(int(key.split(".")[1]) for key in file.state)
    blocks = SlotBlocks(count, width, depth, heads)
    blocks.load_state_dict(file.state | {"positions": file.io["pos_embed"][0]})
    slots = file.io["slots"]
    return dict(output=blocks(slots), output_causal=blocks(slots, causal=True))


# The library computes no loss in evaluation, and its straight-through gradient is multiplied and
# rotated; ours is the paper's.
@covers("slotmllm_rvq", inputs=("x", "cotangent", "eval_loss", "grad_x_quantized", "grad_x_loss"))
def check_codes(file: Golden) -> dict[str, Tensor]:
    config = options_of(file)
    config.pop("library"), config.pop("loss")
    own = config.pop("args")
    refuse_rest(config)
    width, depth = own.pop("codebook_dim"), own.pop("num_quantizers")
    options = dict(codebook_size=own.pop("codebook_size"))
    options["shared"] = own.pop("shared_codebook") and "deferred"
    state = reference_to_slots(file.state)
    pair = {name: state.pop(f"{name}.weight") for name in ("project_in", "project_out")}
    bias = {name: state.pop(f"{name}.bias") for name in pair}
    if own.pop("dim") != pair["project_in"].shape[1]:
        raise ValueError("dim must be the width of the slots")
    refuse_rest(own)
    quantizer = build(
        QUANTIZERS,
        state,
        dict,
        type="ResidualQuantizer",
        embed_dims=width,
        depth=depth,
        commitment_weight=1.0,
        decay=0.8,
        restart=False,
        **options,
    )
    linear = torch.nn.functional.linear
    latents = linear(file.io["x"], pair["project_in"], bias["project_in"])

    def out(values: Tensor) -> Tensor:
        return linear(values, pair["project_out"], bias["project_out"])

    found = quantizer.eval()(latents)
    sums = quantizer.partial_sums(found.indices)
    ours = dict(eval_indices=found.indices, eval_quantized=out(found.latents))
    ours["from_indices"] = out(quantizer.decode(found.indices))
    ours["all_codes"] = torch.cat([sums[:1], sums.diff(dim=0)])
    found = quantizer.train()(latents)
    ours |= dict(train_indices=found.indices, train_quantized=out(found.latents))
    errors = [found.terms[f"error_depth{number}"] for number in range(1, depth + 1)]
    ours["train_loss"] = torch.stack(errors)[None]
    table = quantizer.codebooks[0]
    ours |= dict(codebook_after=table.weight[None], cluster_size_after=table.cluster_size_ema[None])
    return ours


@covers("slotmllm_layout", inputs=("indices", "prefix", "suffix", "generated"))
def check_layout(file: Golden) -> dict[str, Tensor]:
    config = options_of(file)
    layout = CodeLayout(config.pop("text_vocab"), config.pop("image_vocab"))
    if [layout.begin, layout.end] != [config.pop("boi"), config.pop("eoi")]:
        raise ValueError("boi and eoi must follow the codes")
    refuse_rest(config)
    (codes,) = file.io["indices"]
    ids = layout.to_ids(codes)
    ours = dict(input_ids=torch.cat([file.io["prefix"], ids, file.io["suffix"]]))
    return ours | dict(parsed_codes=layout.to_codes(file.io["generated"], codes.shape))
