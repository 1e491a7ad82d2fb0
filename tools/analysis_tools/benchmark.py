r"""Compare the speed and memory of configs in paired rounds.

Every round times one step of each config in a rotating order, so that other load on the machine
affects all configs alike. The ratio to the baseline is computed per round; its median and quartiles
are reported. Memory is the peak of a fresh process above the built model: allocator memory on a
GPU, resident memory on a CPU. ``--mode train`` measures a full step (forward, loss, backward,
AdamW) and reports the bytes that autograd saves for the backward pass. The model is timed with its
head on random images, without data loading.

``--variant`` measures the first config once more, with other options:

    python tools/analysis_tools/benchmark.py configs/benchmark/hook-fast_vit-b_224.py \
        configs/benchmark/patch-embed-pos_vit-b_224.py \
        --variant model.backbone.tokenizer.size=tiny --variant model.backbone.tokenizer.size=small
"""

import argparse
import os
import string
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
from prettytable import PrettyTable
from tqdm import tqdm

from hook.engine.configs import ConfigOptions
from hook.engine.profiling import (
    Step,
    StepSettings,
    add_step_options,
    measure,
    prepare,
    prepare_output,
    print_head,
    read_step_settings,
    relative_path,
    report_head,
    write_json,
)
from hook.errors import reports_errors

LETTERS = string.ascii_uppercase


class Variant(ConfigOptions):
    """Collect the options of each ``--variant``."""

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        """Append to the list of the options so far."""
        before = getattr(namespace, self.dest)
        setattr(namespace, self.dest, None)
        super().__call__(parser, namespace, values, option_string)
        setattr(namespace, self.dest, [*before, getattr(namespace, self.dest)])


def parse_args() -> tuple[argparse.Namespace, StepSettings]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "configs", nargs="+", metavar="config", help="configs A, B, ...; the last is the baseline"
    )
    parser.add_argument("--baseline", metavar="CONFIG", help="config to use as the baseline")
    parser.add_argument(
        "--variant",
        nargs="+",
        action=Variant,
        default=[],
        metavar="KEY=VALUE",
        help="also measure the first config with these options; may be repeated",
    )
    parser.add_argument(
        "--shape",
        type=int,
        nargs="+",
        metavar="PIXELS",
        help="height and width, or one side (default: that of each model, or of its data)",
    )
    parser.add_argument(
        "--no-peak",
        action="store_true",
        help="leave out the peak memory, which takes a fresh process per config",
    )
    add_step_options(parser, repeats=10)
    args = parser.parse_args()
    if len(args.configs) + len(args.variant) > len(LETTERS):
        parser.error(f"at most {len(LETTERS)} configs can be compared in one run")
    if len(args.configs) < 2 and args.variant:
        parser.error("--variant needs a second config, the baseline")
    # Variants stand after the first config.
    args.options = [{}, *args.variant, *({} for _ in args.configs[1:])]
    args.configs[:1] *= 1 + len(args.variant)
    args.baseline_index = len(args.configs) - 1
    if args.baseline is not None:
        names = [os.path.normpath(config) for config in args.configs]
        if os.path.normpath(args.baseline) not in names:
            parser.error(
                f"--baseline {args.baseline} is not among the configs to compare: "
                f"{', '.join(args.configs)}"
            )
        args.baseline_index = names.index(os.path.normpath(args.baseline))
    return args, read_step_settings(args, parser, args.shape)


def order_of_round(number: int, count: int) -> list[int]:
    """Return the order of ``count`` configs in round ``number``, from 0.

    The start rotates; with more than two configs every second turn is reversed, so that no config
    always follows the same one.
    """
    order = [(number + index) % count for index in range(count)]
    return order[::-1] if count > 2 and number // count % 2 else order


def ratios_to_baseline(seconds: np.ndarray, baseline: int) -> list[dict[str, Any]]:
    """Return ``median`` and ``quartiles`` over the rounds of each config's speed-up.

    Args:
        seconds: (R, C) duration of a step per round and config.
        baseline: Index of the baseline config.
    """
    ratios = seconds[:, baseline : baseline + 1] / seconds
    low, middle, high = np.percentile(ratios, (25, 50, 75), axis=0)
    return [
        {"median": float(m), "quartiles": [float(a), float(b)]}
        for a, m, b in zip(low, middle, high, strict=True)
    ]


def time_rounds(steps: list[Step], repeats: int) -> np.ndarray:
    """Time the steps in paired rounds: (R, C) seconds."""
    seconds = np.empty((repeats, len(steps)))
    for number in tqdm(range(repeats), unit="round", disable=None):
        for index in order_of_round(number, len(steps)):
            seconds[number, index] = steps[index].seconds()
    return seconds


def with_options(settings: StepSettings, options: dict[str, Any]) -> StepSettings:
    """Return settings with further options of the config."""
    return replace(settings, options={**(settings.options or {}), **options})


def quotient(value: float | None, reference: float | None) -> float | None:
    """Divide; None if a value is unknown or the reference is zero."""
    return value / reference if value is not None and reference else None


