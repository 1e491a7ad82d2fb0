"""Compare the models with outputs of the official implementation.

Each FILE is a safetensors file with official weights under ``state/``, inputs and outputs under
``io/``, and the sizes of the model as JSON under ``config`` in its metadata. The model is built
from ``configs/_base_/models``, a codec (see ``codec_references.py``) from a config made of the
file's options; the weights are renamed, and every ``io/`` quantity is recomputed and compared in
float32.
"""

import argparse
import json
import sys
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path

import codec_references
import generator_references  # noqa: F401 - adds its kinds
import measure_references  # noqa: F401 - adds its kinds
import slot_references  # noqa: F401 - adds its kinds
import space_time_references  # noqa: F401 - adds its kinds
import torch
from mmengine.config import Config
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from mmseg.utils import register_all_modules
from safetensors import SafetensorError, safe_open
from torch import Tensor

from hook.errors import CheckpointError, ConfigError, DataError, HookError
from hook.models.converters import reference_to_hook
from hook.structures import ClsDataSample

ROOT = Path(__file__).resolve().parents[2]
HOOK_ONLY = ("seed_dim", "num_queries", "opm_num_heads", "opm_window")
ABSOLUTE, RELATIVE = 1e-5, 1e-4
INPUTS = ("image", "label")


def read_golden(path: Path) -> tuple[dict, dict[str, Tensor], dict[str, Tensor]]:
    """Read config, weights and quantities of a golden file.

    Raises:
        DataError: If the file is missing, not safetensors, or lacks a config.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            meta = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}
    except (OSError, SafetensorError) as error:
        raise DataError(
            f"{path} cannot be read", expected="a safetensors file", found=str(error)
        ) from None
    state = {k.removeprefix("state/"): v for k, v in tensors.items() if k.startswith("state/")}
    quantities = {k.removeprefix("io/"): v for k, v in tensors.items() if k.startswith("io/")}
    try:
        config = json.loads(meta["config"])
    except (KeyError, json.JSONDecodeError):
        raise DataError(
            f"{path} has no config",
            expected="JSON under 'config' in the metadata",
            found=list(meta),
        ) from None
    return config, state, quantities


def model_config(config: dict) -> Config:
    """Return the base config of the file's model with the file's sizes.

    Raises:
        ConfigError: If the task, the tokenizer or a key is unknown.
    """
    if not isinstance(config, dict):
        raise ConfigError(
            "the file's config has the wrong type", expected="a JSON object", found=config
        )
    config = dict(config)
    task = config.pop("task", None)
    kind = config.pop("tokenizer", "hook")
    heads = {"classification": "cls", "segmentation": "seg"}
    if task not in heads or kind not in ("hook", "patch_embed"):
        raise ConfigError(
            "the file's config has an unknown model",
            expected=f"task in {sorted(heads)}, tokenizer 'hook' or 'patch_embed'",
            found=f"task={task!r}, tokenizer={kind!r}",
        )
    cfg = Config.fromfile(ROOT / "configs/_base_/models" / f"{kind}_vit-b_{heads[task]}.py")
    model = cfg.model
    backbone, tokenizer = model.backbone, model.backbone.tokenizer
    width = config.pop("embed_dim")
    backbone.update(embed_dims=width, depth=config.pop("depth"), num_heads=config.pop("num_heads"))
    tokenizer.update(
        img_size=config.pop("image_size"),
        in_channels=config.pop("in_channels", 3),
        with_cls_token=config.pop("with_cls_token", False),
    )
    if kind == "hook":
        tokenizer.update(
            seed_dims=config.pop("seed_dim"),
            num_tokens=config.pop("num_queries"),
            perception_heads=config.pop("opm_num_heads", 8),
            perception_window=config.pop("opm_window", None),
        )
    else:
        tokenizer.patch_size = config.pop("patch_size")
        for key in HOOK_ONLY:  # not used by a patch embedding
            config.pop(key, None)
    if task == "classification":
        pooling = config.pop("pooling", "mean")
        model.head.update(
            num_classes=config.pop("num_classes"),
            in_channels=width,
            pooling={"cls": "cls_token"}.get(pooling, pooling),
        )
    else:
        channels = config.pop("pyramid_channels")
        backbone.update(
            out_indices=tuple(config.pop("out_indices")), dense_size=config.pop("dense_size", None)
        )
        model.neck.update(in_channels=width, out_channels=tuple(channels))
        model.decode_head.update(
            in_channels=list(channels),
            channels=config.pop("decoder_channels"),
            num_classes=config.pop("num_classes"),
            ignore_index=config.pop("ignore_index", 255),
        )
    if config:
        raise ConfigError("the file's config has unknown keys", found=sorted(config))
    return cfg


def build_model(config: dict, state: dict[str, Tensor]) -> torch.nn.Module:
    """Build the model with the official weights; raise CheckpointError if they do not fit."""
    try:
        model = MODELS.build(model_config(config).model)
    except KeyError as error:
        raise ConfigError(f"the file's config lacks {error}") from None
    try:
        model.load_state_dict(reference_to_hook(state), strict=True)
    except RuntimeError as error:
        raise CheckpointError("the renamed weights do not fit the model", found=error) from None
    return model.float().eval()


class Quantities:
    """The quantities of golden files, computed on demand.

    Args:
        model: The model with the official weights, in eval mode.
        inputs: ``image`` (B, C, H, W) and optionally ``label``.
    """

    def __init__(self, model: torch.nn.Module, inputs: dict[str, Tensor]) -> None:
        self.model = model
        self.image = inputs["image"]
        self.label = inputs.get("label")
        self.segments = hasattr(model, "decode_head")
        with torch.no_grad():
            backbone = model.backbone
            self.tokenized, self.after = backbone.forward_tokens(self.image)
            if self.segments:
                maps = [backbone.spread(self.image, self.tokenized, x) for x in self.after]
                self.maps = maps
                self.levels = model.neck(tuple(maps))
                self.scores = model.decode_head(self.levels)
            else:
                self.scores = model.head(self.after[-1])
        self._gradients: dict[str, Tensor] | None = None

    def find(self, name: str) -> Callable[[], Tensor] | None:
        """Return the function that computes a quantity, None for an unknown name."""
        plain = {
            "tokens": lambda: self.tokenized.tokens,
            "attention": lambda: self.tokenized.assignment.flatten(2)[:, None],
            "backbone": lambda: self.after[-1],
            "logits": lambda: self.scores,
            "loss_eval": self._loss_eval,
            "loss_train": lambda: self._training_pass()["loss"],
        }
        tokenizer = self.model.backbone.tokenizer
        if hasattr(tokenizer, "stem"):
            plain |= {
                "seed_features": self._seed_features,
                "grad_stem": lambda: self._training_pass()["backbone.tokenizer.stem.expand.weight"],
                "grad_queries": lambda: self._training_pass()[
                    "backbone.tokenizer.vectorization.queries"
                ],
                "grad_pos_embed": lambda: self._training_pass()["backbone.tokenizer.pos_embed"],
            }
        if self.segments:
            plain["prediction"] = self._prediction
            for i in range(len(self.after)):
                plain[f"backbone{i}"] = lambda i=i: self.after[i]
                plain[f"dense{i}"] = lambda i=i: self.maps[i].flatten(2).transpose(1, 2)
                plain[f"pyramid{i}"] = lambda i=i: self.levels[i]
        return plain.get(name)

    def _seed_features(self) -> Tensor:
        with torch.no_grad():
            return self.model.backbone.tokenizer.stem(self.image)

    def _samples(self) -> list:
        if self.label is None:
            raise DataError("a loss needs labels", expected="io/label")
        if self.segments:
            samples = [SegDataSample() for _ in self.label]
            for sample, label in zip(samples, self.label, strict=True):
                sample.gt_sem_seg = PixelData(data=label[None])
            return samples
        return [ClsDataSample(gt_label=int(label)) for label in self.label]

    def _loss(self) -> Tensor:
        losses = self.model.loss(self.image, self._samples())
        return sum(value for key, value in losses.items() if "loss" in key)

    def _loss_eval(self) -> Tensor:
        with torch.no_grad():
            return self._loss()

    def _training_pass(self) -> dict[str, Tensor]:
        if self._gradients is None:
            statistics = {k: v.clone() for k, v in self.model.state_dict().items()}
            self.model.train()
            loss = self._loss()
            loss.backward()
            gradients = {k: p.grad for k, p in self.model.named_parameters()}
            self._gradients = {"loss": loss.detach(), **gradients}
            self.model.eval()
            self.model.load_state_dict(statistics)
        return self._gradients

    def _prediction(self) -> Tensor:
        size = tuple(self.image.shape[-2:])
        samples = [SegDataSample(metainfo=dict(img_shape=size, ori_shape=size)) for _ in self.image]
        with torch.no_grad():
            predicted = self.model.predict(self.image, samples)
        return torch.stack([sample.pred_sem_seg.data[0] for sample in predicted])


def both_tolerances(name: str, difference: float, scale: float) -> bool:
    """Return whether the difference of a quantity of HOOK is small enough; NaN is not."""
    return difference <= ABSOLUTE and difference <= RELATIVE * scale or difference == 0.0


def compare(
    name: str, ours: Tensor | None, theirs: Tensor, passes: Callable = both_tolerances
) -> tuple[str, str, bool]:
    """Return name, maximum difference and whether a quantity passes."""
    if ours is None:
        return name, "unknown quantity", False
    if ours.shape != theirs.shape:
        return name, f"shape {tuple(ours.shape)}, expected {tuple(theirs.shape)}", False
    if not theirs.is_floating_point():
        wrong = int((ours != theirs).sum())
        return name, f"{wrong} of {theirs.numel()} differ", wrong == 0
    ours, theirs = ours.detach().double(), theirs.double()
    difference = float((ours - theirs).abs().max()) if theirs.numel() else 0.0
    scale = float(theirs.abs().max()) if theirs.numel() else 0.0
    return name, f"{difference:.2e} of {scale:.2e}", passes(name, difference, scale)


def wanted_names(path: Path, quantities: dict[str, Tensor], inputs: tuple[str, ...]) -> list[str]:
    """Return the names of the quantities to compare; raise DataError without any."""
    wanted = sorted(n for n in quantities if not any(fnmatchcase(n, one) for one in inputs))
    if not wanted:
        raise DataError(f"{path} has no quantity to compare", found=sorted(quantities))
    return wanted


def check_hook(path: Path) -> list[tuple[str, str, bool]]:
    """Return the rows of :func:`compare` of a file of HOOK."""
    config, state, quantities = read_golden(path)
    if "image" not in quantities:
        raise DataError(f"{path} has no input", expected="io/image", found=sorted(quantities))
    wanted = wanted_names(path, quantities, INPUTS)
    model = build_model(config, state)
    ours = Quantities(model, {k: quantities[k] for k in INPUTS if k in quantities})
    rows = []
    for name in wanted:
        compute = ours.find(name)
        rows.append(compare(name, compute and compute(), quantities[name]))
    if "logits" in quantities and quantities["logits"].shape == ours.scores.shape:
        classes = quantities["logits"].argmax(dim=1)
        rows.append(compare("logits: class", ours.scores.argmax(dim=1), classes))
    return rows


def check_codec(path: Path, kind: codec_references.Kind) -> list[tuple[str, str, bool]] | None:
    """Return the rows of :func:`compare` of a file of a codec, None for weights of another file."""
    config, state, quantities = read_golden(path)
    if not quantities and "weights of " in str(config.get("part")):
        return None
    wanted = wanted_names(path, quantities, kind.inputs)
    ours = kind.compute(codec_references.Golden(path, config, state, quantities))
    return [compare(name, ours.get(name), quantities[name], kind.passes) for name in wanted]


def check_file(path: Path) -> bool | None:
    """Print the table of one file; return whether all quantities pass, None if there are none."""
    print(f"\n{path}")
    kind = codec_references.kind_of(path.name)
    try:
        rows = check_hook(path) if kind is None else check_codec(path, kind)
    except HookError as error:
        print(f"  FAIL {error}")
        return False
    except Exception as error:
        # A bad file must not hide the results of the others.
        print(f"  FAIL {type(error).__name__}: {error}")
        return False
    if rows is None:
        print("  weights of another file, compared there")
        return None
    width = max(len(name) for name, _, _ in rows)
    for name, difference, passed in rows:
        print(f"  {name:<{width}}  {difference:<28}  {'pass' if passed else 'FAIL'}")
    return all(passed for _, _, passed in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="golden file")
    args = parser.parse_args()
    register_all_modules(init_default_scope=True)
    results = [check_file(path) for path in args.files]
    covered = [result for result in results if result is not None]
    rest = f", {len(results) - len(covered)} not compared" if len(covered) < len(results) else ""
    print(f"\n{sum(covered)} of {len(covered)} files pass{rest}")
    sys.exit(0 if all(covered) else 1)


if __name__ == "__main__":
    main()
