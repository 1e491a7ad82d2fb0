"""Quantities of the official generators; see ``codec_references.py``."""

import math
import re

import torch
from codec_references import Golden, build, covers, official_gradients, refuse_rest
from torch import Tensor

from hook.models.converters import reference_to_generator
from hook.models.generators import FlowSampling, FlowTimes, filter_logits
from hook.models.generators.sampling import guide
from hook.registry import MODELS, PARAM_SCHEDULERS


# ------------------------------------------------------------------------------------ codes
def take(config: dict, names: dict[str, str]) -> dict:
    """Take options out of a config, under our names."""
    return {ours: config.pop(name) for name, ours in names.items() if name in config}


def square(config: dict) -> tuple[int, int]:
    """Take the number of positions, and return their grid."""
    side = math.isqrt(config["block_size"])
    if side**2 != config.pop("block_size"):
        raise ValueError("block_size must be a square number")
    return side, side


def parity(file: Golden, config: dict, **options) -> torch.nn.Module:
    """Build a transformer over codes with the official rotary row of the first token."""
    refuse_rest(config)
    options |= dict(start_rotary="zero")
    return build(MODELS, file.state, reference_to_generator, **options).eval()


def greedy(file: Golden, network: torch.nn.Module, guidance) -> dict[str, Tensor]:
    """Return the most likely codes, (B, N, Q), without and with guidance, as far as given."""
    labels, ours = file.io["sample_cls"].flatten(), {}
    for name, scale in (("greedy", 1.0), ("greedy_cfg", guidance)):
        if any(key == name or key.startswith(f"{name}_p") for key in file.io):
            scale = tuple(scale) if isinstance(scale, list) else scale
            ours[name] = network.sample(labels, temperature=0, guidance=scale)
    return ours


@covers("magvit2_ar", inputs=("idx_*", "cls", "sample_cls"))
def check_factorized(file: Golden) -> dict[str, Tensor]:
    config = dict(file.config)
    for name in ("vocab_size", "sample_cfg_off"):  # of another variant, a remark
        config.pop(name, None)
    if not config.pop("token_factorization", True) or config.pop("cond_dim") != config["dim"]:
        raise ValueError("token_factorization must be true, cond_dim equal to dim")
    guidance = config.pop("cfg_scale")
    classes = dict(kind="class", num_classes=config.pop("class_num"), drop_rate=0.1)
    options = take(
        config,
        {
            "dim": "embed_dims",
            "spatial_n_layer": "depth",
            "factorized_n_layer": "factor_depth",
            "n_head": "num_heads",
            "n_kv_head": "num_kv_heads",
            "multiple_of": "mlp_multiple",
        },
    )
    options |= dict(type="hook.FactorizedTransformer", condition=classes, grid=square(config))
    options["codebook_sizes"] = [2**bits for bits in config.pop("factorized_bits")]
    network = parity(file, config, **options)
    codes = torch.stack([file.io["idx_pre"], file.io["idx_post"]], dim=-1)
    labels = file.io["cls"].flatten()
    losses = network.loss(codes, labels)
    total = sum(losses.values())
    sin, cos = network.rotary[..., ::2]
    ours = dict(zip(("logits_pre", "logits_post"), network(codes, labels), strict=True))
    ours |= dict(zip(("loss_pre", "loss_post"), losses.values(), strict=True))
    ours |= dict(loss=total, freqs_cis=torch.stack([cos, sin], dim=-1))
    for name, found in greedy(file, network, guidance).items():
        ours |= {f"{name}_pre": found[..., 0], f"{name}_post": found[..., 1]}
    return ours | official_gradients(file, network, total, reference_to_generator)


