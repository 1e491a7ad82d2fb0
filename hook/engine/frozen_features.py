"""Features or codes of a frozen network, computed once and kept on disk during a training."""

import hashlib
import shutil
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dataset import BaseDataset
from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.utils.data import DataLoader

from hook.datasets.seeding import keep_random_state, unwrap
from hook.engine.progress import TrainingProgressHook
from hook.errors import ConfigError
from hook.geo.staging import atomic_write
from hook.progress import progress_bar
from hook.registry import HOOKS

FILES = "frozen_features-*.npy"
CODE_FILES = "codes-*.npy"
# Transforms that give an image the same pixels in each epoch.
_FIXED = ("PackClsSample", "PackSegSample", "ScaleBands", "Resize", "CenterCrop")
_SPARE_BYTES = 64 * 2**20  # on the disk, for the log and small files
_MOST_ROWS = 1000  # for the mean and deviation of the channels


class StoredFeatures:
    """Feature maps of all images of a data set in a file, read as they are needed.

    The file is a NumPy array with a row per image, whose fields are the maps (C, h, w) of the
    levels, features in float16 or codes in int32.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._rows = np.load(path, mmap_mode="r")

    def __len__(self) -> int:
        return len(self._rows)

    def __call__(self, indexes: Sequence[int]) -> list[Tensor]:
        """Return the maps (B, C_l, h_l, w_l), float32 or int64, of images with these numbers."""
        rows = self._rows[list(indexes)]
        wide = {"f": np.float32, "i": np.int64}
        parts = (rows[name] for name in rows.dtype.names)
        return [torch.from_numpy(part.astype(wide[part.dtype.kind])) for part in parts]

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Return mean and deviation of each channel, over at most 1,000 images."""
        some = np.linspace(0, len(self) - 1, min(len(self), _MOST_ROWS)).astype(int)
        total, squares, positions = [], [], 0
        for part in np.array_split(some, max(1, len(some) // 50)):
            maps = [one.double().flatten(2) for one in self(part)]
            positions += len(part)
            # The mean over positions, so that levels of any grid count alike.
            total.append(torch.cat([one.mean(2) for one in maps], dim=1).sum(0))
            squares.append(torch.cat([one.square().mean(2) for one in maps], dim=1).sum(0))
        mean = torch.stack(total).sum(0) / positions
        variance = torch.stack(squares).sum(0) / positions - mean.square()
        return mean.float(), variance.clamp(min=1e-8).sqrt().float()


@HOOKS.register_module()
class FrozenFeatureHook(Hook):
    """Compute the features of a model's frozen network before training, once per image.

    They are written to ``frozen_features-*.npy`` in the work dir, in float16, and serve all epochs
    of a :class:`hook.models.TokenPretrainer` or :class:`hook.models.TileAutoencoder`. An
    interrupted run leaves the file, and a resumed one uses it if images and network are the same;
    it is removed at the end. A model without a frozen network needs no hook.

    The images have to be the same in each epoch: no random transforms, no random chips.

    Args:
        keep: Keep the file at the end.

    Raises:
        ConfigError: The images differ from epoch to epoch or in size, or the disk is too small.
    """

    priority = "LOW"  # after the check of the data
    content, files = "features", FILES

    def __init__(self, keep: bool = False) -> None:
        self.keep, self.folder = keep, None
        self._path: Path | None = None

    def before_train(self, runner: Runner) -> None:
        """Compute the features, or find those of the interrupted run."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        network = getattr(model, "build_frozen", lambda: None)()
        if network is None or runner.iter >= runner.max_iters:
            return
        dataset = unwrap(runner.train_dataloader.dataset)
        check_fixed(dataset)
        found: list[Any] = [None]
        if is_main_process():
            folder = Path(self.folder or runner.work_dir)
            name = self.files.replace("*", fingerprint(dataset, model, network))
            for old in folder.glob(self.files) if self.folder is None else ():
                if old.name != name:
                    old.unlink()
            path = folder / name
            if not path.is_file():
                with keep_random_state():  # a resumed run has the draws of the unbroken one
                    self._compute(runner, model, dataset, path)
            found = [path]
        broadcast_object_list(found, src=0)
        self._path = found[0]
        model.stored_maps = stored = StoredFeatures(self._path)
        if hasattr(model, "feature_mean"):
            for name, values in zip(("mean", "std"), stored.statistics(), strict=True):
                own = getattr(model, f"feature_{name}")  # without those of further views
                own.copy_(values[: len(own)])

    def after_train(self, runner: Runner) -> None:
        """Remove the file."""
        if self._path is not None and not self.keep and is_main_process():
            model = runner.model.module if is_model_wrapper(runner.model) else runner.model
            model.stored_maps = None
            self._path.unlink(missing_ok=True)

    def _maps(self, model: nn.Module, batch: dict) -> list[Tensor]:
        """Return the maps of a batch of the preprocessor."""
        return model.frozen_maps(batch["inputs"], batch["data_samples"])

    def _compute(self, runner: Runner, model: nn.Module, dataset: BaseDataset, path: Path) -> None:
        loader = runner.train_dataloader
        batches = DataLoader(
            dataset,
            batch_size=loader.batch_size,
            num_workers=loader.num_workers,
            collate_fn=loader.collate_fn,
        )
        shows = [one.show for one in runner.hooks if isinstance(one, TrainingProgressHook)]
        network = model.build_frozen()
        show, name = all(shows), getattr(network, "name", type(network).__name__)
        title = f"{self.content} of {name}"
        bar = progress_bar(total=len(dataset), desc=title, unit="image", show=show)
        start, row = time.monotonic(), None
        with bar, atomic_write(path) as partial, open(partial, "wb") as file:
            for data in batches:
                maps = self._maps(model, model.data_preprocessor(data, False))
                if row is None:
                    row = np.dtype(
                        [(f"level{k}", _kind(one), one.shape[1:]) for k, one in enumerate(maps)]
                    )
                    path.parent.mkdir(parents=True, exist_ok=True)
                    _check_space(path.parent, len(dataset), row.itemsize, title)
                    header = dict(descr=row.descr, fortran_order=False, shape=(len(dataset),))
                    np.lib.format.write_array_header_1_0(file, header)
                file.write(_rows(maps, row).tobytes())  # unlike a memory map, notices a full disk
                bar.update(len(maps[0]))
        note = (
            f"{title[0].upper()}{title[1:]}: {len(dataset)} images, "
            f"{len(dataset) * row.itemsize / 1e6:.0f} MB, {time.monotonic() - start:.0f} s"
        )
        print_log(note, "current")
        if shows and show:  # the log is in a file only
            print(f"      {note}", flush=True)


@HOOKS.register_module()
class CodeCacheHook(FrozenFeatureHook):
    """Compute the codes or latents of a generator's autoencoder before training, once per image.

    They are written to ``codes-*.npy``, of all views of :class:`hook.models.TileGenerator`: codes
    in int32, latents in float16. The name has a digest of the autoencoder, its weights, and the
    images, so that others are never read by mistake. The mean and deviation of the channels of
    latents go to the generator.

    The images have to be the same in each epoch: no random transforms, no random chips.

    Args:
        folder: Where the file is kept, and looked for by other trainings. None: the work dir, where
            files of other images and autoencoders are removed.
        keep: Keep the file at the end.

    Raises:
        ConfigError: The images differ from epoch to epoch or in size, or the disk is too small.
    """

    content, files = "codes", CODE_FILES

    def __init__(self, folder: str | None = None, keep: bool = True) -> None:
        super().__init__(keep)
        self.folder = folder


def _kind(values: Tensor) -> str:
    """Return the type of the numbers in the file."""
    return "<f2" if values.is_floating_point() else "<i4"


def _rows(maps: Sequence[Tensor], row: np.dtype) -> np.ndarray:
    """Return maps of a batch as rows of the file."""
    rows = np.empty(len(maps[0]), row)
    largest = np.finfo(np.float16).max
    for name, one in zip(row.names, maps, strict=True):
        if tuple(one.shape[1:]) != row[name].shape:
            raise ConfigError(
                "the images of the training data differ in size",
                expected=f"maps of {row[name].shape[1:]} positions, as of the first image",
                found=tuple(one.shape[2:]),
                remedy="cut or resize them to one size",
            )
        one = one.clamp(-largest, largest) if one.is_floating_point() else one
        rows[name] = one.cpu().numpy()
    return rows


def _check_space(folder: Path, images: int, row_bytes: int, title: str) -> None:
    """Raise ConfigError if the disk has no room for the features or codes."""
    needed, free = images * row_bytes, shutil.disk_usage(folder).free
    if needed + _SPARE_BYTES > free:
        raise ConfigError(
            f"{folder}: no room for the {title}",
            expected=f"{(needed + _SPARE_BYTES) / 1e6:.0f} MB: {images} images of "
            f"{row_bytes / 1e3:.1f} kB",
            found=f"{free / 1e6:.0f} MB free",
            remedy="use fewer images (max_chips), coarser levels or a smaller scale of the frozen "
            "network, or a work_dir on a larger disk",
        )


def check_fixed(dataset: Any) -> None:
    """Check that a data set gives the same images in each epoch.

    Raises:
        ConfigError: If it does not, or is none of MMEngine's.
    """
    if not isinstance(dataset, BaseDataset):
        problem = f"{type(dataset).__name__} is no MMEngine data set"
    elif getattr(dataset, "mode", None) == "random":
        problem = "mode='random' of the data set draws its chips anew"
    else:
        steps = (type(step).__name__ for step in dataset.pipeline.transforms)
        random = [name for name in steps if name not in _FIXED]
        if not random:
            return
        problem = f"{', '.join(random)} in the pipeline"
    raise ConfigError(
        "train_dataloader.dataset: features and codes are computed once, so its images must not "
        "vary",
        expected=f"mode='cover' of a hook.GeoTIFFFolder, and only {', '.join(_FIXED)}",
        found=problem,
        remedy="leave it out: options of the model, such as turn, augment images; or remove the "
        "hook, without which features and codes are computed for each batch",
    )


def fingerprint(dataset: BaseDataset, model: nn.Module, network: nn.Module) -> str:
    """Return a name for images as a network sees them."""
    seen = hashlib.sha256()

    def add(values: Iterable[Any]) -> None:
        for value in values:
            seen.update(repr(value).encode() + b"\0")

    infos = [dataset.get_data_info(index) for index in range(len(dataset))]
    add(infos)
    for file in sorted({Path(str(info.get("img_path"))) for info in infos}):
        state = file.stat() if file.is_file() else None
        add([state and (state.st_size, state.st_mtime_ns)])
    add([dataset.metainfo, getattr(dataset, "chip_size", None), dataset.pipeline.transforms])
    preprocessor = model.data_preprocessor
    add(part.tolist() for _, part in sorted(preprocessor.named_buffers()))
    add(getattr(network, name, None) for name in ("name", "levels", "bands", "scale", "img_size"))
    add(getattr(model, "stored_facts", ()))
    state = dict(network.named_buffers()) | getattr(network, "network", network).state_dict()
    for key, value in sorted(state.items()):
        seen.update(key.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return seen.hexdigest()[:16]