def entries_of(
    configs: list[str],
    options: list[dict[str, Any]],
    steps: list[Step],
    seconds: np.ndarray,
    settings: StepSettings,
    peak: bool = True,
) -> list[dict[str, Any]]:
    """Collect the numbers of each config and measure its memory, with ``peak`` also its peak."""
    entries = []
    for index, (config, changed, step) in enumerate(zip(configs, options, steps, strict=True)):
        low, middle, high = (float(q) for q in np.percentile(seconds[:, index], (25, 50, 75)))
        entry = {
            "config": relative_path(config),
            "shape": list(step.inputs.shape),
            "parameters": sum(p.numel() for p in step.model.parameters()),
            "seconds": middle,
            "seconds_quartiles": [low, high],
            "seconds_per_round": seconds[:, index].tolist(),
            "images_per_second": settings.batch_size / middle,
        }
        if peak:
            own = with_options(settings, changed)
            entry["peak_memory_bytes"] = measure(config, own).peak_memory
        if changed:
            entry["options"] = changed
        if settings.mode == "train":
            entry["saved_for_backward_bytes"] = step.saved_bytes()
        entries.append(entry)
    return entries


def add_ratios(entries: list[dict[str, Any]], seconds: np.ndarray, baseline: int) -> None:
    """Add the ratios to the baseline to the entries."""
    for entry, speed in zip(entries, ratios_to_baseline(seconds, baseline), strict=True):
        entry["speed_over_baseline"] = speed
        for name in ("peak_memory", "saved_for_backward"):
            if f"{name}_bytes" in entry:
                entry[f"{name}_over_baseline"] = quotient(
                    entry[f"{name}_bytes"], entries[baseline][f"{name}_bytes"]
                )


def make_table(entries: list[dict[str, Any]], baseline: int) -> PrettyTable:
    """Format the entries, one column per config."""
    table = PrettyTable(["", *LETTERS[: len(entries)]])
    table.align = "r"
    table.align[""] = "l"

    def row(name: str, key: str, scale: float = 1, digits: int = 2) -> None:
        cells = [entry.get(key) for entry in entries]
        if any(cell is not None for cell in cells):
            texts = ["-" if cell is None else f"{cell * scale:.{digits}f}" for cell in cells]
            table.add_row([name, *texts])

    row("parameters (M)", "parameters", 1e-6)
    row("ms per step (median)", "seconds", 1e3)
    row("images per s", "images_per_second")
    row("peak memory (MiB)", "peak_memory_bytes", 2**-20, 1)
    row("saved for backward (MiB)", "saved_for_backward_bytes", 2**-20, 1)
    if "speed_over_baseline" in entries[baseline]:
        over = f"over {LETTERS[baseline]}"
        speeds = (entry["speed_over_baseline"]["median"] for entry in entries)
        table.add_row([f"speed {over}", *(f"{speed:.3f}" for speed in speeds)])
        row(f"peak memory {over}", "peak_memory_over_baseline", digits=3)
        row(f"saved for backward {over}", "saved_for_backward_over_baseline", digits=3)
    return table


@reports_errors
def main() -> None:
    args, settings = parse_args()
    prepare_output(args, "json")
    prepare(settings)
    pairs = zip(args.configs, args.options, strict=True)
    steps = [Step(config, with_options(settings, options)) for config, options in pairs]
    for step in steps:
        for _ in range(settings.warmup):
            step()
    seconds = time_rounds(steps, args.repeats)
    report = report_head(settings, args.repeats)
    report["baseline"] = LETTERS[args.baseline_index]
    report["configs"] = entries_of(
        args.configs, args.options, steps, seconds, settings, not args.no_peak
    )
    comparable = len(steps) > 1 and len({step.inputs.shape[-2:] for step in steps}) == 1
    if comparable:
        add_ratios(report["configs"], seconds, args.baseline_index)
        if len(steps) == 2:
            report["speed_a_over_b"] = ratios_to_baseline(seconds, 1)[0]
    elif len(steps) > 1:
        warnings.warn(
            "the sizes of the images differ, so that the speeds cannot be compared; set one size "
            "with --shape",
            stacklevel=1,
        )
    print_head(report, settings)
    for letter, entry in zip(LETTERS, report["configs"], strict=False):
        changed = "".join(f" {key}={value}" for key, value in entry.get("options", {}).items())
        shape = " x ".join(map(str, entry["shape"]))
        print(f"{letter}: {entry['config']}{changed}, input {shape}")
    print(make_table(report["configs"], args.baseline_index))
    for index, entry in enumerate(report["configs"]):
        if comparable and index != args.baseline_index:
            speed = entry["speed_over_baseline"]
            print(
                f"{LETTERS[index]} is {speed['median']:.3f} times as fast as "
                f"{report['baseline']} (quartiles {speed['quartiles'][0]:.3f} to "
                f"{speed['quartiles'][1]:.3f})"
            )
    write_json(args.json, report)


if __name__ == "__main__":
    main()
