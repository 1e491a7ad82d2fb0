"""The paper's data sets on tiny replicas in their real layouts, alone and through their configs."""

import shutil

import numpy as np
import pytest
import rasterio
from mmengine.config import Config
from PIL import Image

from hook.datasets.named import GID5, NWPURESISC45, WHURS19, EuroSATRGB, NaSCTG2
from hook.registry import DATASETS

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

DEEPGLOBE_COLOURS = (
    (0, 255, 255),
    (255, 255, 0),
    (255, 0, 255),
    (0, 255, 0),
    (0, 0, 255),
    (255, 255, 255),
    (0, 0, 0),
)
# Class, folder of the class folders, side of an image, form of the file names.
CLASS_FOLDERS = {
    "nwpu_resisc45": (NWPURESISC45, "NWPU-RESISC45", 256, "{low}_{number:03d}.jpg"),
    "whu_rs19": (WHURS19, "WHU-RS19", 600, "{low}_{number:02d}.jpg"),
    "nasc_tg2": (NaSCTG2, "NaSC-TG2", 128, "{name}_{number:04d}.png"),
    "eurosat_rgb": (EuroSATRGB, "", 64, "{name}_{number}.jpg"),
}


def write_class_folders(root, key, images=2):
    """Write ``images`` images per class; the mean colour of each tells its class and number."""
    cls, directory, side, form = CLASS_FOLDERS[key]
    rng = np.random.default_rng(0)
    names = []
    for label, name in enumerate(cls.class_names):
        folder = root / directory / name
        folder.mkdir(parents=True)
        for number in range(1, images + 1):
            file = form.format(name=name, low=name.lower(), number=number)
            noise = rng.integers(-5, 6, (side, side, 3))
            noise += np.array([40 + 3 * label, 120, 60 * number])
            Image.fromarray(noise.clip(0, 255).astype(np.uint8)).save(folder / file, quality=95)
            names.append(f"{name}/{file}")
    return names


def write_lists(root, names, train, test):
    (root / "splits").mkdir(exist_ok=True)
    (root / "splits" / train).write_text("\n".join(names[::2]))
    (root / "splits" / test).write_text("\n".join(names[1::2]))


def load_config(repo, name, root):
    """Read a dataset config and point all its data sets to ``root``."""
    cfg = Config.fromfile(str(repo / f"configs/_base_/datasets/{name}.py"))
    for split in ("train", "val", "test"):
        cfg.merge_from_dict({f"{split}_dataloader.dataset.data_root": str(root)})
    return cfg


def build(cfg, split):
    return DATASETS.build(cfg[f"{split}_dataloader"].dataset)


@pytest.mark.parametrize("key", ["nwpu_resisc45", "whu_rs19", "nasc_tg2"])
def test_scene_classification_configs(repo, tmp_path, key):
    cls = CLASS_FOLDERS[key][0]
    names = write_class_folders(tmp_path, key)
    write_lists(tmp_path, names, f"{key}_train_hook_seed0.txt", f"{key}_test_hook_seed0.txt")
    cfg = load_config(repo, f"{key}_224", tmp_path)
    seen = {}
    for split in ("train", "val", "test"):
        dataset = build(cfg, split)
        assert len(dataset) == len(cls.class_names)
        assert dataset.metainfo["split"] == (
            f"{key}_{'train' if split == 'train' else 'test'}_hook_seed0"
        )
        for index in (0, len(dataset) - 1):
            packed = dataset[index]
            sample = packed["data_samples"]
            assert packed["inputs"].shape == (3, 224, 224)
            assert sample.gt_label == index
            # The red channel was written to tell the class.
            assert abs(packed["inputs"][0].mean().item() - (40 + 3 * index)) < 2
        seen[split] = {dataset.get_data_info(i)["img_path"] for i in range(len(dataset))}
    assert not seen["train"] & seen["test"] and seen["val"] == seen["test"]
    assert cfg.data_preprocessor.mean == cfg.metainfo.mean
    assert cfg.train_dataloader.batch_size == 32
    assert tuple(cfg.metainfo.classes) == cls.class_names


