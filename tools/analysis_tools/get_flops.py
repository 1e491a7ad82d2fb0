"""Count the multiply-accumulate operations and parameters of a config.

PyTorch's FlopCounterMode counts matrix products, convolutions and attention (two operations per
multiply-accumulate), not element-wise operations and norms. Products inside attention are reported
separately, because many counters and papers omit them.
"""

import argparse

import torch
from mmengine.config import Config
from prettytable import PrettyTable
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from hook.engine.configs import add_config_options, load_config, setup_environment
from hook.engine.models import build_model, get_num_bands
from hook.engine.profiling import image_side
from hook.errors import ConfigError, reports_errors


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", help="config file")
    parser.add_argument(
        "--shape",
        type=int,
        nargs="+",
        metavar="PIXELS",
        help="height and width, or one side (default: that of the model, or of its data)",
    )
    parser.add_argument("--bands", type=int, help="number of bands (default: the model's)")
    parser.add_argument(
        "--depth", type=int, default=3, help="depth of the module table (default 3)"
    )
    add_config_options(parser)
    return parser.parse_args()


def image_shape(cfg: Config, model: torch.nn.Module, shape: list[int] | None) -> tuple[int, int]:
    """Return height and width, from the option, the model or its data."""
    if shape is None:
        side = image_side(cfg, model)
        return side, side
    if len(shape) > 2 or min(shape) < 1:
        raise ConfigError("--shape", expected="one side, or height and width", found=shape)
    return shape[0], shape[-1]


@torch.no_grad()
def count(model: torch.nn.Module, inputs: torch.Tensor) -> tuple[dict[str, int], int]:
    """Count multiply-accumulates of one forward pass.

    Args:
        model: Model with ``forward(inputs, mode='tensor')``.
        inputs: (1, C, H, W).

    Returns:
        Multiply-accumulates by module name (``''`` for the model), and their number inside
        attention.
    """
    model.eval()
    counter = FlopCounterMode(display=False)
    # The counter does not count the fused attention of the CPU.
    with sdpa_kernel(SDPBackend.MATH), counter:
        model(inputs, mode="tensor")
    counts = counter.get_flop_counts()
    root = f"{type(model).__name__}."
    totals = {name.removeprefix(root): sum(ops.values()) // 2 for name, ops in counts.items()}
    totals[""] = totals.pop("Global")
    for name, module in reversed(list(model.named_modules())):
        # A ModuleList is not called itself.
        if name:
            inside = sum(totals[f"{name}.{child}"] for child, _ in module.named_children())
            totals.setdefault(name, inside)
    return totals, counts["Global"].get(torch.ops.aten.bmm, 0) // 2


@reports_errors
def main() -> None:
    args = parse_args()
    setup_environment()
    cfg = load_config(args.config, args.cfg_options)
    model = build_model(cfg)
    height, width = image_shape(cfg, model, args.shape)
    bands = args.bands or get_num_bands(model) or 3
    try:
        totals, attention = count(model, torch.zeros(1, bands, height, width))
    except ValueError as error:
        raise ConfigError(
            f"the model cannot process {bands} bands of {height} x {width} pixels",
            found=error,
            remedy="change --shape, or set --cfg-options model.backbone.tokenizer.img_size=...",
        ) from None
    parameters = {
        name: sum(p.numel() for p in module.parameters()) for name, module in model.named_modules()
    }
    table = PrettyTable(["Module", "GMAC", "Parameters (M)"])
    table.align = "r"
    table.align["Module"] = "l"
    for name, _ in model.named_modules():
        if name and name.count(".") < args.depth and (totals[name] or parameters[name]):
            label = "  " * name.count(".") + name.rpartition(".")[2]
            numbers = f"{totals[name] / 1e9:.3f}", f"{parameters[name] / 1e6:.3f}"
            table.add_row([label, *numbers])
    print(table)
    print(f"input: {bands} x {height} x {width}")
    print(
        f"multiply-accumulates: {totals[''] / 1e9:.3f} G, "
        f"{attention / 1e9:.3f} G of them inside attention"
    )
    print(f"parameters: {parameters[''] / 1e6:.3f} M")


if __name__ == "__main__":
    main()
