"""Quantities of the official codecs, computed with our models; part of ``check_reference.py``.

A kind of file is known by the start of its name. A function decorated with :func:`covers` takes
such a file and returns our quantities; models are built through the registries that configs use.
"""

import random
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from hook.models.autoencoders.losses import CodecPass, Equivariance, weight_from_gradients
from hook.models.converters import reference_to_codec
from hook.models.parts import build_part
from hook.quantizers import Quantized
from hook.registry import MODELS, QUANTIZERS

# Outputs pass with either difference, absolute or as a share of the largest value; gradients,
# whose names start with "grad", with the share alone.
ABSOLUTE, RELATIVE = 2e-5, 1e-4


@dataclass
class Golden:
    """A file of official numbers.

    Attributes:
        path: The file; its name says what it holds.
        config: Official options.
        state: Official weights.
        io: Official inputs and outputs.
    """

    path: Path
    config: dict
    state: dict[str, Tensor]
    io: dict[str, Tensor]

    def input(self, name: str) -> Tensor:
        """Return a copy of an input that records gradients."""
        return self.io[name].clone().requires_grad_()


@dataclass
class Kind:
    """How one kind of file is checked.

    Attributes:
        compute: File -> our quantities by name.
        inputs: Names of ``io`` quantities that are inputs, or patterns (``*``).
        bars: (start of a name, absolute bar, relative bar) that replace the general ones.
    """

    compute: Callable[[Golden], dict[str, Tensor]]
    inputs: tuple[str, ...] = ()
    bars: tuple[tuple[str, float, float], ...] = field(default=())

    def passes(self, name: str, difference: float, scale: float) -> bool:
        """Return whether a difference is small enough; NaN is not."""
        for start, absolute, relative in self.bars:
            if name.startswith(start):
                return difference <= max(absolute, relative * scale)
        if name.startswith("grad"):
            return difference <= RELATIVE * scale
        return difference <= max(ABSOLUTE, RELATIVE * scale)


KINDS: dict[str, Kind] = {}


def covers(*starts: str, inputs: Iterable[str] = (), bars=()) -> Callable:
    """Register a function for files whose names start so; the longest start counts."""

    def register(compute: Callable) -> Callable:
        KINDS.update(dict.fromkeys(starts, Kind(compute, tuple(inputs), tuple(bars))))
        return compute

    return register


def kind_of(name: str) -> Kind | None:
    """Return the kind of a file by its name, None for no file of a codec."""
    starts = [start for start in KINDS if name.startswith(start)]
    return KINDS[max(starts, key=len)] if starts else None


# ------------------------------------------------------------------------------------ parts
def rows(maps: Tensor) -> Tensor:
    """Turn (B, D, h, w) into (B, h * w, D)."""
    return maps.flatten(2).transpose(1, 2)


def maps(latents: Tensor, like: Tensor) -> Tensor:
    """Turn (B, h * w, D) into (B, D, h, w), the size of ``like``."""
    return latents.transpose(1, 2).reshape(len(latents), -1, *like.shape[-2:])


def gradients(value: Tensor, **inputs: Tensor) -> dict[str, Tensor]:
    """Return the gradients of a scalar by name of the input; zeros where it does not depend."""
    if not inputs:
        return {}
    found = torch.autograd.grad(value, list(inputs.values()), retain_graph=True, allow_unused=True)
    pairs = zip(inputs.items(), found, strict=True)
    return {name: torch.zeros_like(x) if grad is None else grad for (name, x), grad in pairs}


def build(
    registry, state: dict[str, Tensor], rename: Callable = reference_to_codec, **config
) -> torch.nn.Module:
    """Build a model from a config and load the renamed official weights."""
    part = registry is QUANTIZERS
    model = build_part(registry, config, "quantizer") if part else registry.build(config)
    model.load_state_dict(rename(state), strict=True)
    return model


# ------------------------------------------------------------------------------------ quantizers
def ibq_options(config: dict) -> dict:
    """Return our options of IBQ for the official ones."""
    config = dict(config)
    options = dict(
        type="IndexBackpropQuantizer",
        codebook_size=config.pop("n_e"),
        embed_dims=config.pop("e_dim"),
        beta=config.pop("beta"),
        quant_weight=config.pop("quant_loss_weight"),
        entropy_weight=config.pop("entropy_loss_weight"),
        temperature=config.pop("entropy_temperature"),
        sample_weight=config.pop("sample_minimization_weight"),
        batch_weight=config.pop("batch_maximization_weight"),
        init_std=1.0,
    )
    if not config.pop("use_entropy_loss"):
        options["entropy_weight"] = None
    refuse_rest(config)
    return options


def refuse_rest(config: dict) -> None:
    """Raise for options that were not used."""
    if config:
        raise ValueError(f"the file's config has unknown options: {sorted(config)}")


