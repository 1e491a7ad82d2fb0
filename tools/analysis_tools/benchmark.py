"""Compare speed and memory of two configs, paired in one run.

Rounds alternate between the two (A B, B A, A B, ...), so that whatever else the machine does falls
on both alike; the ratio is taken per round and its median and quartiles are reported. Memory: on a
GPU the allocator's peak; on a CPU the rise of a fresh process's resident memory above the built
model. ``--mode train`` measures a whole step (forward, loss, backward, AdamW) and reports the
bytes that autograd keeps for the backward pass.
"""

import argparse
import json
import multiprocessing
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from mmengine.structures import PixelData
from prettytable import PrettyTable
from tqdm import tqdm

from hook.apis.inference import band_count_of, build_model, is_segmentation, num_classes_of
from hook.apis.mapping import default_window
from hook.engine.runner import add_config_options, load_config, setup_environment
from hook.errors import ConfigError, reports_errors
from hook.structures import ClsDataSample


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config_a", help="config A")
    parser.add_argument("config_b", help="config B")
    parser.add_argument(
        "--shape",
        type=int,
        nargs="+",
        metavar="PIXELS",
        help="height and width, or one side (default: the size each model was made for)",
    )
    parser.add_argument("--batch-size", type=int, default=1, help="images per step (default 1)")
    parser.add_argument("--mode", choices=["forward", "train"], default="forward")
    parser.add_argument("--repeats", type=int, default=10, help="rounds (default 10)")
    parser.add_argument("--warmup", type=int, default=2, help="steps before timing (default 2)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: PyTorch's)")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--amp", action="store_true", help="autocast to bfloat16")
    parser.add_argument("--json", metavar="FILE", help="also write the numbers")
    add_config_options(parser)
    args = parser.parse_args()
    for name in ("batch_size", "repeats", "threads"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")
    return args


class Step:
    """One config's model and a seeded batch, ready to be run again and again."""

    def __init__(self, config: str, args: argparse.Namespace) -> None:
        setup_environment()
        torch.manual_seed(0)
        self.device = torch.device(args.device)
        self.train = args.mode == "train"
        self.model = build_model(load_config(config, args.cfg_options)).to(self.device)
        self.model.train(self.train)
        if args.shape is None:
            height = width = default_window(self.model)
        else:
            height, width = args.shape[0], args.shape[-1]
        bands = band_count_of(self.model) or 3
        self.inputs = torch.randn(args.batch_size, bands, height, width, device=self.device)
        self.samples = self._random_truth(height, width)
        self.autocast = (
            torch.autocast(self.device.type, torch.bfloat16) if args.amp else nullcontext()
        )
        if self.train:
            self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-5)

    def _random_truth(self, height: int, width: int) -> list:
        count = num_classes_of(self.model)
        if not is_segmentation(self.model):
            labels = torch.randint(count, (len(self.inputs),)).tolist()
            return [ClsDataSample(gt_label=label) for label in labels]
        from mmseg.structures import SegDataSample

        samples = []
        for _ in self.inputs:
            truth = torch.randint(count, (1, height, width), device=self.device)
            size = {"img_shape": (height, width), "ori_shape": (height, width)}
            samples.append(SegDataSample(metainfo=size, gt_sem_seg=PixelData(data=truth)))
        return samples

    def loss(self) -> torch.Tensor:
        """Forward pass and loss."""
        with self.autocast:
            losses = self.model(self.inputs, self.samples, mode="loss")
        return self.model.parse_losses(losses)[0]

    def __call__(self) -> None:
        """Run one step."""
        try:
            if self.train:
                self.optimizer.zero_grad(set_to_none=True)
                self.loss().backward()
                self.optimizer.step()
            else:
                with torch.inference_mode(), self.autocast:
                    self.model(self.inputs, mode="tensor")
        except ValueError as error:
            raise ConfigError("the model cannot take these images", found=error) from None
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def seconds(self) -> float:
        """Time one step."""
        begun = time.perf_counter()
        self()
        return time.perf_counter() - begun

    def saved_bytes(self) -> int:
        """Count the bytes autograd keeps for the backward pass, each storage once, no weights."""
        own = {p.untyped_storage().data_ptr() for p in self.model.parameters()}
        storages: dict[int, int] = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                storages[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = self.loss()
        total = sum(storages.values())
        del loss
        return total


def _memory_status(field: str) -> int:
    """Read this process's VmRSS (now) or VmHWM (peak) in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}")


def _measure_memory(config: str, args: argparse.Namespace, queue) -> None:
    """Run in a fresh process: put the peak above the built model, in bytes, into the queue."""
    if args.threads:
        torch.set_num_threads(args.threads)
    step = Step(config, args)
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is that of importing
    before = _memory_status("VmRSS")
    for _ in range(2):
        step()
    queue.put(max(0, _memory_status("VmHWM") - before))


def peak_memory(config: str, step: Step, args: argparse.Namespace) -> int:
    """Return the peak memory of a step in bytes."""
    if step.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(step.device)
        step()
        return torch.cuda.max_memory_allocated(step.device)
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    process = context.Process(target=_measure_memory, args=(config, args, queue))
    process.start()
    process.join()
    if process.exitcode != 0:
        raise ConfigError(f"the memory of {config} cannot be measured", found="its process failed")
    return queue.get()


@reports_errors
def main() -> None:
    args = parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"--device {args.device}: PyTorch finds no GPU", expected="--device cpu")
    configs = (args.config_a, args.config_b)
    steps = [Step(config, args) for config in configs]
    for step in steps:
        for _ in range(args.warmup):
            step()
    times = np.empty((args.repeats, 2))
    for repeat in tqdm(range(args.repeats), unit="round", disable=None):
        for index in (0, 1) if repeat % 2 == 0 else (1, 0):
            times[repeat, index] = steps[index].seconds()
    ratios = times[:, 1] / times[:, 0]  # how many times A is as fast as B
    low, middle, high = np.percentile(ratios, (25, 50, 75))
    report = {
        "mode": args.mode,
        "device": torch.cuda.get_device_name(steps[0].device)
        if steps[0].device.type == "cuda"
        else f"cpu, {torch.get_num_threads()} threads",
        "batch_size": args.batch_size,
        "repeats": args.repeats,
        "speed_a_over_b": {"median": middle, "quartiles": [low, high]},
        "configs": [],
    }
    table = PrettyTable(["", "A", "B"])
    table.align = "r"
    rows = {"ms per step (median)": [], "images per s": [], "peak memory (MiB)": []}
    if args.mode == "train":
        rows["saved for backward (MiB)"] = []
    for index, (config, step) in enumerate(zip(configs, steps, strict=True)):
        median = float(np.median(times[:, index]))
        entry = {
            "config": config,
            "shape": list(step.inputs.shape),
            "seconds": median,
            "images_per_second": args.batch_size / median,
            "peak_memory_bytes": peak_memory(config, step, args),
        }
        rows["ms per step (median)"].append(f"{median * 1e3:.2f}")
        rows["images per s"].append(f"{entry['images_per_second']:.2f}")
        rows["peak memory (MiB)"].append(f"{entry['peak_memory_bytes'] / 2**20:.1f}")
        if args.mode == "train":
            entry["saved_for_backward_bytes"] = step.saved_bytes()
            rows["saved for backward (MiB)"].append(
                f"{entry['saved_for_backward_bytes'] / 2**20:.1f}"
            )
        report["configs"].append(entry)
    for name, values in rows.items():
        table.add_row([name, *values])
    for letter, config, step in zip("AB", configs, steps, strict=True):
        print(f"{letter}: {config}, input {' x '.join(map(str, step.inputs.shape))}")
    print(f"{args.mode} on {report['device']}, {args.repeats} rounds")
    print(table)
    print(f"A is {middle:.3f} times as fast as B (quartiles {low:.3f} to {high:.3f})")
    if args.json:
        with open(args.json, "w") as file:
            json.dump(report, file, indent=2)


if __name__ == "__main__":
    main()
