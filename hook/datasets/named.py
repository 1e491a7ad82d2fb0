"""Data sets of the paper that TorchGeo lacks or splits differently.

They follow TorchGeo's interface, so that :class:`hook.datasets.TorchGeoClassification` and
:class:`hook.datasets.TorchGeoSegmentation` can wrap them. They do not download anything: the
scripts in ``tools/dataset_tools`` prepare downloaded files.
"""

import difflib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
import torchgeo.datasets
from PIL import Image
from torch import Tensor
from torchgeo.datasets import RESISC45, NonGeoClassificationDataset, NonGeoDataset

from hook.datasets.torchgeo_sources import normalise_name
from hook.errors import ConfigError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp")


class ClassFolderDataset(NonGeoClassificationDataset):
    """RGB images in one folder per class.

    Names of class folders are matched regardless of case and punctuation; labels follow the order
    of :attr:`class_names`.

    Args:
        root: Folder that holds the class folders, or its parent if the folder has the name of the
            download (:attr:`directories`).
        transforms: Function from sample to sample.

    Raises:
        FileNotFoundError: If the root or a class folder is missing or empty.
    """

    class_names: ClassVar[tuple[str, ...]]
    directories: ClassVar[tuple[str, ...]] = ()
    aliases: ClassVar[dict[str, str]] = {}
    layout: ClassVar[str]
    prepare_script: ClassVar[str]
    bands = ("red", "green", "blue")

    def __init__(
        self,
        root: str | Path = "data",
        transforms: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None,
    ) -> None:
        folder = Path(root)
        for name in self.directories:
            if (folder / name).is_dir():
                folder = folder / name
                break
        if not folder.is_dir():
            raise FileNotFoundError(f"no folder {folder}")
        super().__init__(
            root=str(folder),
            transforms=transforms,
            is_valid_file=lambda path: str(path).lower().endswith(IMAGE_SUFFIXES),
        )

    def find_classes(self, directory: str | Path) -> tuple[list[str], dict[str, int]]:
        """Return the class names and the label of each folder, for torchvision's ``ImageFolder``.

        Raises:
            FileNotFoundError: If the folder of a class is missing.
        """
        label_of = {normalise_name(name): label for label, name in enumerate(self.class_names)}
        for spelling, name in self.aliases.items():
            label_of[normalise_name(spelling)] = label_of[normalise_name(name)]
        folders = {
            path.name: label_of[normalise_name(path.name)]
            for path in sorted(Path(directory).iterdir())
            if path.is_dir() and normalise_name(path.name) in label_of
        }
        present = set(folders.values())
        missing = [name for label, name in enumerate(self.class_names) if label not in present]
        if missing:
            raise FileNotFoundError(f"no class folder {', '.join(missing)} in {directory}")
        return list(self.class_names), folders


class EuroSATRGB(ClassFolderDataset):
    """EuroSAT as RGB JPEG images.

    The `EuroSAT <https://github.com/phelber/EuroSAT>`__ data set in its RGB form
    (``EuroSAT_RGB``): Sentinel-2 bands 4, 3 and 2 stretched to 8 bits.
    :class:`torchgeo.datasets.EuroSAT` reads the 13-band GeoTIFFs.

    Dataset features:

    * 27,000 images of 64 x 64 px at 10 m per pixel, 2,000 to 3,000 per class
    * class folders ``<Class>/<Class>_<n>.jpg``

    Dataset format:

    * images are three-channel JPEGs

    Dataset classes: annual crop, forest, herbaceous vegetation, highway, industrial, pasture,
    permanent crop, residential, river, sea or lake.

    If you use this data set, please cite https://doi.org/10.1109/JSTARS.2019.2918242.
    """

    class_names = tuple(
        "AnnualCrop Forest HerbaceousVegetation Highway Industrial Pasture PermanentCrop "
        "Residential River SeaLake".split()
    )
    directories = ("EuroSAT_RGB", "2750")
    layout = "<root>/<Class>/<Class>_<n>.jpg for the ten classes, lists in <root>/splits"
    prepare_script = "tools/dataset_tools/prepare_eurosat.py"


