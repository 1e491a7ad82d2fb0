r"""Measure how well foreign patches in images are found: by surprise, and by two simpler scores.

A patch is pasted into each test chip of a generator's config: from the test chips of ``--foreign``;
as a control, at the same place, from other test chips of its own config; and nothing at all. Each
position of the chip then has three scores: ``surprise``, the bits of its code
(``hook.apis.surprise_map``); ``distance``, that of its latent to the nearest one of ``--memory``
training chips; and ``error``, the mean squared error of its reconstruction. The area under the ROC
curve (AUC) says how well a score tells the positions inside the patch from those outside, within a
chip; the mean over chips is printed with its 95 % interval (a bootstrap over files). The AUC of the
control has to be near 0.5: otherwise the seam is found, not what is foreign. Positions up to
``--margin`` from the seam do not count (codes of a little more see both sides), nor do those up to
``--edge`` from the edge of a chip, which are scored with less of their surroundings.

A generator with maps or classes as condition is asked without them, which it has rarely seen in
training. One for this purpose is trained with ``--cfg-options model.condition=none``.

    python tools/analysis_tools/foreign_patches.py \
        configs/generators/ar/ar-256x6-map_vq-1k-tiny_dubai-64.py CHECKPOINT \
        --foreign configs/hook/hook-objects_vit-192x2_banepa-256.py --json foreign.json
"""

import argparse
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from prettytable import PrettyTable
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from hook.apis import load_model
from hook.engine.configs import (
    add_config_options,
    build_dataset,
    load_config,
    setup_environment,
)
from hook.engine.devices import list_devices
from hook.engine.profiling import command_line, prepare_output, write_json
from hook.errors import ConfigError, DataError, reports_errors
from hook.evaluation.bootstrap import bootstrap_mean
from hook.inference.entropy import check_code_generator
from hook.inference.surprise import code_bits
from hook.progress import progress_bar

SCORES = ("surprise", "distance", "error")
BATCH = 16  # chips
ROWS = 4096  # latents that are compared with the memory at once


class Chips(NamedTuple):
    """Chips with patches, by what was pasted."""

    images: dict[str, np.ndarray]
    """(N, C, S, S) uint8."""
    pasted: np.ndarray
    """(N, S, S) bool."""


def read_chips(
    path: str, split: str, side: int, count: int, seed: int, options: Any
) -> tuple[np.ndarray, list[str]]:
    """Return chips (N, C, side, side) of a split of a config, and the file of each.

    They are drawn at random from those without nodata.

    Raises:
        DataError: There are fewer than two.
    """
    cfg = load_config(path, options)
    dataset = build_dataset(cfg, split, lambda data: data | dict(chip_size=side, mode="cover"))
    if not hasattr(dataset, "load_sample"):
        raise ConfigError(
            f"{path}: the {split} data are no folder of rasters",
            expected="a dataset of type hook.GeoTIFFFolder",
            found=type(dataset).__name__,
        )
    found, files = [], []
    for index in np.random.default_rng(seed).permutation(len(dataset)).tolist():
        sample = dataset.load_sample(index)
        if sample["valid"].all():
            found.append(sample["img"].transpose(2, 0, 1))
            files.append(str(sample["img_path"]))
        if len(found) == count:
            break
    if len(found) < 2:
        raise DataError(
            f"{path}: too few {split} chips of {side} px without nodata",
            expected="2 or more",
            found=len(found),
            remedy="lower --side",
        )
    return np.stack(found), files