@covers("ibq_quantizer", inputs=("z", "upstream"))
def check_ibq(file: Golden) -> dict[str, Tensor]:
    quantizer = build(QUANTIZERS, file.state, **ibq_options(file.config))
    z, table = file.input("z"), quantizer.codebook
    result = quantizer(rows(z))
    z_q, terms = maps(result.latents, z), result.terms
    total = sum(result.losses.values())
    ours = {
        "z_q": z_q,
        "indices": result.indices.flatten(),
        "loss_term_zq_z": terms["double"],
        "loss_term_encoder": terms["encoder"],
        "loss_term_codebook_unweighted": terms["codebook"],
        "quant_loss": terms["quant"],
        "total_loss": total,
    }
    probes = {"quant": terms["quant"], "upstream": (z_q * file.io["upstream"]).sum()}
    probes["total"] = total
    if "entropy" in terms:
        ours["sample_entropy"] = terms["sample_entropy"]
        ours["avg_entropy"] = terms["batch_entropy"]
        ours["entropy_loss"] = probes["entropy"] = terms["entropy"]
    for name, probe in probes.items():
        found = gradients(probe, z=z, codebook=table)
        ours |= {f"grad_{part}_{name}": grad for part, grad in found.items()}
    return ours


def lfq_options(config: dict) -> dict:
    """Return our options of LFQ for the official ones."""
    config = dict(config)
    bits = config.pop("dim")
    if config.pop("codebook_size", 2**bits) != 2**bits:
        raise ValueError(f"{bits} channels have 2^{bits} codes, found {config}")
    names = {
        "factorized_bits": "factors",
        "commit_weight": "commitment_weight",
        "codebook_weight": "entropy_weight",
        "entropy_temperature": "temperature",
        "sample_minimization_weight": "sample_weight",
        "batch_maximization_weight": "batch_weight",
    }
    options = {ours: config.pop(name) for name, ours in names.items() if name in config}
    refuse_rest(config)
    return dict(type="LookupFreeQuantizer", bits=bits, **options)


@covers("lfq_entropy", inputs=("z", "upstream", "codebook_rows"))
def check_lfq_entropy(file: Golden) -> dict[str, Tensor]:
    quantizer = build(QUANTIZERS, file.state, **lfq_options(file.config))
    z = file.input("z")
    result = quantizer.train()(rows(z))
    z_q, terms = maps(result.latents, z), result.terms
    total = sum(result.losses.values())
    silent = quantizer.eval()(rows(z)).terms
    ours = {
        "z_q": z_q,
        "indices": result.indices.flatten(),
        "sample_entropy": terms["sample_entropy"],
        "codebook_entropy": terms["batch_entropy"],
        "entropy_loss": terms["entropy"],
        "commit_loss": terms["commitment"],
        "total_loss": total,
        "eval_entropy_loss": silent["entropy"],
        "eval_commit_loss": silent["commitment"],
        "codebook_values": quantizer.decode(file.io["codebook_rows"][None])[0],
    }
    probes = {
        "entropy": terms["entropy"],
        "commit": terms["commitment"],
        "upstream": (z_q * file.io["upstream"]).sum(),
        "total": total,
    }
    return ours | {f"grad_z_{name}": gradients(p, z=z)["z"] for name, p in probes.items()}


@covers("lfq_indices", inputs=("z",))
def check_lfq_indices(file: Golden) -> dict[str, Tensor]:
    options = lfq_options(file.config)
    factored = build(QUANTIZERS, file.state, **options)
    single = build(QUANTIZERS, file.state, **options | {"factors": None})
    z = file.io["z"]
    result = factored(rows(z))
    pre, post = result.indices.unbind(dim=-1)
    return {
        "z_q": maps(factored.decode(result.indices), z),
        "indices": single(rows(z)).indices.flatten(),
        "indices_pre": pre.flatten(),
        "indices_post": post.flatten(),
    }


