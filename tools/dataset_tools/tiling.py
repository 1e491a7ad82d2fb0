"""Cut large labelled images into tiles."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image
from preparing import download_parser, opened_source, progress, rank, write_list
from rasterio.windows import Window

from hook.datasets.files import by_name
from hook.errors import DataError, reports_errors
from hook.geo.raster import open_raster
from hook.geo.staging import atomic_write


@dataclass(frozen=True)
class Scene:
    """A large image and its mask."""

    name: str
    image: Path
    mask: Path


def read_window(path: Path, window: Window | None = None) -> np.ndarray:
    """Read a window of an image file, (C, H, W); None reads the full image."""
    with open_raster(path) as file:
        return file.read(window=window)


@lru_cache(maxsize=2)
def read_colours(path: Path) -> np.ndarray:
    """Read a JPEG or PNG as (H, W, 3) uint8; raise DataError if it cannot be read.

    With Pillow like TorchGeo, because GDAL decodes JPEG colours slightly differently.
    """
    try:
        with Image.open(path) as file:
            return np.array(file.convert("RGB"))
    except (OSError, SyntaxError) as error:
        raise DataError(
            f"{path} cannot be read",
            expected="an undamaged image",
            found=error,
            remedy="download it again",
        ) from error


def colours_to_indexes(
    colours: np.ndarray, index_of: Mapping[tuple[int, int, int], int], path: Path
) -> np.ndarray:
    """Convert a colour mask (3, H, W) uint8 to an index mask (H, W) uint8.

    Args:
        colours: The mask.
        index_of: Index of each colour.
        path: File name for messages.

    Raises:
        DataError: If the mask has a different colour.
    """
    codes = (
        colours[0].astype(np.uint32) << 16
        | colours[1].astype(np.uint32) << 8
        | colours[2].astype(np.uint32)
    )
    indexes, known = np.zeros(codes.shape, dtype=np.uint8), np.zeros(codes.shape, dtype=bool)
    for (red, green, blue), index in index_of.items():
        here = codes == (red << 16 | green << 8 | blue)
        indexes[here], known[here] = index, True
    if not known.all():
        code = int(codes[~known][0])
        raise DataError(
            f"{path} has a colour without a class",
            expected=", ".join(str(colour) for colour in index_of),
            found=(code >> 16, code >> 8 & 255, code & 255),
            remedy="use the masks of the original download, not resampled or JPEG copies",
        )
    return indexes


class TiledDataset(ABC):
    """A dataset of large labelled images, cut into training and test tiles of different scenes.

    Attributes:
        title: Name of the dataset, for progress bars.
        name: Name of the dataset in the list files.
        folder: Default folder of the dataset.
        unlabelled: Index of unlabelled pixels.
        places: Image folder of each split, for messages.
    """

    title: str
    name: str
    folder: str
    unlabelled: int
    places: Mapping[str, str]

    @abstractmethod
    def find_scenes(self, source: Path) -> list[Scene]:
        """Pair the images of a download with their masks; raise DataError without a pair."""

    @abstractmethod
    def read_image(self, scene: Scene, window: Window) -> np.ndarray:
        """Read a window of a scene, (3, H, W)."""

    @abstractmethod
    def read_labels(self, scene: Scene, window: Window) -> np.ndarray:
        """Read a window of a mask as indexes (H, W) uint8."""

    @abstractmethod
    def write(self, out: Path, split: str, name: str, image: np.ndarray, labels: np.ndarray) -> str:
        """Write a tile (3, H, W) uint8 with labels (H, W) uint8; return its line in the list."""

    def prepare(
        self,
        source: str | Path,
        out: str | Path,
        train: int = 2000,
        test: int = 2500,
        size: int = 512,
        seed: int = 0,
    ) -> dict[str, int]:
        """Draw and write the tiles; return their number per split.

        Args:
            source: Downloaded folder or zip archive.
            out: Data root to write.
            train: Number of training tiles.
            test: Number of test tiles.
            size: Side of a tile in pixels.
            seed: Seed of the draw.

        Raises:
            DataError: If the download is incomplete or damaged.
        """
        out, counts = Path(out), {}
        with opened_source(source) as folder:
            scenes = divide_scenes(self.find_scenes(folder), train, test, seed)
            for split, wanted in (("train", train), ("test", test)):
                names = self._cut(scenes[split], out, split, wanted, size, seed)
                write_list(out / "splits" / f"{self.name}_{split}_hook_seed{seed}.txt", names)
                counts[split] = len(names)
        return counts

    def _cut(
        self, scenes: Sequence[Scene], out: Path, split: str, count: int, size: int, seed: int
    ) -> list[str]:
        """Write up to ``count`` tiles drawn from scenes; return their lines in the list, sorted.

        Tiles are on a grid from the upper left corner of each scene without overlap. Remainders at
        the right and lower edge are not used, tiles without labels are skipped.
        """
        places = {}
        for scene in scenes:
            with open_raster(scene.image) as image, open_raster(scene.mask) as mask:
                (height, width), mask_shape = image.shape, mask.shape
            if mask_shape != (height, width):
                raise DataError(
                    f"{scene.mask} does not fit {scene.image}",
                    expected=f"{height} x {width} pixels",
                    found=f"{mask_shape[0]} x {mask_shape[1]}",
                    remedy="download the pair again",
                )
            for row in range(0, height - size + 1, size):
                for column in range(0, width - size + 1, size):
                    window = Window(column, row, size, size)
                    places[f"{scene.name}_{row}_{column}"] = (scene, window)
        title = f"{self.title} {split}"
        labelled = {
            name
            for name, place in progress(list(places.items()), f"{title}: reading masks")
            if (self.read_labels(*place) != self.unlabelled).any()
        }
        chosen = set([name for name in rank(places, seed) if name in labelled][:count])
        lines = []
        # Scene by scene, so that cached files are read once.
        for name in progress([name for name in places if name in chosen], f"{title}: writing"):
            image, labels = self.read_image(*places[name]), self.read_labels(*places[name])
            lines.append(self.write(out, split, name, image, labels))
        return sorted(lines)

    def command(self, description: str) -> Callable[..., None]:
        """Return the command of a script with the docstring ``description``."""

        @reports_errors
        def main(arguments: list[str] | None = None) -> None:
            parser = download_parser(description, self.folder)
            parser.add_argument("--train", type=int, default=2000, help="training tiles (2000)")
            parser.add_argument("--test", type=int, default=2500, help="test tiles (2500)")
            parser.add_argument("--size", type=int, default=512, help="side of a tile (512 pixels)")
            parser.add_argument("--seed", type=int, default=0, help="seed of the draw (0)")
            args = parser.parse_args(arguments)
            sizes = args.train, args.test, args.size
            counts = self.prepare(args.source, args.out, *sizes, args.seed)
            for split, count in counts.items():
                wanted = getattr(args, split)
                text = "" if count == wanted else f" ({wanted} requested, no more in the scenes)"
                print(f"{args.out}/{self.places[split]}: {count} tiles{text}")

        return main


def divide_scenes(
    scenes: Sequence[Scene], train: int, test: int, seed: int
) -> dict[str, list[Scene]]:
    """Divide scenes into training and test scenes, in the proportion of the tiles wanted.

    Raises:
        DataError: If there are fewer than two scenes.
    """
    if len(scenes) < 2:
        raise DataError(
            "too few scenes for two splits",
            expected="at least 2",
            found=len(scenes),
            remedy="pass the complete download",
        )
    named = by_name(((scene.name, scene) for scene in scenes), "scenes")
    ranked = [named[name] for name in rank(named, seed)]
    cut = min(max(round(len(ranked) * train / (train + test)), 1), len(ranked) - 1)
    return {"train": ranked[:cut], "test": ranked[cut:]}


def write_image(
    path: Path,
    array: np.ndarray,
    kind: str = "PNG",
    palette: Sequence[int] | None = None,
    **options: int,
) -> None:
    """Write an image (H, W) or (H, W, 3) uint8 with Pillow.

    Args:
        path: File to write.
        array: The image.
        kind: Pillow's name of the format.
        palette: Red, green and blue of each index, of an index mask.
        **options: Of the format.
    """
    image = Image.fromarray(np.ascontiguousarray(array))
    if palette is not None:
        image.putpalette(palette)
    with atomic_write(path) as scratch:
        image.save(scratch, format=kind, **options)