@covers("ibq_ar", inputs=("idx", "cls", "sample_cls"))
def check_code_transformer(file: Golden) -> dict[str, Tensor]:
    config = dict(file.config)
    if config.pop("cond_dim") != config["n_embd"]:
        raise ValueError("cond_dim must be equal to n_embd")
    guidance = config.pop("cfg_scale")
    classes = dict(kind="class", num_classes=config.pop("class_num"), drop_rate=0.1)
    options = take(
        config,
        {
            "n_embd": "embed_dims",
            "n_layer": "depth",
            "n_head": "num_heads",
            "n_kv_head": "num_kv_heads",
            "multiple_of": "mlp_multiple",
            "alng": "gate_init",
        },
    )
    options |= dict(type="hook.CodeTransformer", condition=classes, grid=square(config))
    options |= dict(codebook_sizes=[config.pop("vocab_size")], adaptive_norm=True)
    network = parity(file, config, **options)
    codes, labels = file.io["idx"][..., None], file.io["cls"].flatten()
    (loss,) = network.loss(codes, labels).values()
    ours = dict(logits=network(codes, labels)[0], loss=loss)
    ours |= {name: found[..., 0] for name, found in greedy(file, network, guidance).items()}
    return ours | official_gradients(file, network, loss, reference_to_generator)


@covers("dnd_ar", inputs=("idx", "cls", "sample_cls"))
def check_depth(file: Golden) -> dict[str, Tensor]:
    config = dict(file.config)
    guidance, drop_rate = config.pop("cfg_scale"), config.pop("class_dropout_prob")
    classes = dict(kind="class", num_classes=config.pop("num_classes"), drop_rate=drop_rate)
    count = config.pop("num_pred_heads")
    options = take(
        config,
        {
            "dim": "embed_dims",
            "n_layer": "depth",
            "n_head": "num_heads",
            "n_kv_head": "num_kv_heads",
            "multiple_of": "mlp_multiple",
            "pred_head_positions": "head_blocks",
        },
    )
    options |= dict(type="hook.DepthTransformer", condition=classes, grid=square(config))
    options |= dict(codebook_sizes=[config.pop("vocab_size")] * count)
    heads = ["heads"] if config.pop("share_prediction_heads", False) else []
    options |= dict(shared=["embeds", *heads])
    network = parity(file, config, **options)
    codes, labels = file.io["idx"], file.io["cls"].flatten()
    losses = torch.stack([*network.loss(codes, labels).values()])
    ours = dict(logits=torch.stack(network(codes, labels), dim=1), loss=losses.sum())
    ours |= dict(loss_per_depth=count * losses) | greedy(file, network, guidance)
    return ours | official_gradients(file, network, losses.sum(), reference_to_generator)


@covers("top_k_top_p_filter", inputs=("logits",))
def check_filter(file: Golden) -> dict[str, Tensor]:
    ours = {}
    for name in file.io:
        if match := re.fullmatch(r"keep_k(\d+)_p([\d.]+)", name):
            logits = filter_logits(file.io["logits"], int(match[1]), float(match[2]))
            ours[name] = logits.isfinite().long()
    return ours


# ------------------------------------------------------------------------------------ schedule
@covers("ar_schedule", inputs=("step",), bars=(("", 0.0, 1e-6),))
def check_schedule(file: Golden) -> dict[str, Tensor]:
    config = dict(file.config)
    peak, decay = config.pop("lr"), config.pop("wd")
    warm, most = round(config.pop("wp_it")), config.pop("max_it")
    first, last = config.pop("wp0"), config.pop("wpe")
    if config.pop("twde") not in (0, decay):
        raise ValueError("the weight decay must be constant")
    refuse_rest(config)
    # flat for 5 % of the rest, then linear to the last step
    flat = math.ceil(warm + 0.05 * (most - 1 - warm))
    start = last + (1 - last) * (most - 1 - flat) / (0.95 * (most - 1 - warm))
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(1))], peak, weight_decay=decay)
    linear = dict(type="LinearLR", by_epoch=False)
    parts = dict(start_factor=first, end=warm + 1), dict(begin=flat, end=most)
    parts[1].update(start_factor=start, end_factor=last)
    schedulers = [
        PARAM_SCHEDULERS.build(linear | part, default_args=dict(optimizer=optimizer))
        for part in parts
    ]
    rows = []
    for _ in range(most):
        group = optimizer.param_groups[0]
        rows.append((group["lr"], group["weight_decay"]))
        optimizer.step()
        for one in schedulers:
            one.step()
    table = torch.tensor(rows)[file.io["step"]]
    # The official trainer gives all groups the same weight decay.
    return dict(
        lr=table[:, 0], weight_decay=table[:, 1], weight_decay_of_undecayed_group=table[:1, 1]
    )


