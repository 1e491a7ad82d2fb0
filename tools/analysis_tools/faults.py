r"""Inject faults of the system into the commands, and compare what they leave with a good run.

Each trial draws a command (map, regions, vectorize, train) and a fault:

- an error (EIO, ENOSPC, EACCES) of one call of open, read, write or rename on the command's files,
  by a preloaded library that this script compiles (Linux, a C compiler);
- memory refused from some allocation on;
- a worker process of ``--cluster local``, or a Dask scheduler, killed;
- a connection closed while a scene is read over HTTP.

A command that fails must say so in words and leave no incomplete file under a final name. It is
then repeated without the fault, with ``--resume`` where it has it, and its files must have the same
bytes as those of an undisturbed run.

    python tools/analysis_tools/faults.py --trials 60 --seed 0 --log faults.jsonl
"""

import argparse
import collections
import contextlib
import dataclasses
import functools
import http.server
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import torch
from rasterio.transform import from_origin
from tqdm import tqdm

from hook.engine.profiling import prepare_output
from hook.errors import HookError, reports_errors
from hook.geo.raster import quiet_open

ROOT = Path(__file__).resolve().parents[2]
MODEL = "hook-fast-tiny_banepa-buildings"
LIMIT = 300
# Fails a numbered call on files below a folder; without FAULT_CALL, logs the calls.
LIBRARY = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

static atomic_long seen;

static int fails(const char *call, const char *path) {
    const char *wanted = getenv("FAULT_CALL"), *folder = getenv("FAULT_FOLDER");
    if (!folder || !path || !strstr(path, folder)) return 0;
    if (!wanted) {
        FILE *log = fopen(getenv("FAULT_LOG"), "a");
        if (log) { fprintf(log, "%d %s %s\n", getpid(), call, path); fclose(log); }
        return 0;
    }
    if (strcmp(call, wanted) || ++seen != atol(getenv("FAULT_NUMBER"))) return 0;
    errno = atoi(getenv("FAULT_ERRNO"));
    return 1;
}

static int fd_fails(const char *call, int fd) {
    char link[64], path[PATH_MAX];
    int kept = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, path, sizeof path - 1);
    errno = kept;
    if (size < 0) return 0;
    path[size] = 0;
    return fails(call, path);
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define OPEN(name)                                                          \
    int name(const char *path, int flags, ...) {                            \
        va_list more; va_start(more, flags);                                \
        int mode = va_arg(more, int); va_end(more);                         \
        return fails("open", path) ? -1 : NEXT(name)(path, flags, mode);    \
    }
OPEN(open)
OPEN(open64)
#define OPENAT(name)                                                        \
    int name(int at, const char *path, int flags, ...) {                    \
        va_list more; va_start(more, flags);                                \
        int mode = va_arg(more, int); va_end(more);                         \
        return fails("open", path) ? -1 : NEXT(name)(at, path, flags, mode); \
    }
OPENAT(openat)
OPENAT(openat64)
FILE *fopen64(const char *path, const char *mode) {
    return fails("open", path) ? NULL : NEXT(fopen64)(path, mode);
}
#define IO(call, name, last, arguments)                                     \
    ssize_t name last { return fd_fails(call, fd) ? -1 : NEXT(name) arguments; }
IO("read", read, (int fd, void *to, size_t size), (fd, to, size))
IO("read", pread, (int fd, void *to, size_t size, off_t at), (fd, to, size, at))
IO("read", pread64, (int fd, void *to, size_t size, off64_t at), (fd, to, size, at))
IO("write", write, (int fd, const void *from, size_t size), (fd, from, size))
IO("write", pwrite, (int fd, const void *from, size_t size, off_t at), (fd, from, size, at))
IO("write", pwrite64, (int fd, const void *from, size_t size, off64_t at), (fd, from, size, at))
IO("write", writev, (int fd, const struct iovec *from, int count), (fd, from, count))
int rename(const char *from, const char *to) {
    return fails("rename", to) ? -1 : NEXT(rename)(from, to);
}
"""
ERRORS = {"EIO": 5, "EACCES": 13, "ENOSPC": 28}
# Limits the memory once all that a command imports is loaded; its own argument comes first.
RUN = """
import os, resource, sys
if extra := os.environ.get("FAULT_MEMORY"):
    import mmseg.datasets, hook.apis.mapping, hook.apis.regions, hook.apis.training, hook.models
    import hook.datasets, hook.evaluation.accuracy, hook.visualization.hook
    lines = open("/proc/self/status").read().splitlines()
    held = next(int(line.split()[1]) for line in lines if line.startswith("VmData")) << 10
    resource.setrlimit(resource.RLIMIT_DATA, (held + int(extra),) * 2)
