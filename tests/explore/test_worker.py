"""A job in a process of its own, which ends with its parent, or before its time."""

import json
import subprocess
import sys

import pytest

from hook.errors import SceneError
from hook.explore.jobs import answers, start_worker

CODE = """
import signal
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
signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in the background of a shell
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


def test_a_killed_job_is_told_of():
    with start_worker(job="draw") as worker:
        worker.kill()
        with pytest.raises(SceneError, match="process of the job ended") as told:
            list(answers(worker))
    assert told.value.found == "exit status -9" and "hook explore" in told.value.remedy