def test_authors_lists_are_preferred(repo, tmp_path):
    names = write_class_folders(tmp_path, "whu_rs19")
    write_lists(tmp_path, names, "whu_rs19_train_hook_seed0.txt", "whu_rs19_test_hook_seed0.txt")
    rows = "".join(f"{i},{name},0\n" for i, name in enumerate(names[:7]))
    (tmp_path / "splits" / "train0.5.csv").write_text(",path,label\n" + rows)
    dataset = build(load_config(repo, "whu_rs19_224", tmp_path), "train")
    assert len(dataset) == 7 and dataset.metainfo["split"] == "train0.5"
    assert dataset.get_data_info(6)["gt_label"] == 3  # by folder, whatever the list says


def test_eurosat_2k_config(repo, tmp_path):
    names = write_class_folders(tmp_path, "eurosat_rgb", images=3)
    write_lists(tmp_path, names, "train.txt", "val.txt")
    shutil.copy(tmp_path / "splits/val.txt", tmp_path / "splits/test.txt")
    cfg = load_config(repo, "eurosat_2k", tmp_path)
    for split in ("train", "val", "test"):
        dataset = build(cfg, split)
        assert len(dataset) == 15
        packed = dataset[14]
        assert packed["inputs"].shape == (3, 64, 64)
        assert packed["data_samples"].gt_label == 9
    dataset = build(cfg, "val")
    image = np.asarray(Image.open(dataset.get_data_info(3)["img_path"]))
    np.testing.assert_array_equal(dataset[3]["inputs"].numpy(), image.transpose(2, 0, 1))


def test_eurosat_64_config(repo, tmp_path):
    rng = np.random.default_rng(0)
    folder = tmp_path / "ds/images/remote_sensing/otherDatasets/sentinel_2/tif"
    for name in EuroSATRGB.class_names:
        path = folder / name / f"{name}_1.tif"
        path.parent.mkdir(parents=True)
        with rasterio.open(
            path, "w", driver="GTiff", count=13, height=64, width=64, dtype="uint16"
        ) as dst:
            dst.write(rng.integers(0, 3000, (13, 64, 64), dtype=np.uint16))
    for split in ("train", "val", "test"):
        names = [f"{name}_1.jpg" for name in EuroSATRGB.class_names]
        (tmp_path / f"eurosat-{split}.txt").write_text("\n".join(names))
    cfg = load_config(repo, "eurosat_64", tmp_path)
    assert build(cfg, "train")[0]["inputs"].shape == (3, 64, 64)
    packed = build(cfg, "test")[4]
    with rasterio.open(packed["data_samples"].img_path) as src:
        np.testing.assert_array_equal(packed["inputs"].numpy(), src.read([4, 3, 2]))
    assert packed["data_samples"].gt_label == 4


def write_gid5(root, suffix=".png", tiles=2, size=512):
    rng = np.random.default_rng(0)
    for split in GID5.splits:
        for folder in (split, f"{split}_labels"):
            (root / folder).mkdir(parents=True)
        for number in range(tiles):
            image = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
            mask = rng.integers(0, 6, (size, size), dtype=np.uint8)
            name = f"GF2_PMS1__L1A000056453{number}-MSS1_0_512{suffix}"
            Image.fromarray(image).save(root / split / name)
            Image.fromarray(mask).save(root / f"{split}_labels" / name)


def test_gid5_config(repo, tmp_path):
    write_gid5(tmp_path)
    cfg = load_config(repo, "gid5_512", tmp_path)
    for split in ("train", "val", "test"):
        dataset = build(cfg, split)
        assert len(dataset) == 2
        packed = dataset[1]
        sample = packed["data_samples"]
        stored = np.asarray(Image.open(sample.seg_map_path)).astype(int)
        expected = np.where(stored == 0, 255, stored - 1)
        assert packed["inputs"].shape == (3, 512, 512)
        np.testing.assert_array_equal(sample.gt_sem_seg.data[0].numpy(), expected)
    image = np.asarray(Image.open(sample.img_path))
    np.testing.assert_array_equal(packed["inputs"].numpy(), image.transpose(2, 0, 1))
    assert dataset.metainfo["classes"] == GID5.classes
    assert cfg.train_dataloader.batch_size == 8


