"""A job in a process of its own, whose parent ends."""

import json
import subprocess
import sys

CODE = """
import time
from hook.explore import worker
from hook.geo.staging import StagedFiles

def draw(folder):
    with StagedFiles(overwrite=True) as files:
        files.add(f"{folder}/regions.tiles").write_text("the first tiles")
        worker.progress.listeners[0]("begun", 1.0)
        while True:
            time.sleep(0.05)

worker.JOBS["draw"] = draw
worker.main()
"""


def test_a_job_ends_with_its_parent_and_leaves_nothing(tmp_path):
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", CODE]
    job = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
    job.stdin.write(json.dumps({"job": "draw", "folder": str(tmp_path)}) + "\n")
    job.stdin.flush()
    assert json.loads(job.stdout.readline())["message"] == "begun"
    assert list(tmp_path.iterdir())
    answer, text = job.communicate(timeout=30)  # closes its standard input
    assert (answer, text) == ("", "") and not list(tmp_path.iterdir())