def rq_options(config: dict) -> dict:
    """Return our options of RQ for the official ones."""
    config = dict(config)
    latent, code = config.pop("latent_shape"), config.pop("code_shape")
    options = dict(
        type="ResidualQuantizer",
        codebook_size=config.pop("n_embed"),
        embed_dims=latent[2],
        depth=code[2],
        shared=config.pop("shared_codebook"),
        fold=(latent[0] // code[0], latent[1] // code[1]),
        commitment_weight=config.pop("latent_loss_weight"),
        decay=config.pop("decay"),
        restart=config.pop("restart_unused_codes"),
        restart_below=1.0,
        eps=config.pop("eps", 1e-5),
        init_std=1.0,
        initial_count=0.0,
    )
    refuse_rest(config)
    return options


@covers("rq_eval", "rq_train", inputs=("x", "upstream"))
def check_rq(file: Golden) -> dict[str, Tensor]:
    config = dict(file.config)
    training = config.pop("training")
    quantizer = build(QUANTIZERS, file.state, **rq_options(config)).train(training)
    x = file.input("x")
    grid, code_shape = tuple(x.shape[1:3]), config["code_shape"]
    flat = x.flatten(1, 2)
    soft = {
        name: quantizer.soft_codes(flat, float(name.removeprefix("soft_codes_temp")), grid)
        for name in file.io
        if name.startswith("soft_codes_temp")
    }
    result = quantizer(flat, grid=grid)
    z_q, total = result.latents.reshape(x.shape), sum(result.losses.values())
    upstream = (z_q * file.io["upstream"]).sum()
    probes = {"commitment": result.terms["commitment"], "upstream": upstream}
    probes["total"] = total + upstream
    errors = [result.terms[f"error_depth{depth}"] for depth in range(1, quantizer.depth + 1)]
    sums = quantizer.partial_sums(result.indices, grid)
    ours = {
        "z_q": z_q,
        "codes": result.indices.unflatten(1, code_shape[:2]),
        "commitment_loss": result.terms["commitment"],
        "per_depth_mse": torch.stack(errors),
        "embed_code": quantizer.decode(result.indices, grid).reshape(x.shape),
        # folded as the codes are
        "cumulative_quantized": torch.stack(
            [quantizer.fold_latents(s, grid) for s in sums]
        ).unflatten(2, code_shape[:2]),
    }
    ours |= {name: value.unflatten(1, code_shape[:2]) for name, value in soft.items()}
    ours |= {f"grad_x_{name}": gradients(probe, x=x)["x"] for name, probe in probes.items()}
    after = {f"after/{key}": value for key, value in quantizer.state_dict().items()}
    for key, value in after.items():
        if key.endswith(".weight"):  # with the official row of zeros that stands for no code
            after[key] = torch.cat([value, torch.zeros_like(value[:1])])
    return ours | after


@covers("vavae_kl", inputs=("moments", "noise"))
def check_gaussian(file: Golden) -> dict[str, Tensor]:
    moments, noise = file.input("moments"), file.io["noise"]
    limits = file.config["logvar_clamp"]
    config = dict(type="GaussianQuantizer", embed_dims=noise.shape[1], kl_weight=1.0)
    quantizer = build(QUANTIZERS, {}, **config, logvar_range=limits)
    mean, logvar = quantizer.moments(rows(moments))
    kl = quantizer.divergence(mean, logvar)
    loss = quantizer(rows(moments)).losses["loss_kl"]
    return {
        "mean": maps(mean, noise),
        "logvar": maps(logvar, noise),
        "std": maps((logvar / 2).exp(), noise),
        "z": maps(quantizer.sample(mean, logvar, rows(noise)), noise),
        "kl": kl.sum(dim=(1, 2)),
        "kl_elementwise": 2 * maps(kl, noise),  # without the factor 1/2
        "kl_loss": loss,
        "grad_moments": gradients(loss, moments=moments)["moments"],
    }


@covers("atoken_fsq", inputs=("z", "cotangent"))
def check_fsq(file: Golden) -> dict[str, Tensor]:
    config = {k: v for k, v in file.config.items() if k not in ("system", "part")}
    options = dict(levels=config.pop("levels"), groups=config.pop("num_codebooks"))
    options |= dict(type="FiniteScalarQuantizer", embed_dims=config.pop("dim"))
    refuse_rest(config)
    quantizer = build(QUANTIZERS, file.state, **options)
    z = file.input("z")
    result = quantizer(z[None])
    # The official table of several groups is not split into rows.
    table = quantizer.codes(torch.arange(quantizer.codebook_size))
    table = table if options["groups"] == 1 else table.flatten()
    return {
        "quantized": result.latents[0],
        "indices": result.indices[0],
        "decoded_from_indices": quantizer.decode(result.indices)[0],
        "grad_z": gradients((result.latents[0] * file.io["cotangent"]).sum(), z=z)["z"],
        "implicit_codebook": table[:64],
    }


# ------------------------------------------------------------------------------------ networks
def network_options(family: str, part: str, options: dict, embed_dims: int | None = None) -> dict:
    """Return our options of an encoder or a decoder for the official ``ddconfig``.

    ``embed_dims`` is given where 1x1 convolutions stand before and after the quantizer.
    """
    options = dict(options)
    mult, resolution = options.pop("ch_mult"), options.pop("resolution")
    z_channels = options.pop("z_channels") * (2 if options["double_z"] and part == "Encoder" else 1)
    bands, out_channels = options.pop("in_channels"), options.pop("out_ch")
    config = dict(type=f"hook.{family}{part}", embed_dims=options.pop("ch"), channel_mult=mult)
    config["num_res_blocks"] = options.pop("num_res_blocks")
    if family == "VQGAN":
        sizes = [resolution // 2**level for level in range(len(mult))]
        if part == "Decoder":
            sizes = [sizes[-1] * 2**level for level in reversed(range(len(mult)))]
        attention = options.pop("attn_resolutions")
        config["attn_levels"] = [level for level, size in enumerate(sizes) if size in attention]
        config["drop_rate"] = options.pop("dropout", 0.0)
    if embed_dims:
        config["z_channels"] = z_channels
        z_channels = embed_dims * (2 if options["double_z"] and part == "Encoder" else 1)
    del options["double_z"]
    refuse_rest(options)
    if part == "Encoder":
        return config | dict(in_channels=bands, out_channels=z_channels)
    return config | dict(in_channels=z_channels, out_channels=out_channels)


def find_weight(network: torch.nn.Module, short: str, shape: torch.Size) -> Tensor | None:
    """Return the first weight of a shape whose key ends with a short name as ``mid_attn_q``."""
    words = r"(?:[._]|_\d+\.)".join(short.split("_"))
    for key, value in sorted(network.named_parameters()):
        if re.search(rf"(^|\.){words}\.weight$", key) and value.shape == shape:
            return value
    return None


def official_gradients(
    file: Golden,
    network: torch.nn.Module,
    value: Tensor,
    rename: Callable = reference_to_codec,
    **inputs: Tensor,
) -> dict[str, Tensor]:
    """Return those gradients of a scalar that the file has: ``grad/`` KEY, ``grad_`` SHORT NAME."""
    weights, wanted = dict(network.named_parameters()), {}
    for name, theirs in file.io.items():
        if name.startswith("grad/"):
            (key,) = rename({name.removeprefix("grad/"): theirs})
            wanted[name] = weights[key]
        elif name.startswith("grad_"):
            short = name.removeprefix("grad_")
            found = inputs[short] if short in inputs else find_weight(network, short, theirs.shape)
            wanted |= {} if found is None else {name: found}
    return gradients(value, **wanted)


NETWORKS = {"magvit2": "MAGVIT2", "ibq": "VQGAN", "vavae": "VQGAN"}


def check_network(file: Golden, part: str, source: str, out: str) -> dict[str, Tensor]:
    family = NETWORKS[file.path.name.partition("_")[0]]
    config = network_options(family, part, file.config.get("ddconfig", file.config))
    network = build(MODELS, file.state, **config).eval()
    x = file.input(source)
    y = network(x)
    if "upstream" in file.io:
        probe = (y * file.io["upstream"]).sum()
    else:
        probe = (y * file.io["cotangent"]).mean()
    inputs = {name: x for name in ("input", "image", "z")}
    return {out: y} | official_gradients(file, network, probe, **inputs)


@covers("magvit2_encoder", "ibq_encoder", inputs=("x", "upstream"))
def check_encoder(file: Golden) -> dict[str, Tensor]:
    return check_network(file, "Encoder", "x", "out")


@covers("magvit2_decoder", "ibq_decoder", inputs=("z", "upstream"))
def check_decoder(file: Golden) -> dict[str, Tensor]:
    return check_network(file, "Decoder", "z", "out")


@covers("vavae_encoder", inputs=("image", "cotangent"))
def check_vavae_encoder(file: Golden) -> dict[str, Tensor]:
    return check_network(file, "Encoder", "image", "features")


@covers("vavae_decoder", inputs=("z", "cotangent"))
def check_vavae_decoder(file: Golden) -> dict[str, Tensor]:
    return check_network(file, "Decoder", "z", "image")


def part_of(state: dict[str, Tensor], start: str) -> dict[str, Tensor]:
    """Return the weights of a part, without the start of their keys."""
    return {key.removeprefix(start): v for key, v in state.items() if key.startswith(start)}


@covers("vfmvae_attnproj", inputs=("x*",))
def check_attention_projection(file: Golden) -> dict[str, Tensor]:
    ours = {}
    for i, case in enumerate(file.config["cases"]):
        case = dict(case)
        options = dict(in_dims=case.pop("in_dim"), out_dims=case.pop("out_dim"))
        options |= dict(num_heads=case.pop("num_heads"), num_layers=case.pop("num_layers", 1))
        options["change"] = "last" if case.pop("is_quant") else "first"
        refuse_rest(case)
        module = build(
            MODELS, part_of(file.state, f"p{i}."), type="hook.AttentionProjection", **options
        )
        block = module.blocks[0]
        ours[f"attention_branch{i}"] = block.attn(block.norm1(file.io[f"x{i}"]))
        ours[f"y{i}"] = module(file.io[f"x{i}"])
    return ours


@covers("vfmvae_blocks", inputs=("x", "context", "mask", "up_in"))
def check_decoder_blocks(file: Golden) -> dict[str, Tensor]:
    x, context, mask, up_in = (file.io[name] for name in ("x", "context", "mask", "up_in"))
    options = dict(
        type="hook.NullKeyAttention", channels=x.shape[1], num_heads=file.config["heads"]
    )
    options |= dict(head_dims=file.config["dim_head"], mask_null=True)
    attend = build(MODELS, part_of(file.state, "self."), **options)
    cross = build(MODELS, part_of(file.state, "cross."), **options, context_dims=context.shape[-1])
    ours = {
        "self_attention": attend(x),
        "cross_attention": cross(x, context),
        "cross_attention_masked": cross(x, context, mask.bool()),
    }
    for name, theirs in file.io.items():
        if name.startswith("up_") and name != "up_in":
            size = int(name[3])  # of the blur, as in up_4x4_postnorm
            upsample = build(
                MODELS,
                part_of(file.state, f"up{size}."),
                type="hook.BlurUpsample",
                in_channels=up_in.shape[1],
                out_channels=theirs.shape[1],
                blur_size=size,
                post_norm=name.endswith("postnorm"),
            )
            ours[name] = upsample(up_in)
    return ours


@covers("vfmvae_fusion", inputs=("feature_*", "noise", "cotangent"))
def check_fusion(file: Golden) -> dict[str, Tensor]:
    args = dict(file.config["args"])
    if args.pop("compression_mode") != "continuous":
        raise ValueError("compression_mode must be 'continuous'")
    for name in ("use_kl_loss", "use_vf_loss", "use_adaptive_vf_loss"):
        args.pop(name)  # the file has the values or not
    kinds = {"attnproj": "attention", "conv": "conv"}
    z_size, z_dims = args.pop("z_resolution"), args.pop("z_dimension")
    sizes, layers = args.pop("patch_resolutions"), args.pop("patch_from_layers")
    margins = args.pop("distmat_margin", 0.0), args.pop("cos_margin", 0.0)
    state = reference_to_codec(file.state)
    encoder = build(
        MODELS,
        {k: v for k, v in state.items() if k.startswith(("branches.", "fuse."))},
        type="hook.FusionEncoder",
        level_channels=args.pop("patch_in_dimensions"),
        level_strides=[max(sizes) // size for size in sizes],
        mid_channels=args.pop("patch_out_dimensions"),
        out_channels=2 * z_dims,
        stride=max(sizes) // z_size,
        projection=kinds[args.pop("how_to_compress")],
        num_layers=args.pop("attnproj_quant_layers"),
    )
    decoder = MODELS.build(
        dict(
            type="hook.ProgressiveDecoder",
            in_channels=z_dims,
            stage_channels=[8],
            latent_channels=[8],
            stride=1,
            attn_stages=0,
            decompress_factor=args.pop("decompress_factor"),
            decompression=kinds[args.pop("how_to_decompress")],
            num_layers=args.pop("attnproj_post_quant_layers"),
        )
    )
    refuse_rest(args)
    decoder.decompress.load_state_dict(part_of(state, "decompress."))
    tokens = [file.io[f"feature_{i}"] for i in range(len(sizes))]
    levels = [
        x.transpose(1, 2).unflatten(2, (size, size)) for x, size in zip(tokens, sizes, strict=True)
    ]
    branches, moments = encoder.project_levels(levels), encoder(levels)
    gaussian = build(QUANTIZERS, {}, type="GaussianQuantizer", embed_dims=z_dims, kl_weight=1.0)
    kl = gaussian(rows(moments)).losses["loss_kl"]
    noise = file.io["noise"]
    z = maps(gaussian.sample(*gaussian.moments(rows(moments)), rows(noise)), noise)
    decompressed = decoder.decompress(z)
    features = levels[layers.index(-1) if -1 in layers else -1]
    alignment = build(
        MODELS,
        {k: v for k, v in state.items() if k.startswith("proj.")},
        type="hook.AlignmentLoss",
        in_channels=z_dims,
        feature_channels=features.shape[1],
        distance_margin=margins[0],
        cosine_margin=margins[1],
    )
    vf_loss = sum(alignment.terms(z, F.adaptive_avg_pool2d(features, z.shape[-2:])))
    scalar = (decompressed * file.io["cotangent"]).mean() + 0.01 * kl
    fuse, shape = encoder.fuse, file.io["grad_final_quant_proj"].shape
    linear = [fuse] if isinstance(fuse, torch.nn.Conv2d) else [block.proj for block in fuse.blocks]
    first = next(layer.weight for layer in linear if layer.weight.shape == shape)
    ours = {f"branch_{i}": rows(branch) for i, branch in enumerate(branches)}
    ours |= dict(moments=moments, z=z, kl_loss=kl, vf_loss=vf_loss, decompressed=decompressed)
    ours["scalar"] = scalar
    ours |= gradients(scalar, grad_final_quant_proj=first)
    return ours | gradients(vf_loss, grad_vf_last_layer=encoder.last_layer)


# ------------------------------------------------------------------------------------ losses
def patch_options(config: dict) -> dict:
    """Return our options of PatchGAN for the official ones, which are taken out of the config."""
    if config.pop("use_actnorm", False) or config.pop("disc_conditional", False):
        raise ValueError("ActNorm and conditional discriminators are unknown")
    names = ("disc_in_channels", "input_nc"), ("disc_ndf", "ndf"), ("disc_num_layers", "n_layers")
    options = zip(("in_channels", "embed_dims", "num_layers"), names, strict=True)
    found = {key: config.pop(name) for key, both in options for name in both if name in config}
    return dict(type="hook.PatchDiscriminator", **found)


@covers("discriminator_patchgan", "discriminator_blur", inputs=("x", "upstream"))
def check_discriminator(file: Golden) -> dict[str, Tensor]:
    config = dict(file.config)
    training = config.pop("training")
    if "num_stages" in config:
        options = dict(type="hook.BlurDiscriminator", blur=config.pop("blur_resample"))
        options |= dict(in_channels=config.pop("num_channels"), num_stages=config.pop("num_stages"))
        options |= dict(embed_dims=config.pop("hidden_channels"))
        options |= dict(kernel_size=config.pop("blur_kernel_size"))
    else:
        options = patch_options(config)
    refuse_rest(config)
    model = build(MODELS, file.state, **options).train(training)
    x = file.input("x")
    logits = model(x)
    (logits * file.io["upstream"]).sum().backward()
    ours = {"logits": logits, "grad_input": x.grad}
    ours |= {f"grad/{name}": weight.grad for name, weight in model.named_parameters()}
    return ours | {f"after/{name}": value for name, value in model.state_dict().items()}


@covers("gan_loss_functions", inputs=("logits_real", "logits_fake"))
def check_gan_functions(file: Golden) -> dict[str, Tensor]:
    refuse_rest(file.config)
    real, fake = file.io["logits_real"], file.input("logits_fake")
    ours = {}
    kinds = {"hinge": "hinge", "vanilla": "vanilla", "non_saturate": "softplus"}
    for name, kind in kinds.items():
        loss = MODELS.build(dict(type="hook.AdversarialLoss", discriminator=kind))
        ours[f"{name}_d"] = loss.of_discriminator(real, fake)["loss_real_fake"]
    ours["non_saturate_g"] = loss.of_generator(fake)
    ours["grad_fake_non_saturate_g"] = gradients(ours["non_saturate_g"], fake=fake)["fake"]
    for name in file.io:
        if means := re.fullmatch(r"lecam_reg_ema_real_(.+)_fake_(.+)", name):
            loss.lecam_means.copy_(torch.tensor([float(mean) for mean in means.groups()]))
            ours[name] = loss.lecam(real, fake)
            loss.update_lecam(real, fake)
            ours["lecam_ema_after"] = loss.lecam_means
    return ours


@covers(
    *("gan_loss_ibq", "gan_loss_magvit2"),
    inputs=(
        *("inputs", "features", "last_layer", "reconstruction"),
        *("quant_loss", "entropy_loss", "commit_loss"),
    ),
)
def check_gan_training(file: Golden) -> dict[str, Tensor]:
    config, io = dict(file.config), file.io
    step, perceptual = config.pop("global_step"), config.pop("perceptual")
    fixed, factor = config.pop("gen_loss_weight"), config.pop("disc_weight")
    options = dict(weight=factor if fixed is None else fixed, adaptive=fixed is None)
    options |= dict(start=config.pop("disc_start"), lecam_weight=config.pop("lecam_loss_weight"))
    weights = {name: config.pop(f"{name}_weight", 1.0) for name in ("quant_loss", "commit")}
    entropy_weight = config.pop("entropy_loss_weight", None) or config.pop("codebook_weight")
    ratio, steps = (config.pop(f"codebook_enlarge_{key}", 0) for key in ("ratio", "steps"))
    losses = [dict(type="hook.PixelLoss"), dict(type="hook.AdversarialLoss", **options)]
    square = config.pop("perceptual_weight")
    if perceptual != "off":  # what stands for LPIPS in the file
        losses.append(dict(type="hook.PixelLoss", norm="l2", weight=square))
    # Of the autoencoder the file has the last layer only.
    bands, width = io["last_layer"].shape[:2]
    small = dict(embed_dims=width, num_groups=1, channel_mult=(1,))
    model = MODELS.build(
        dict(
            type="hook.TileAutoencoder",
            encoder=dict(type="hook.VQGANEncoder", in_channels=bands, **small),
            decoder=dict(type="hook.VQGANDecoder", in_channels=64, out_channels=bands, **small),
            losses=losses,
            discriminator=patch_options(config),
            entropy_boost=(ratio, steps or 2000),
        )
    ).train()
    refuse_rest(config)
    model.discriminator.load_state_dict(part_of(file.state, "discriminator."))

    layer, images = model.decoder.last_layer, io["inputs"]
    layer.data = io["last_layer"]
    reconstruction = F.conv2d(io["features"], layer, padding=1)
    terms = {
        "loss_entropy": entropy_weight * io["entropy_loss"],
        "loss_quant": weights["quant_loss"] * io.get("quant_loss", 0),
        "loss_commitment": weights["commit"] * io.get("commit_loss", 0),
    }
    passed = CodecPass(images, reconstruction, Quantized(None, losses=terms), None, images)
    sequence = []
    for scale in (1.0, 0.9, 0.8):
        losses = model.discriminator_losses(replace(passed, images=images * scale))
        sequence.append(sum(losses.values()))
    first = model.discriminator.main[0].weight
    ours = {
        "d_loss_sequence": torch.stack(sequence),
        "lecam_ema": model.adversarial.lecam_means.clone(),
        "lecam_loss_last": losses["loss_lecam"] / model.adversarial.lecam_weight,
        "grad_disc_first_weight": gradients(sequence[-1], weight=first)["weight"],
    }
    # The official weight is computed before the start, too.
    _, begun = model.autoencoder_losses(passed, max(step, model.adversarial.start))
    losses, _ = model.autoencoder_losses(passed, step)
    total = sum(losses.values())
    pixels = [losses[name] for name in ("loss_pixel", "loss_pixel_2") if name in losses]
    logits = model.discriminator(reconstruction)
    return ours | {
        "g_reconstruct_loss": pixels[0],
        "g_perceptual_loss": pixels[1] / square if pixels[1:] else torch.zeros(()),
        "g_nll_loss": sum(pixels),
        "logits_fake_after": logits,
        "non_saturating_g": model.adversarial.of_generator(logits),
        "g_d_weight": begun.get("weight_adversarial", torch.tensor(model.adversarial.weight)),
        "g_g_loss": losses.get("loss_adversarial", torch.zeros(())),
        "g_total": total,
        "grad_last_layer": gradients(total, layer=layer)["layer"],
    }


@covers("vavae_vf_loss", inputs=("z", "f"))
def check_alignment(file: Golden) -> dict[str, Tensor]:
    z, f = file.input("z"), file.io["f"]
    state = {key.replace("linear_proj.", "proj."): value for key, value in file.state.items()}
    options = dict(type="hook.AlignmentLoss", in_channels=z.shape[1], feature_channels=f.shape[1])
    passed = SimpleNamespace(latents=z, input_features=[f], input_valid=None)
    weighted, ours = file.config["weighted"], {}
    for i, margins in enumerate(file.config["margins"]):
        options |= dict(distance_margin=margins["distmat_margin"])
        options |= dict(cosine_margin=margins["cos_margin"])
        loss = build(MODELS, state, **options)
        ours[f"loss_distmat_{i}"], ours[f"loss_cos_{i}"] = loss.terms(z, f)
        total = ours[f"loss_total_{i}"] = loss(passed)
        found = gradients(total, z=z, proj=loss.proj.weight)
        ours |= {f"grad_{name}_{i}": gradient for name, gradient in found.items()}
        heavy = dict(distance_weight=weighted["distmat_weight"])
        heavy |= dict(cosine_weight=weighted["cos_weight"])
        ours[f"loss_weighted_{i}"] = build(MODELS, state, **options, **heavy)(passed)
    return ours | {"z_proj": loss.proj(z)}


@covers("vavae_adaptive_weight", inputs=("*_grad_rec", "*_grad_aux"))
def check_adaptive_weight(file: Golden) -> dict[str, Tensor]:
    ours, config = {}, file.config
    for name in file.io:
        if parts := re.fullmatch(r"(.+)_(vf|disc)_weight_(.+)", name):
            pair, kind, factor = parts.groups()
            reference, gradient = (file.io[f"{pair}_grad_{side}"] for side in ("rec", "aux"))
            limits = config[f"{kind}_clamp"], config["eps"]
            ours[name] = float(factor) * weight_from_gradients(reference, gradient, *limits)
    return ours


@covers("atoken_gram", inputs=("feature_*",))
def check_gram(file: Golden) -> dict[str, Tensor]:
    ours = {}
    for i in [name.rpartition("_")[2] for name in file.io if name.startswith("gram_a")]:
        a, b = file.input(f"feature_a_{i}"), file.io[f"feature_b_{i}"]
        for kind in ("mse", "l1", "frobenius"):
            loss = MODELS.build(dict(type="hook.GramLoss", reduction=kind))
            ours[f"loss_{kind}_{i}"] = loss.between(a, b)
            ours[f"grad_{kind}_{i}"] = gradients(ours[f"loss_{kind}_{i}"], a=a)["a"]
        ours[f"gram_a_{i}"] = loss.gram(a)
    return ours


@covers("vfmvae_equivariance", inputs=("z",))
def check_equivariance(file: Golden) -> dict[str, Tensor]:
    facts = file.config["part"]
    seed, prior, shrunk = (
        re.search(pattern, facts)[1]
        for pattern in (r"seed\((\d+)\)", r"p_prior ([\d.]+\d)", r"p_prior_scale ([\d.]+\d)")
    )
    sampler = Equivariance(latent_prob=1 - float(prior), image_prob=float(shrunk))
    random.seed(int(seed))
    draws = [sampler.draw() for _ in file.io["scale"]]
    on_latents, scale, turns = map(torch.tensor, zip(*draws, strict=True))
    ours = {"is_prior": 1 - on_latents.long(), "scale": scale, "angle": turns}
    z = file.io["z"]
    for name in file.io:
        if name.startswith("z_rot"):
            ours[name] = sampler.apply(z, z.shape[-2:], int(name.removeprefix("z_rot")))
        elif name.startswith("z_scale"):
            size = [round(side * float(name.removeprefix("z_scale"))) for side in z.shape[-2:]]
            ours[name] = sampler.apply(z, size)
    return ours


@covers("weight_ema", inputs=("weight_after_*",))
def check_weight_ema(file: Golden) -> dict[str, Tensor]:
    config = dict(file.config)
    options = dict(momentum=1 - config.pop("decay"), ramp=config.pop("use_num_updates"))
    refuse_rest(config)
    model = torch.nn.ParameterDict(file.state)
    average = MODELS.build(dict(type="hook.WeightEMA", **options), default_args=dict(model=model))
    ours = {}
    for step in range(sum(name.startswith("weight_after") for name in file.io)):
        model["weight"].data.copy_(file.io[f"weight_after_step{step}"])
        average.update_parameters(model)
        ours[f"ema_after_step{step}"] = average.module["weight"].clone()
    return ours


# ------------------------------------------------------------------------------------ autoencoders
def build_codec(
    file: Golden, family: str, quantizer: dict, embed_dims: int | None = None, norm: str = "l1"
) -> torch.nn.Module:
    """Build a TileAutoencoder with the weights of a file and of the one where they continue."""
    state, options = dict(file.state), file.config["ddconfig"]
    if "state_continued_in" in file.config:
        rest = load_file(file.path.with_name(file.config["state_continued_in"] + ".safetensors"))
        state |= part_of(rest, "state/")
    networks = {
        part.lower(): network_options(family, part, options, embed_dims)
        for part in ("Encoder", "Decoder")
    }
    losses = [dict(type="hook.PixelLoss", norm=norm)]
    options = dict(type="hook.TileAutoencoder", quantizer=quantizer, losses=losses)
    return build(MODELS, state, **options, **networks)


def run_codec(file: Golden, model: torch.nn.Module) -> tuple[dict[str, Tensor], Quantized]:
    """Return the quantities that all codecs of one code per position share, and the codes."""
    x = file.io["x"]
    passed = model.run(x)
    losses, _ = model.autoencoder_losses(passed, 0)
    quantized, total = passed.quantized, sum(losses.values())
    ours = dict(latent=model.encoder(x), z_q=passed.latents, indices=quantized.indices.flatten())
    ours |= dict(reconstruction=passed.reconstruction, l1=losses["loss_pixel"], total=total)
    ours |= dict(entropy_loss=quantized.terms.get("entropy", torch.zeros(())))
    return ours | official_gradients(file, model, total), quantized


@covers("magvit2_autoencoder", inputs=("x",), bars=(("grad/encoder.conv_in", 0.0, 5e-4),))
def check_magvit2(file: Golden) -> dict[str, Tensor]:
    config = {k: v for k, v in file.config.items() if k not in ("ddconfig", "n_embed")}
    quantizer = lfq_options(config | dict(dim=config.pop("embed_dim")))
    if file.config["n_embed"] != 2 ** quantizer["bits"]:
        raise ValueError(f"{quantizer['bits']} channels do not have {file.config['n_embed']} codes")
    ours, quantized = run_codec(file, build_codec(file, "MAGVIT2", quantizer).train())
    return ours | dict(commit_loss=quantized.terms["commitment"])


@covers("ibq_autoencoder", inputs=("x",))
def check_ibq_autoencoder(file: Golden) -> dict[str, Tensor]:
    config = {k: v for k, v in file.config.items() if k != "ddconfig"}
    width = config.pop("embed_dim")
    entropy = dict(sample_minimization_weight=1.0, batch_maximization_weight=1.0)
    weights = dict(quant_loss_weight=1.0, entropy_loss_weight=0.05) | entropy
    quantizer = ibq_options(weights | dict(n_e=config.pop("n_embed"), e_dim=width) | config)
    ours, quantized = run_codec(file, build_codec(file, "VQGAN", quantizer, width).train())
    return ours | dict(quant_loss=quantized.terms["quant"])


@covers("rqvae_autoencoder", inputs=("x",))
def check_rqvae(file: Golden) -> dict[str, Tensor]:
    config = {k: v for k, v in file.config.items() if k not in ("ddconfig", "embed_dim")}
    if config.pop("bottleneck_type") != "rq":
        raise ValueError("bottleneck_type must be 'rq'")
    norm = {"mse": "l2", "l1": "l1"}[config.pop("loss_type")]
    quantizer = rq_options(config)
    width = quantizer["embed_dims"]
    model = build_codec(file, "VQGAN", quantizer, width, norm).eval()
    x = file.io["x"]
    passed, grid = model.run(x), file.config["latent_shape"][:2]
    quantized, first = passed.quantized, passed.quantized.indices[..., :1]
    losses, _ = model.autoencoder_losses(passed, 0)
    total = sum(losses.values())
    return {
        "z_e": model.encoder(x).permute(0, 2, 3, 1),
        "codes": quantized.indices.unflatten(1, file.config["code_shape"][:2]),
        "reconstruction": passed.reconstruction,
        "decoded_depth1_only": model.decode(model.quantizer.partial_sums(first, grid)[0], grid),
        "loss_recon": losses["loss_pixel"],
        "loss_latent": quantized.terms["commitment"],
        "loss_total": total,
        **official_gradients(file, model, total),
    }


@covers("vavae_autoencoder", inputs=("image", "cotangent", "noise"))
def check_vavae(file: Golden) -> dict[str, Tensor]:
    names = ("system", "part", "ddconfig", "state_continued_in")
    config = {k: v for k, v in file.config.items() if k not in names}
    width = config.pop("embed_dim")
    refuse_rest(config)
    quantizer = dict(type="GaussianQuantizer", embed_dims=width)
    model = build_codec(file, "VQGAN", quantizer, width).eval()
    image, noise = file.input("image"), file.io["noise"]
    moments, quantized = model.encoder(image), model.encode(image)
    sample = model.quantizer.sample(*model.quantizer.moments(rows(moments)), rows(noise))
    y = model.decode(quantized.latents, quantized.grid)
    scalar = (y * file.io["cotangent"]).mean()
    return {
        "moments": moments,
        "mode": maps(quantized.latents, noise),
        "sample": maps(sample, noise),
        "reconstruction": y,
        "reconstruction_from_sample": model.decode(sample, quantized.grid),
        "scalar": scalar,
        **official_gradients(file, model, scalar, image=image),
    }