def test_deepglobe_config(repo, tmp_path):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 7, (512, 512))
    colours = np.array(DEEPGLOBE_COLOURS, dtype=np.uint8)[labels]
    for split in ("training_data", "test_data"):
        for folder in ("images", "masks"):
            (tmp_path / "data" / split / folder).mkdir(parents=True)
        image = rng.integers(0, 256, (512, 512, 3), dtype=np.uint8)
        Image.fromarray(image).save(tmp_path / "data" / split / "images" / "119_0_512_sat.jpg")
        Image.fromarray(colours).save(tmp_path / "data" / split / "masks" / "119_0_512_mask.png")
    cfg = load_config(repo, "deepglobe_land_cover_512", tmp_path)
    for split in ("train", "test"):
        dataset = build(cfg, split)
        packed = dataset[0]
        expected = np.where(labels == 6, 255, labels)
        np.testing.assert_array_equal(packed["data_samples"].gt_sem_seg.data[0], expected)
    jpeg = np.asarray(Image.open(packed["data_samples"].img_path))
    np.testing.assert_array_equal(packed["inputs"].numpy(), jpeg.transpose(2, 0, 1))
    assert dataset.metainfo["classes"][5] == "Barren land" and len(dataset.metainfo["classes"]) == 6
    # The mapping survives a config that was written out and read again.
    path = tmp_path / "dumped.py"
    cfg.dump(str(path))
    again = Config.fromfile(str(path))
    assert again.train_dataloader.dataset.label_map == {6: 255}


class TestClassFolders:
    def test_folders_in_other_spelling(self, tmp_path):
        write_class_folders(tmp_path, "nasc_tg2", images=1)
        folder = tmp_path / "NaSC-TG2"
        (folder / "rectangular_farmland").rename(folder / "RectangleFarmland")
        (folder / "circular_farmland").rename(folder / "circularfarmland")
        (folder / "notes").mkdir()
        dataset = NaSCTG2(tmp_path)
        assert len(dataset) == 10 and dataset.classes == list(NaSCTG2.class_names)
        labels = {path.split("/")[-2]: label for path, label in dataset.samples}
        assert labels["RectangleFarmland"] == NaSCTG2.class_names.index("rectangular_farmland")
        assert labels["circularfarmland"] == 1

    def test_missing_class_folder(self, tmp_path):
        write_class_folders(tmp_path, "eurosat_rgb", images=1)
        shutil.rmtree(tmp_path / "River")
        with pytest.raises(FileNotFoundError, match="no class folder River"):
            EuroSATRGB(tmp_path)

    def test_transforms(self, tmp_path):
        write_class_folders(tmp_path, "eurosat_rgb", images=1)
        plain = EuroSATRGB(tmp_path)[2]
        halved = EuroSATRGB(
            tmp_path, transforms=lambda sample: {**sample, "image": sample["image"] / 2}
        )[2]
        np.testing.assert_allclose(halved["image"] * 2, plain["image"])

    def test_nwpu_with_torchgeos_own_split(self, tmp_path):
        names = write_class_folders(tmp_path, "nwpu_resisc45", images=1)
        chosen = [name.split("/")[-1] for name in names]
        (tmp_path / "resisc45-val.txt").write_text("\n".join(chosen))
        assert len(NWPURESISC45(tmp_path, split="val")) == 45
        assert len(NWPURESISC45(tmp_path)) == 45


class TestGID5:
    def test_mask_may_have_another_suffix(self, tmp_path):
        write_gid5(tmp_path, size=4)
        for path in (tmp_path / "train_labels").iterdir():
            Image.open(path).save(path.with_suffix(".tif"))
            path.unlink()
        assert GID5(tmp_path)[0]["mask"].shape == (4, 4)

    def test_missing_mask(self, tmp_path):
        write_gid5(tmp_path, size=4)
        next((tmp_path / "train_labels").iterdir()).unlink()
        with pytest.raises(FileNotFoundError, match="has no mask"):
            GID5(tmp_path)

    def test_colour_mask(self, tmp_path):
        write_gid5(tmp_path, size=4)
        for path in (tmp_path / "train_labels").iterdir():
            Image.new("RGB", (4, 4), (255, 0, 0)).save(path)
        with pytest.raises(ValueError, match=r"colour picture[\s\S]*prepare_gid5"):
            GID5(tmp_path)[0]

    def test_label_of_no_class(self, tmp_path):
        write_gid5(tmp_path, size=4)
        for path in (tmp_path / "train_labels").iterdir():
            Image.new("L", (4, 4), 6).save(path)
        with pytest.raises(ValueError, match="label 6"):
            GID5(tmp_path)[0]