class NWPURESISC45(RESISC45):
    """NWPU-RESISC45 with the additional split ``'all'``, to be used with a split list.

    The paper draws 6,300 images for training and 25,200 for testing from all 31,500, whereas
    :class:`torchgeo.datasets.RESISC45` has three fixed splits (18,900 / 6,300 / 6,300).

    If you use this data set, please cite https://doi.org/10.1109/JPROC.2017.2675998.

    Args:
        root: Folder that holds ``NWPU-RESISC45/<class>/<class>_<nnn>.jpg``.
        split: ``'all'``, or one of TorchGeo's splits.
        transforms: Function from sample to sample.
        download: Download TorchGeo's copy if the root is empty.
        checksum: Check the MD5 sum of the download.

    Raises:
        torchgeo.datasets.DatasetNotFoundError: If the data are missing.
    """

    class_names = tuple(
        "airplane airport baseball_diamond basketball_court beach bridge chaparral church "
        "circular_farmland cloud commercial_area dense_residential desert forest freeway "
        "golf_course ground_track_field harbor industrial_area intersection island lake meadow "
        "medium_residential mobile_home_park mountain overpass palace parking_lot railway "
        "railway_station rectangular_farmland river roundabout runway sea_ice ship snowberg "
        "sparse_residential stadium storage_tank tennis_court terrace thermal_power_station "
        "wetland".split()
    )
    splits = (*RESISC45.splits, "all")
    bands = ("red", "green", "blue")
    layout = "<root>/NWPU-RESISC45/<class>/<class>_<nnn>.jpg, lists in <root>/splits"
    prepare_script = "tools/dataset_tools/prepare_nwpu_resisc45.py"

    def __init__(
        self,
        root: str | Path = "data",
        split: str = "all",
        transforms: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None,
        download: bool = False,
        checksum: bool = False,
    ) -> None:
        if split != "all":
            super().__init__(root, split, transforms, download, checksum)
            return
        self.root = root
        self.split = split
        self.download = download
        self.checksum = checksum
        self._verify()
        # Skips RESISC45.__init__, which requires a split file.
        NonGeoClassificationDataset.__init__(
            self, root=str(Path(root) / self.directory), transforms=transforms
        )

    def _download(self) -> None:
        self.splits = RESISC45.splits  # the splits with list files to download
        super()._download()


class WHURS19(ClassFolderDataset):
    """WHU-RS19.

    The `WHU-RS19 <https://captain-whu.github.io/BED4RS/>`__ data set holds scenes cut from Google
    Earth, at least 50 per class.

    Dataset features:

    * 1,005 images of about 600 x 600 px, up to 0.5 m per pixel
    * 19 scene classes

    Dataset format:

    * images are three-channel JPEGs

    Dataset classes: airport, beach, bridge, commercial, desert, farmland, football field, forest,
    industrial, meadow, mountain, park, parking, pond, port, railway station, residential, river,
    viaduct.

    If you use this data set, please cite https://doi.org/10.1109/LGRS.2010.2055033 and
    https://www.isprs.org/proceedings/XXXVIII/part7/a/pdf/298_XXXVIII-part7A.pdf.
    """

    class_names = tuple(
        "Airport Beach Bridge Commercial Desert Farmland footballField Forest Industrial Meadow "
        "Mountain Park Parking Pond Port railwayStation Residential River Viaduct".split()
    )
    directories = ("WHU-RS19", "RSDataset")
    layout = "<root>/WHU-RS19/<Class>/<class>_<nn>.jpg for the 19 classes, lists in <root>/splits"
    prepare_script = "tools/dataset_tools/prepare_whu_rs19.py"


class NaSCTG2(ClassFolderDataset):
    """NaSC-TG2.

    The `NaSC-TG2 <https://doi.org/10.1109/JSTARS.2021.3063096>`__ data set holds natural scenes
    from the wideband imaging spectrometer of the space laboratory Tiangong-2. This class reads the
    RGB images.

    Dataset features:

    * 20,000 images of 128 x 128 px at 100 m per pixel
    * 10 scene classes, 2,000 images per class

    Dataset format:

    * images are three-channel JPEGs or PNGs

    Dataset classes: beach, circular farmland, cloud, desert, forest, mountain, rectangular
    farmland, residential, river, snowberg.

    If you use this data set, please cite https://doi.org/10.1109/JSTARS.2021.3063096.
    """

    class_names = tuple(
        "beach circular_farmland cloud desert forest mountain rectangular_farmland residential "
        "river snowberg".split()
    )
    directories = ("NaSC-TG2", "NaSC-TG2_RGB", "RGB")
    aliases: ClassVar[dict[str, str]] = {
        "rectangle_farmland": "rectangular_farmland",
        "circle_farmland": "circular_farmland",
    }
    layout = "<root>/NaSC-TG2/<class>/*.{jpg,png} for the ten classes, lists in <root>/splits"
    prepare_script = "tools/dataset_tools/prepare_nasc_tg2.py"


