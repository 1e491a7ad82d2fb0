import csv
import subprocess
import sys

import numpy as np
import rasterio
from PIL import Image

from hook.geo.styles import write_category_names


def run(repo, *args):
    return subprocess.run(
        [sys.executable, repo / "tools/analysis_tools/paired_bootstrap.py", *map(str, args)],
        capture_output=True,
        text=True,
        timeout=120,
    )


def write_csv(path, predicted, truth="truth"):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "class", truth, "score_a", "score_b"])
        for i, name in enumerate(predicted):
            writer.writerow([f"{i}.jpg", name, "a", 0.5, 0.5])


def test_rows_without_a_prediction_are_named(repo, tmp_path):
    for name, text in (("score", "0.jpg,a,a,nan,nan"), ("class", "0.jpg,,a,0.5,0.5")):
        path = tmp_path / name / "predictions.csv"
        write_csv(path, "ab")
        path.write_text(path.read_text().replace("0.jpg,a,a,0.5,0.5", text))
        result = run(repo, "--first", path, "--second", path)
        assert result.returncode == 1 and "Traceback" not in result.stderr
        assert "0.jpg has no " in result.stderr
    write_csv(path, "ab")
    path.write_text(path.read_text().replace("1.jpg", "0.jpg"))
    result = run(repo, "--first", path, "--second", path)
    assert result.returncode == 1 and "two predictions of a file" in result.stderr


def write_mask(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    profile = dict(driver="GTiff", height=4, width=4, count=1, dtype="uint8", nodata=255)
    with rasterio.open(path, "w", **profile) as target:
        target.write(array, 1)


def test_classification(repo, tmp_path):
    write_csv(tmp_path / "good0/predictions.csv", "aaaaaaab")
    write_csv(tmp_path / "good1/predictions.csv", "aaaaaabb")
    write_csv(tmp_path / "poor/predictions.csv", "aaaabbbb")
    result = run(
        repo, "--first", tmp_path / "good0", tmp_path / "good1",
        "--second", tmp_path / "poor/predictions.csv", "--resamples", 200,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "8 images, 2 and 1 seeds" in result.stdout
    assert "81.25 against 50.00, difference +31.25" in result.stdout


def test_segmentation(repo, tmp_path):
    truth = np.zeros((4, 4), dtype=np.uint8)
    truth[:2] = 1
    truth[3] = 255
    half = np.ones((4, 4), dtype=np.uint8)
    for i in range(3):
        write_mask(tmp_path / f"truth/{i}.tif", truth)
        write_mask(tmp_path / f"right/{i}.tif", np.where(truth == 255, 0, truth))
        write_mask(tmp_path / f"wrong/{i}.tif", half)
    # PNG files, of pictures, have 255 outside the chips.
    (tmp_path / "right/2.tif").unlink()
    outside = np.where(np.eye(4), 255, truth).astype(np.uint8)
    Image.fromarray(outside).save(tmp_path / "right/2.png")
    write_category_names(tmp_path / "truth/1.tif.aux.xml", ["land", "house"])
    result = run(
        repo, "--first", tmp_path / "right", "--second", tmp_path / "wrong",
        "--truth", tmp_path / "truth", "--resamples", 50,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "mIoU: 100.00 against 33.33" in result.stdout
    assert "IoU of house: 100.00 against 66.67" in result.stdout
    write_mask(tmp_path / "truth/more/2.tif", half)
    result = run(
        repo, "--first", tmp_path / "right", "--second", tmp_path / "wrong",
        "--truth", tmp_path / "truth", "--classes", "land", "house",
    )  # fmt: skip
    assert result.returncode == 1 and "two files are named 2" in result.stderr
    assert "truth/2.tif" in result.stderr and "truth/more/2.tif" in result.stderr


def test_predictions_without_truth_are_refused(repo, tmp_path):
    write_csv(tmp_path / "a.csv", "ab", truth="other")
    result = run(repo, "--first", tmp_path / "a.csv", "--second", tmp_path / "a.csv")
    assert result.returncode == 1
    assert "expected: columns file, class, truth" in result.stderr
    assert "Traceback" not in result.stderr