# ------------------------------------------------------------------------------------ flows
def flow_network(file: Golden) -> torch.nn.Module:
    """Build LightningDiT with official options and weights."""
    config = dict(file.config["model"])
    side = config.pop("input_size")
    classes = dict(kind="class", num_classes=config.pop("num_classes"))
    classes["drop_rate"] = config.pop("class_dropout_prob")
    options = take(
        config,
        {
            "in_channels": "in_channels",
            "patch_size": "patch_size",
            "hidden_size": "embed_dims",
            "depth": "depth",
            "num_heads": "num_heads",
            "use_qknorm": "qk_norm",
            "use_swiglu": "swiglu",
            "use_rope": "rotary",
            "use_rmsnorm": "rms_norm",
        },
    )
    options |= dict(shift=not config.pop("wo_shift"), condition=classes, grid=(side, side))
    if config.pop("learn_sigma", False):
        raise ValueError("learn_sigma must be false")
    refuse_rest(config)
    options |= dict(type="hook.LightningDiT")
    return build(MODELS, file.state, reference_to_generator, **options).eval()


@covers("lightningdit", inputs=("x0", "x1", "t", "y"))
def check_flow(file: Golden) -> dict[str, Tensor]:
    network, io = flow_network(file), file.io
    noise, latents, times, labels = (io[name] for name in ("x0", "x1", "t", "y"))
    x, velocity = network.interpolate(noise, latents, times)
    errors, angles = network.path_losses(noise, latents, times, labels)
    total = errors.mean() + angles.mean()
    ours = dict(xt=x, ut=velocity, output=network(x, times, labels), loss=errors)
    ours |= dict(cos_loss=angles, total=total, t_embedding=network.time_embed(times))
    if network.rotary is not None:
        ours |= dict(zip(("rope_sin", "rope_cos"), network.rotary, strict=True))
    return ours | official_gradients(file, network, total, reference_to_generator)


def number(name: str, option: str, default: float) -> float:
    """Return the number that follows an option in the name of a quantity."""
    match = re.search(rf"{option}(\d+(?:\.\d+)?)", name)
    return float(match[1]) if match else default


@covers("lightningdit_sampler", inputs=("noise", "y"))
def check_flow_sampler(file: Golden) -> dict[str, Tensor]:
    network, noise, labels = flow_network(file), file.io["noise"], file.io["y"]
    fixed = dict(points=file.config["num_sampling_steps"])
    fixed["guidance_channels"] = file.config["cfg_channels"]
    ours = {}
    for name in file.io:
        official = name.endswith("official")
        shift = number(name, "shift", 0.3 if official else 0.0)
        options = fixed | dict(shift=shift or 1.0)  # 0: none
        options["guidance"] = number(name, "cfg", 10.0 if official else 1.0)
        options["guidance_start"] = number(name, "interval", 0.11 if official else 0.0)
        if name.startswith("times"):
            ours[name] = FlowSampling(**options).times()
        elif name.startswith("traj"):
            ours[name] = torch.stack([*network.trajectory(noise, labels, **options)])
        elif name.startswith("cfg_single"):
            # The official code returns the other half of the batch, too.
            time, channels = number(name, "_t", 0.0), options["guidance_channels"]
            scale = 4.0 if time >= options["guidance_start"] else 1.0
            times, unknown = noise.new_full((len(noise),), time), network.condition.unknowns(labels)
            with torch.no_grad():
                sides = [network(noise, times, one) for one in (labels, unknown)]
            first = guide(*sides, scale, channels)
            second = torch.cat([first[:, :channels], sides[1][:, channels:]], dim=1)
            ours[name] = torch.cat([first, second])
    return ours


@covers("lightningdit_times", inputs=("normals",))
def check_flow_times(file: Golden) -> dict[str, Tensor]:
    normals, ours = file.io["normals"], {}
    for name, value in file.io.items():
        if match := re.fullmatch(r"t_mu(-?[\d.]+)_sigma([\d.]+)", name):
            times = FlowTimes(*map(float, match.groups()))
        elif match := re.fullmatch(r"t_range([\d.]+)_([\d.]+)_first", name):
            times = FlowTimes(limits=tuple(map(float, match.groups())))
        else:
            continue
        ours[name] = times.draw(len(value), lambda count: normals[:count])
    return ours