def paste(
    own: np.ndarray,
    files: list[str],
    foreign: np.ndarray,
    side: int,
    seed: int,
    edges: tuple[int, int] = (0, 0),
) -> Chips:
    """Paste a square into each of ``own`` (N, C, S, S), of ``foreign``, of ``own``, and nothing.

    All three have the same places, ``edges`` pixels (down, right) away from the edge. A control
    comes from another chip of the same file, or where there is none, of another file, which is
    said.
    """
    same = own.shape[1] == foreign.shape[1] and own.dtype == foreign.dtype
    largest = min(own.shape[-1] - 2 * max(edges), foreign.shape[-1])
    if not same or side > largest:
        raise ConfigError(
            "the foreign patches do not fit the chips",
            expected=f"{own.shape[1]} bands of {own.dtype}, and at most {largest} px",
            found=f"{foreign.shape[1]} bands of {foreign.dtype}, --patch {side}",
            remedy="choose images of the same bands and type, or a smaller --patch",
        )
    drawn = np.random.default_rng(seed)

    def place(size: int, edges: tuple[int, int] = (0, 0)) -> tuple[slice, slice]:
        first, last = np.array(edges), size - side + 1 - np.array(edges)
        return tuple(slice(k, k + side) for k in drawn.integers(first, last))

    strangers = 0
    images = {name: own.copy() for name in ("foreign", "control", "nothing")}
    pasted = np.zeros((len(own), *own.shape[2:]), bool)
    for number in range(len(own)):
        at, source = place(own.shape[-1], edges), place(foreign.shape[-1])
        others = [k for k in range(len(own)) if k != number]
        near = [k for k in others if files[k] == files[number]]
        strangers += not near
        other = drawn.choice(near or others)
        pasted[(number, *at)] = True
        images["foreign"][(number, slice(None), *at)] = foreign[
            (drawn.integers(len(foreign)), slice(None), *source)
        ]
        source = place(own.shape[-1])
        images["control"][(number, slice(None), *at)] = own[(other, slice(None), *source)]
    if strangers:
        print(f"{strangers} of {len(own)} controls are of another file than their chip")
    return Chips(images, pasted)