class GID5(NonGeoDataset):
    """GID-5, the large-scale classification set of the Gaofen Image Dataset, as tiles.

    The `GID <https://x-ytong.github.io/project/GID.html>`__ data set holds 150 Gaofen-2 scenes of
    6,800 x 7,200 px over 60 Chinese cities. The paper trains on 2,000 and tests on 2,500 tiles of
    512 x 512 px; ``tools/dataset_tools/prepare_gid5.py`` cuts them from the official download. The
    tiles released by the paper's authors can be read directly.

    Dataset format:

    * images are three-channel 8-bit GeoTIFFs or PNGs, ``<split>/<name>``
    * masks are single-channel 8-bit files of the same name, ``<split>_labels/<name>``: 0 is
      unlabelled, 1 to 5 are the classes

    Dataset classes, as returned (255 is unlabelled):

    0. built-up
    1. farmland
    2. forest
    3. meadow
    4. water

    If you use this data set, please cite https://doi.org/10.1016/j.rse.2019.111322.

    Args:
        root: Folder of the data.
        split: ``'train'`` or ``'test'``.
        transforms: Function from sample to sample.

    Raises:
        AssertionError: If the split is unknown.
        FileNotFoundError: If the folders, or the mask of an image, are missing.
    """

    splits = ("train", "test")
    classes = ("built-up", "farmland", "forest", "meadow", "water")
    palette = ((255, 0, 0), (0, 255, 0), (0, 255, 255), (255, 255, 0), (0, 0, 255))
    bands = ("red", "green", "blue")
    ignore_index = 255
    layout = "<root>/{train,test}/<tile> with <root>/{train,test}_labels/<tile> of the same name"
    prepare_script = "tools/dataset_tools/prepare_gid5.py"

    def __init__(
        self,
        root: str | Path = "data",
        split: str = "train",
        transforms: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None,
    ) -> None:
        assert split in self.splits, f"split must be one of {', '.join(self.splits)}"
        self.root = root
        self.split = split
        self.transforms = transforms
        images, masks = Path(root) / split, Path(root) / f"{split}_labels"
        for folder in (images, masks):
            if not folder.is_dir():
                raise FileNotFoundError(f"no folder {folder}")
        self.image_fns = [
            str(path)
            for path in sorted(images.iterdir())
            if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
        ]
        self.mask_fns = [self._mask_of(Path(image), masks) for image in self.image_fns]

    @staticmethod
    def _mask_of(image: Path, masks: Path) -> str:
        for candidate in (image.name, *(image.stem + suffix for suffix in IMAGE_SUFFIXES)):
            if (masks / candidate).is_file():
                return str(masks / candidate)
        raise FileNotFoundError(f"image {image} has no mask in {masks}")

    def __len__(self) -> int:
        """Return the number of tiles."""
        return len(self.image_fns)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Return ``image`` (3, H, W) float32 in [0, 255], ``mask`` (H, W) int64, 0 to 4 or 255.

        Raises:
            ValueError: If the mask is not an index mask with values 0 to 5.
        """
        with Image.open(self.image_fns[index]) as file:
            image = np.array(file.convert("RGB"))
        with Image.open(self.mask_fns[index]) as file:
            stored = np.array(file)
        if stored.ndim != 2:
            raise ValueError(
                f"{self.mask_fns[index]} is a colour picture, not an index mask of 0 to 5: "
                f"convert it with {self.prepare_script}"
            )
        if stored.max() > len(self.classes):
            raise ValueError(f"{self.mask_fns[index]} contains label {stored.max()}, above 5")
        mask = stored.astype(np.int64) - 1
        mask[stored == 0] = self.ignore_index
        sample = {
            "image": torch.from_numpy(image).permute(2, 0, 1).float(),
            "mask": torch.from_numpy(mask),
        }
        return sample if self.transforms is None else self.transforms(sample)


def find_dataset_class(name: str) -> type[NonGeoDataset]:
    """Return a data set class by name, such as ``'EuroSAT'``, from TorchGeo or this module.

    Raises:
        ConfigError: If the class does not exist, or is one of TorchGeo's geo datasets.
    """
    modules = (torchgeo.datasets, sys.modules[__name__])
    found = next((getattr(each, name) for each in modules if hasattr(each, name)), None)
    if inspect.isclass(found) and issubclass(found, NonGeoDataset):
        return found
    if inspect.isclass(found) and issubclass(found, torchgeo.datasets.GeoDataset):
        raise ConfigError(
            f"dataset={name!r} is one of TorchGeo's geo datasets",
            expected="a dataset of fixed image chips (NonGeoDataset)",
            found="scenes that are sampled by location (GeoDataset)",
            remedy="use type='hook.GeoTIFFFolder' on the folder of its files",
        )
    known = [
        key
        for module in modules
        for key, value in vars(module).items()
        if inspect.isclass(value) and issubclass(value, NonGeoDataset)
    ]
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    raise ConfigError(
        f"dataset={name!r} is unknown",
        expected="a non-geo class of torchgeo.datasets or hook.datasets.named",
        found=name,
        remedy=f"did you mean {' or '.join(close)}?" if close else "check the class name",
    )