from hook.cli import main
from hook.errors import reports_errors
if sys.argv[1] != "train":
    main()
else:
    from hook.apis.training import train
    alone = {f"{part}_dataloader.num_workers": 0 for part in ("train", "val")}
    alone |= {f"{part}_dataloader.persistent_workers": False for part in ("train", "val")}
    reports_errors(train)(
        *sys.argv[2:5], base=sys.argv[5], chip_size=64, epochs=2, batch_size=4, num_tokens=4,
        device="cpu", cfg_options=alone, resume="--resume" in sys.argv, progress=False)
"""
COMMANDS = ("map", "regions", "vectorize", "train")
CALLS = ("open", "read", "write", "rename")


@dataclasses.dataclass
class Trial:
    """A command with a fault, and what came of it."""

    command: str
    fault: str
    scene: str | None = None
    status: int = 0
    said: str = ""
    wrong: str = ""

    def row(self) -> dict[str, object]:
        """Return a row of the log."""
        words = self.said.strip().splitlines()
        words = next((line for line in words if line.startswith("error")), (words or [""])[-1])
        row = dict(command=self.command, fault=self.fault, status=self.status)
        return row | dict(said=words[:200], outcome=self.wrong or "ok")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=60, help="number of faults (default 60)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the faults (default 0)")
    parser.add_argument(
        "--commands", nargs="+", choices=COMMANDS, default=COMMANDS, help="default: all"
    )
    parser.add_argument("--log", help="JSON lines of all trials; those that went well are kept")
    return parser.parse_args()


class Bench:
    """Runs the commands on one small scene, with and without faults.

    Args:
        folder: Folder for all files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.library = folder / "faults.so"
        source = folder / "faults.c"
        source.write_text(LIBRARY)
        build = [*"cc -shared -fPIC -O1 -w -o".split(), self.library, source, "-ldl"]
        try:
            subprocess.run(build, check=True, capture_output=True, text=True)
        except (OSError, subprocess.CalledProcessError) as error:
            found = getattr(error, "stderr", None) or error
            raise HookError(
                "the fault library cannot be compiled",
                found=found,
                remedy="use Linux with a C compiler 'cc'",
            ) from None
        rng = np.random.default_rng(0)
        classes = rng.integers(0, 2, (1, 12, 12)).repeat(24, 1).repeat(24, 2).astype(np.uint8)
        image = (classes * 90 + rng.integers(30, 120, (3, 288, 288))).astype(np.uint8)
        place = dict(crs="EPSG:32645", transform=from_origin(350_000, 3_050_000, 0.15, 0.15))
        place |= dict(driver="GTiff", dtype="uint8", compress="deflate", width=288, height=288)
        place |= dict(tiled=True, blockxsize=64, blockysize=64)
        (folder / "in").mkdir()
        for name, values in (("scene", image), ("mask", classes)):
            place["count"] = len(values)
            with quiet_open(folder / "in" / f"{name}.tif", "w", **place) as file:
                file.write(values)
        handler = functools.partial(Server, directory=str(folder / "in"))
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"/vsicurl/http://127.0.0.1:{self.server.server_port}/scene.tif"
        self.complete = functools.cache(self.complete)

    def arguments(self, command: str, out: Path, scene: str | None = None) -> list[str]:
        """Return the arguments of a command that writes into a folder."""
        scene, mask = scene or str(self.folder / "in/scene.tif"), str(self.folder / "in/mask.tif")
        if command == "vectorize":
            return [command, mask, str(out / "polygons.gpkg"), "--quiet"]
        if command == "train":
            base = ROOT / "configs/hook/hook-fast-tiny_banepa-256.py"
            return [command, scene, mask, str(out / "run"), str(base)]
        output = out / ("map.tif" if command == "map" else "regions.parquet")
        more = ["--scores", "probs", "--vectors", str(out / "map.gpkg")] * (command == "map")
        start = [command, "--model", MODEL, scene, str(output), "--window", "64"]
        return [*start, "--overlap", "0.25", "--threads", "1", "--quiet", *more]

    def start(self, arguments: list[str], **environment: object) -> subprocess.Popen:
        """Start a command in a process group of its own."""
        settings = dict(OMP_NUM_THREADS="1", PYTHONDONTWRITEBYTECODE="1", PYTHONPATH=str(ROOT))
        settings |= dict(CPL_VSIL_CURL_CHUNK_SIZE="4096", VSI_CACHE="NO", GDAL_HTTP_TIMEOUT="20")
        settings |= {name: str(value) for name, value in environment.items()}
        if "FAULT_FOLDER" in settings:
            settings["LD_PRELOAD"] = str(self.library)
        return subprocess.Popen(
            [sys.executable, "-c", RUN, *arguments],
            env=os.environ | settings,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def wait(self, process: subprocess.Popen, trial: Trial) -> None:
        """Wait for a command and note how it ended."""
        try:
            trial.said = process.communicate(timeout=LIMIT)[1]
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            trial.wrong = f"more than {LIMIT} s"
        trial.status = process.returncode

    def complete(self, command: str, scene: str | None = None) -> tuple[dict, dict]:
        """Run a command without a fault.

        Returns:
            The contents of its files, and the number of its calls by name and folder.
        """
        out, calls = self.folder / "out", self.folder / "calls.txt"
        out.mkdir()
        calls.write_text("")
        trial, Server.left = Trial(command, "none"), sys.maxsize
        process = self.start(
            self.arguments(command, out, scene), FAULT_FOLDER=self.folder, FAULT_LOG=calls
        )
        self.wait(process, trial)
        if trial.status or trial.wrong:
            raise HookError(f"{command} fails without a fault", found=trial.said[-2000:])
        counts = collections.Counter()
        for line in calls.read_text().splitlines():
            process, call, path = line.split(" ", 2)
            area = Path(path).relative_to(self.folder).parts[0]
            counts[call, area, process] += 1
        most = {}  # of the processes of the command
        for (call, area, _), count in counts.items():
            if area in ("in", "out"):
                most[call, area] = max(count, most.get((call, area), 0))
        found = contents(out)
        shutil.rmtree(out)
        return found, most

    def judge(self, trial: Trial, out: Path) -> None:
        """Check what a disturbed command said and left, then repeat it without the fault."""
        found, (good, _) = contents(out), self.complete(trial.command, trial.scene)
        failed = trial.status != 0
        if "Traceback (most recent call last)" in trial.said:
            trial.wrong = trial.wrong or "a traceback"
        elif failed and "error: " not in trial.said and "Out of memory" not in trial.said:
            # Arrow says the latter and aborts.
            trial.wrong = trial.wrong or "failed without a word"
        if wrong := different(good, found, partly=failed):
            trial.wrong = trial.wrong or f"left {wrong}"
        if failed and found.keys() != good.keys():
            arguments = self.arguments(trial.command, out, trial.scene)
            again, Server.left = Trial(trial.command, "none"), sys.maxsize
            arguments += ["--overwrite"] if trial.command == "vectorize" else ["--resume"]
            self.wait(self.start(arguments), again)
            wrong = different(good, contents(out))
            if again.status or wrong:
                said = again.said.strip().splitlines()[-1:]
                trial.wrong = trial.wrong or f"repeated: {wrong or said}"
        shutil.rmtree(out)


def contents(folder: Path) -> dict[str, object]:
    """Read the final files of a folder: bytes, or the weights of a checkpoint."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.name == "checkpoint.pth":
            weights = torch.load(path, weights_only=True)["state_dict"]
            found[str(name)] = {key: value.numpy().tobytes() for key, value in weights.items()}
        elif path.is_file() and name.parts[0] != "run" and not path.name.startswith("."):
            hidden = any(part.startswith(".") for part in name.parts)
            found |= {} if hidden else {str(name): path.read_bytes()}
    return found


def different(good: dict, found: dict, partly: bool = False) -> str:
    """Name files that differ from the good ones; with ``partly`` some may be missing."""
    names = found if partly else {*good, *found}
    wrong = {name for name in names if good.get(name) != found.get(name)}
    if partly and "map.json" in wrong:  # of a map whose polygons could not be written
        links = [each["href"] for each in json.loads(found["map.json"])["assets"].values()]
        if {link[2:] for link in links if link.startswith("./")} <= found.keys():
            wrong.remove("map.json")
    return ", ".join(sorted(wrong))


def call_fails(bench: Bench, rng: random.Random, command: str, out: Path) -> Trial:
    """Fail one call on the command's own files."""
    _, counts = bench.complete(command)
    wanted, error = rng.choice(CALLS), rng.choice(tuple(ERRORS))
    (call, area), count = rng.choice(
        [item for item in sorted(counts.items()) if item[0][0] == wanted]
    )
    number = rng.randint(1, count)
    trial = Trial(command, f"{error} of {call} in {area}/ number {number} of {count}")
    folder = bench.folder / area if area == "in" else out
    fault = dict(FAULT_CALL=call, FAULT_FOLDER=folder, FAULT_NUMBER=number)
    arguments = bench.arguments(command, out)
    bench.wait(bench.start(arguments, **fault, FAULT_ERRNO=ERRORS[error]), trial)
    return trial


def memory_refused(bench: Bench, rng: random.Random, command: str, out: Path) -> Trial:
    """Allow less memory than the command needs."""
    megabytes = rng.choice((2, 8, 20, 40, 80))
    trial = Trial(command, f"{megabytes} MiB of memory")
    bench.wait(bench.start(bench.arguments(command, out), FAULT_MEMORY=megabytes << 20), trial)
    return trial


def worker_killed(bench: Bench, rng: random.Random, command: str, out: Path) -> Trial:
    """Kill one process of a local cluster, or the command itself without one."""
    distributed = command in ("map", "regions")
    arguments = bench.arguments(command, out) + ["--cluster", "local"] * distributed
    process = bench.start(arguments)
    time.sleep(rng.uniform(2, 12))
    group = subprocess.run(["pgrep", "-g", str(process.pid)], capture_output=True, text=True)
    workers = [int(line) for line in group.stdout.split() if int(line) != process.pid]
    killed = rng.choice(workers) if distributed and workers else process.pid
    trial = Trial(command, "a worker killed" if killed != process.pid else "killed")
    with contextlib.suppress(ProcessLookupError):
        os.kill(killed, signal.SIGKILL)
    bench.wait(process, trial)
    if killed == process.pid:
        trial.said += "error: killed"  # by us, so it could not say a word
    return trial


def scheduler_gone(bench: Bench, rng: random.Random, command: str, out: Path) -> Trial:
    """Kill the Dask scheduler of a command."""
    trial = Trial(command, "scheduler killed")
    address_file = bench.folder / "scheduler.json"
    address_file.unlink(missing_ok=True)
    start = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    tool = [sys.executable, "-m", "distributed.cli.dask_scheduler"]
    options = ["--port", "0", "--no-dashboard", "--scheduler-file", str(address_file)]
    scheduler = subprocess.Popen([*tool, *options], **start)
    worker = [sys.executable, "-m", "distributed.cli.dask_worker"]
    options = ["--scheduler-file", str(address_file), "--nthreads", "1", "--no-dashboard"]
    workers = subprocess.Popen([*worker, *options], cwd=bench.folder, **start)
    while not address_file.exists():
        time.sleep(0.1)
    address = json.loads(address_file.read_text())["address"]
    process = bench.start([*bench.arguments(command, out), "--cluster", address])
    time.sleep(rng.uniform(3, 10))
    os.killpg(scheduler.pid, signal.SIGKILL)
    bench.wait(process, trial)
    os.killpg(workers.pid, signal.SIGKILL)
    return trial


class Server(http.server.SimpleHTTPRequestHandler):
    """Serves byte ranges, and closes connections without an answer after some requests."""

    left = 0

    def do_GET(self) -> None:
        """Answer a request for a range of a file."""
        Server.left -= 1
        if Server.left < 0:
            self.close_connection = True
            self.connection.shutdown(2)
            return
        data = Path(self.translate_path(self.path)).read_bytes()
        first, _, last = self.headers.get("Range", f"bytes=0-{len(data)}")[6:].partition("-")
        part = data[int(first) : int(last or len(data)) + 1]
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{int(first) + len(part) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part)

    def log_message(self, *_) -> None:
        """Log nothing."""


def connection_closed(bench: Bench, rng: random.Random, command: str, out: Path) -> Trial:
    """Read the scene over HTTP from a server that stops answering."""
    bench.complete(command, bench.url)
    Server.left = rng.randint(1, 6)
    trial = Trial(command, f"connection closed after {Server.left} requests", bench.url)
    bench.wait(bench.start(bench.arguments(command, out, bench.url)), trial)
    return trial


@reports_errors
def main() -> None:
    args = parse_args()
    prepare_output(args, "log")
    rows = {}
    if args.log and Path(args.log).exists():
        lines = map(json.loads, Path(args.log).read_text().splitlines())
        rows = {row["number"]: row for row in lines if row["outcome"] == "ok"}
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(Path(name))
        todo = [number for number in range(args.trials) if number not in rows]
        for number in tqdm(todo, "faults", disable=None):
            rng = random.Random(f"{args.seed} {number}")
            fault = rng.choice((call_fails,) * 5 + (memory_refused, worker_killed))
            command = rng.choice(args.commands)
            if command in ("map", "regions") and rng.random() < 0.2:
                fault = rng.choice((connection_closed, scheduler_gone))
            (out := Path(name) / f"trial{number}").mkdir()
            trial = fault(bench, rng, command, out)
            bench.judge(trial, out)
            rows[number] = dict(number=number) | trial.row()
            print(json.dumps(rows[number]), flush=True)
            if args.log:
                lines = [json.dumps(rows[number]) for number in sorted(rows)]
                Path(args.log).write_text("\n".join(lines) + "\n")
    wrong = sum(row["outcome"] != "ok" for row in rows.values())
    print(f"{len(rows)} faults, {wrong} with a wrong end")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