def sides(
    pasted: np.ndarray, cell: tuple[int, int], margin: int, edges: tuple[int, int] = (0, 0)
) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions inside patches and outside (N, h, w).

    They are ``margin`` positions away from the seam, and ``edges`` (down, right) from the edge.
    """
    share = F.avg_pool2d(torch.from_numpy(pasted)[:, None].float(), cell)

    def away(mask: Tensor) -> np.ndarray:
        near = F.max_pool2d((~mask).float(), 2 * margin + 1, stride=1, padding=margin)
        far = (near == 0)[:, 0].numpy()
        for axis, edge in enumerate(edges, start=1):
            rows = np.arange(far.shape[axis])
            kept = (rows >= edge) & (rows < far.shape[axis] - edge)
            far &= kept[:, None] if axis == 1 else kept
        return far

    return away(share == 1), away(share == 0)


class Scorer:
    """Scores of the positions of chips.

    Args:
        generator: A generator of codes.
        memory: (N, C, S, S) training chips, whose latents the distance is measured to.
        positions: Number of latents that are kept of them.
        seed: Of the draw of these.
    """

    def __init__(self, generator: nn.Module, memory: np.ndarray, positions: int, seed: int) -> None:
        self.generator, self.cell = generator, generator.cell
        self.device = next(generator.parameters()).device
        fold = getattr(generator.codec.quantizer, "fold", (1, 1))
        self.fold = tuple(fold)
        latents = [
            self._latents(part).flatten(2).mT.flatten(0, 1) for part in self._batches(memory)
        ]
        latents = torch.cat(latents)
        self.scale = latents.std(dim=0).clamp(min=1e-6)
        drawn = np.random.default_rng(seed).permutation(len(latents))[:positions]
        self.memory = latents[torch.from_numpy(drawn).to(self.device)] / self.scale

    def _batches(self, chips: np.ndarray) -> Iterator[Tensor]:
        for start in range(0, len(chips), BATCH):
            part = torch.from_numpy(chips[start : start + BATCH]).to(self.device)
            yield self.generator.data_preprocessor(dict(inputs=part))["inputs"]

    @torch.no_grad()
    def _latents(self, inputs: Tensor) -> Tensor:
        """Return the latents (B, D, h, w) before they are quantized, averaged per position."""
        return F.avg_pool2d(self.generator.codec.encoder(inputs).float(), self.fold)

    @torch.no_grad()
    def __call__(self, chips: np.ndarray, bar: Any) -> dict[str, np.ndarray]:
        """Return the scores (N, h, w) of chips (N, C, S, S), by name."""
        found: dict[str, list[np.ndarray]] = {name: [] for name in SCORES}
        codec = self.generator.codec
        for inputs in self._batches(chips):
            coded = codec.encode(inputs)
            decoded = codec.decode(coded.latents, coded.grid, tuple(inputs.shape[-2:]))
            error = (decoded - inputs).square().mean(dim=1, keepdim=True)
            error = F.avg_pool2d(error, self.cell)[:, 0]
            grid = tuple(error.shape[1:])
            rows = self._latents(inputs).flatten(2).mT.flatten(0, 1) / self.scale
            nearest = [torch.cdist(part, self.memory).amin(dim=1) for part in rows.split(ROWS)]
            codes = coded.indices.reshape(len(inputs), grid[0] * grid[1], -1).mT
            codes = codes.unflatten(2, grid).cpu().numpy()
            known = np.ones(grid, bool)
            found["surprise"] += [
                code_bits(self.generator, one, known, progress=False) for one in codes
            ]
            found["distance"] += [*torch.cat(nearest).view(-1, *grid).cpu().numpy()]
            found["error"] += [*error.cpu().numpy()]
            bar.update(len(inputs))
        return {name: np.stack(scores) for name, scores in found.items()}


def measure(scores: np.ndarray, inside: np.ndarray, outside: np.ndarray) -> list[float]:
    """Return the AUC within each chip of scores (N, h, w), NaN without a position on one side."""
    found = []
    for score, own, other in zip(scores, inside, outside, strict=True):
        values = np.concatenate([score[own], score[other]])
        truth = np.repeat([1, 0], [own.sum(), other.sum()])
        both = own.any() and other.any()
        found.append(float(roc_auc_score(truth, values)) if both else float("nan"))
    return found


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", help="config of a generator of codes, whose data are chips")
    parser.add_argument("checkpoint")
    parser.add_argument("--foreign", required=True, metavar="CONFIG", help="config of other chips")
    parser.add_argument("--chips", type=int, default=100, help="test chips (default 100)")
    parser.add_argument("--memory", type=int, default=100, help="training chips (default 100)")
    parser.add_argument(
        "--positions", type=int, default=20000, help="latents of these (default 20000)"
    )
    parser.add_argument("--side", type=int, default=256, help="side of a chip (default 256)")
    parser.add_argument("--patch", type=int, default=80, help="side of a patch (default 80)")
    parser.add_argument(
        "--margin", type=int, default=1, help="positions by the seam that do not count (default 1)"
    )
    parser.add_argument(
        "--edge", type=int, help="positions by the edge of a chip likewise (default: half a tile)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", metavar="FILE", help="write the report here")
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda, cuda:1, ...")
    add_config_options(parser)
    return parser.parse_args(argv)


@reports_errors
def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    prepare_output(args, "json")
    setup_environment()
    config = load_config(args.config, args.cfg_options)
    generator = load_model((config, args.checkpoint), device=list_devices(args.device)[0])
    check_code_generator(generator)
    if args.side % generator.cell[0] or args.side % generator.cell[1]:
        raise ConfigError(
            "--side does not fit the codes",
            expected=f"a multiple of {generator.cell}",
            found=args.side,
        )
    (own, files), (memory, _) = (
        read_chips(args.config, split, args.side, count, args.seed, args.cfg_options)
        for split, count in (("test", args.chips), ("train", args.memory))
    )
    foreign, _ = read_chips(args.foreign, "test", args.side, args.chips, args.seed, None)
    edges = tuple(n // 2 if args.edge is None else args.edge for n in generator.network.grid)
    pixels = tuple(n * side for n, side in zip(edges, generator.cell, strict=True))
    chips = paste(own, files, foreign, args.patch, args.seed, pixels)
    inside, outside = sides(chips.pasted, generator.cell, args.margin, edges)
    if not inside.any():
        raise ConfigError(
            "no position is inside a patch",
            expected="a patch of several codes more than twice the margin",
            found=f"--patch {args.patch}, --margin {args.margin}, codes of {generator.cell} px",
            remedy="raise --patch, or lower --margin",
        )
    scorer = Scorer(generator, memory, args.positions, args.seed)
    table, report = PrettyTable(["pasted", "chips", *SCORES]), []
    table.align["pasted"] = "l"
    with progress_bar(total=3 * len(own), desc="scoring", unit="chip") as bar:
        for name, images in chips.images.items():
            scores = scorer(images, bar)
            aucs = {key: measure(scores[key], inside, outside) for key in SCORES}
            means = {key: bootstrap_mean(values, files, 0) for key, values in aucs.items()}
            cells = [f"{m.mean:.3f} [{m.low:.3f}, {m.high:.3f}]" for m in means.values()]
            table.add_row([name, int(np.isfinite(aucs["surprise"]).sum()), *cells])
            means = {key: one.as_dict() for key, one in means.items()}
            nulls = {key: [None if np.isnan(x) else x for x in one] for key, one in aucs.items()}
            report.append(dict(pasted=name, means=means, aucs=nulls))
    print(f"AUC within chips of {args.side} px, patches of {args.patch} px, margin {args.margin}")
    print(table)
    if args.json:
        write_json(args.json, dict(command=command_line(sys.argv), rows=report))


if __name__ == "__main__":
    main()
