"""The benchmark of ``hook explore`` on a tiny scene."""

import subprocess
import sys

import pytest

pytest.importorskip("fastapi", reason="needs hook-rs[explore]")

from hook.explore.opening import BUNDLE


@pytest.mark.skipif(
    not BUNDLE.is_file(), reason="no map library: run tools/misc/bundle_explore.py, needs npm"
)
def test_it_measures(repo):
    sizes = "--side 600 --regions 200 --dims 4 --labels 4 --kills 1".split()
    command = [sys.executable, repo / "tools/analysis_tools/explore_benchmark.py", *sizes]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    assert "first picture without overviews" in done.stdout and "label to map" in done.stdout
    assert "1 kills: 0 labels lost" in done.stdout
