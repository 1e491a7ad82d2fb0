"""Long jobs of a session, in threads and in processes of their own."""

import json
import subprocess
import sys
import threading
import traceback
import uuid
from collections.abc import Callable, Iterator
from typing import Any

from hook.errors import ConfigError, HookError, SceneError

Tell = Callable[[str, float], None]
"""Called with what is done and its share, from 0 to 1."""


def run_worker(tell: Tell, **job: Any) -> list[str]:
    """Run a job of :mod:`hook.explore.worker` to its end, and return the names of its files.

    PyTorch is not loaded into this process, and the job ends with it.

    Raises:
        HookError: The job failed.
    """
    with start_worker(**job) as worker:
        for answer in answers(worker):
            if "files" in answer:
                return answer["files"]
            tell(answer["message"], answer["done"])
    return []


def start_worker(**job: Any) -> subprocess.Popen:
    """Start a job of :mod:`hook.explore.worker` in a process, which ends with this one."""
    command = [sys.executable, "-m", "hook.explore.worker"]
    pipe, text = subprocess.PIPE, dict(text=True, encoding="utf-8")
    worker = subprocess.Popen(command, stdin=pipe, stdout=pipe, start_new_session=True, **text)
    worker.stdin.write(json.dumps(job) + "\n")
    worker.stdin.flush()
    return worker


def answers(worker: subprocess.Popen) -> Iterator[dict[str, Any]]:
    """Yield what a job tells.

    Raises:
        HookError: The job failed, or its process ended.
    """
    for line in worker.stdout:
        answer = json.loads(line)
        if "error" in answer:
            what, expected, found, remedy = answer["error"]
            raise SceneError(what, expected=expected, found=found, remedy=remedy)
        yield answer
    raise SceneError(
        "the process of the job ended",
        found=f"exit status {worker.wait()}",
        remedy="save again, or start 'hook explore' again; at -9 often the memory was not enough",
    )


class Jobs:
    """Jobs in threads, one at a time, whose state pages ask for.

    Args:
        publish: Called with each change of a job, a dict with ``type``.

    Attributes:
        latest: Id of the job that was started last, also by a page that was closed since.
    """

    def __init__(self, publish: Callable[[dict[str, Any]], None]) -> None:
        self._publish, self._states, self._lock = publish, {}, threading.Lock()
        self.latest: str | None = None

    def start(self, work: Callable[[Tell], list[str]]) -> str:
        """Start a function, which returns the names of the files it writes; return the job's id.

        Raises:
            ConfigError: A job is running, which writes the same files.
        """
        job = uuid.uuid4().hex
        with self._lock:
            if self.latest is not None and self.state(self.latest)["state"] == "running":
                raise ConfigError(
                    "files are being saved already",
                    expected="one job at a time",
                    found=f"{self.state(self.latest)['message']}, not finished",
                    remedy="save again when it has finished",
                )
            self._set(job, state="running", done=0.0, message="", files=[])
            self.latest = job
        threading.Thread(target=self._run, args=(job, work), daemon=True).start()
        return job

    def _run(self, job: str, work: Callable[[Tell], list[str]]) -> None:
        try:
            files = work(lambda message, done: self._set(job, message=message, done=done))
        except HookError as error:
            self._set(job, state="failed", message=str(error))
        except Exception as error:  # the page must not wait for ever
            traceback.print_exc()
            self._set(job, state="failed", message=f"{type(error).__name__}: {error}")
        else:
            self._set(job, state="finished", done=1.0, message="", files=files)

    def _set(self, job: str, **changes: Any) -> None:
        self._states[job] = {**self._states.get(job, {"job": job}), **changes}
        self._publish({"type": "job", **self._states[job]})

    def state(self, job: str) -> dict[str, Any]:
        """Return ``state``, ``done``, ``message`` and ``files`` of a job.

        Raises:
            ConfigError: There is no such job.
        """
        if job not in self._states:
            raise ConfigError("no such job", found=job, remedy="save again")
        return self._states[job]
