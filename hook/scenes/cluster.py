"""Processing blocks of a scene on several processes, GPUs or machines with Dask."""

import contextlib
import dataclasses
import itertools
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rasterio

from hook.errors import SceneError
from hook.scenes.blocks import Block
from hook.scenes.journal import Journal
from hook.scenes.pipeline import Job, RunBlocks, Scene, WindowPlan, move_windows

if TYPE_CHECKING:
    from distributed import Client

MakePredict = Callable[[str | None], Callable]
"""Creates the function of windows on a device; must be picklable."""


_PREDICTORS: dict[str, Callable] = {}  # loaded in this worker process
_DEATHS_ALLOWED = 5  # workers that die on a block before the run fails


@contextlib.contextmanager
def connect(address: str, workers: int = 2, threads: int = 1) -> Iterator["Client"]:
    """Start workers on this machine, or connect to a Dask scheduler.

    Args:
        address: ``"local"``, or the address of a scheduler such as ``tcp://10.0.0.1:8786``.
        workers: Number of processes that ``"local"`` starts.
        threads: CPU threads of each of these.

    Raises:
        SceneError: ``distributed`` is not installed, or no scheduler answers.
    """
    try:
        import distributed
    except ImportError:
        raise SceneError(
            "several workers need Dask",
            expected="the package distributed",
            found="not installed",
            remedy="pip install 'hook-rs[cluster]'",
        ) from None
    with contextlib.ExitStack() as stack:
        settings = {
            "distributed.scheduler.allowed-failures": _DEATHS_ALLOWED,
            "distributed.comm.retry.count": 3,
            "distributed.admin.low-level-log-length": 0,
            # It interrupts the threads of a worker a hundred times a second.
            "distributed.worker.profile.enabled": False,
        }
        import dask
        from dask.system import CPU_COUNT

        # Dask's own variables make malloc return memory to the system at once: nearly half of the
        # time would be spent on getting it again. PyTorch's number of threads holds in the thread
        # that sets it; this one, in all.
        variables: dict[str, Any] = {"OMP_NUM_THREADS": threads}
        if workers * threads > CPU_COUNT:
            # Waiting threads must not take the cores of others by spinning. Where each thread has
            # a core they do, for a moment: waking them takes longer than many operations.
            variables["OMP_WAIT_POLICY"] = "PASSIVE"
        settings["distributed.nanny.pre-spawn-environ"] = variables
        stack.enter_context(dask.config.set(settings))
        if address == "local":
            target: Any = stack.enter_context(
                distributed.LocalCluster(
                    n_workers=workers,
                    threads_per_worker=1,
                    dashboard_address=None,
                    host="127.0.0.1",
                    memory_limit=0,
                    silence_logs=50,
                )
            )
        else:
            target = address
        try:
            client = stack.enter_context(distributed.Client(target, timeout="20s"))
        except (OSError, ValueError) as error:
            raise SceneError(
                f"cluster {address}: no Dask scheduler answers",
                expected="'local', or an address such as tcp://10.0.0.1:8786",
                found=error,
                remedy="start one with 'dask scheduler', and workers with 'dask worker'",
            ) from None
        yield client


def load_on_workers(
    client: "Client", make_predict: MakePredict, key: str, devices: Sequence[str] | None = None
) -> None:
    """Load the model on the workers of a local cluster, before blocks are distributed.

    A worker that replaces one which dies meanwhile loads it with its first block. Arguments are
    those of :func:`on_cluster`.
    """
    from distributed.comm import CommClosedError

    with contextlib.suppress(CommClosedError):
        client.run(_load_numbered, make_predict, key, devices)


def on_cluster(
    client: "Client",
    make_predict: MakePredict,
    key: str,
    devices: Sequence[str] | None = None,
) -> RunBlocks:
    """Return a function that runs blocks on the workers of a cluster.

    Each worker loads the model once. Blocks of a lost worker run again on a different one. Workers
    and the caller must share the folders of input and output under the same names.

    Args:
        client: Of the cluster.
        make_predict: Creates the model of a worker.
        key: Name of the model, for caching in the workers.
        devices: Devices of the workers of a machine, in order; None leaves it to ``make_predict``.
    """

    def run(
        job: Job,
        scene: Scene,
        plan: WindowPlan,
        blocks: Sequence[Block],
        journal: Journal,
        report: Callable[[int], None],
    ) -> None:
        from distributed import as_completed

        folder = journal.folder.absolute()
        scene = dataclasses.replace(
            scene, paths=tuple(os.path.abspath(p) if os.path.exists(p) else p for p in scene.paths)
        )
        shared = (make_predict, scene, plan, key, devices, folder, job)
        # The last block may be the largest, and would be worked on alone at the end.
        order = sorted(blocks, key=lambda block: block.first - block.last)
        futures = [client.submit(_run_block, *shared, block.index, pure=False) for block in order]
        try:
            for future in as_completed(futures):
                index = _result(future)
                if job.join is not None:
                    job.join(journal, plan, index)
                report(len(plan.blocks[index].windows(plan.grid)))
        finally:
            client.cancel(futures)

    return run


def _result(future) -> int:
    from distributed import KilledWorker

    try:
        return future.result()
    except KilledWorker as error:
        raise SceneError(
            "workers died on a block of the scene",
            expected="workers that stay alive",
            found=str(error).splitlines()[0],
            remedy="check the logs of the workers; use more memory or smaller batches",
        ) from None


def _run_block(
    make_predict: MakePredict,
    scene: Scene,
    plan: WindowPlan,
    key: str,
    devices: Sequence[str] | None,
    folder: Path,
    job: Job,
    index: int,
) -> int:
    """Process a block in a worker; return its index."""
    if not folder.is_dir():
        raise SceneError(
            f"{folder}: not accessible to a worker",
            expected="a disk shared by all workers",
            remedy="write the output to one",
        )
    if key not in _PREDICTORS:
        _PREDICTORS.clear()
        device = devices and devices[_number_of_worker(folder) % len(devices)]
        _PREDICTORS[key] = make_predict(device)
    with scene.open() as reader, rasterio.Env(GDAL_CACHEMAX=job.cache_bytes(reader, plan)):
        blocks, journal = [plan.blocks[index]], Journal.join(folder)
        move_windows(job, _PREDICTORS[key], reader, plan, blocks, journal, _ignore)
    return index


def _load_numbered(
    make_predict: MakePredict, key: str, devices: Sequence[str] | None, dask_worker: Any
) -> None:
    """Load the model in a worker of a local cluster, which is named by its number."""
    _PREDICTORS.clear()
    _PREDICTORS[key] = make_predict(devices and devices[int(dask_worker.name) % len(devices)])


def _ignore(windows: int) -> None:
    """Report nothing: the caller counts blocks."""


def _number_of_worker(folder: Path) -> int:
    """Return the number of this worker on its machine.

    Workers of a local cluster are named by numbers; others create the next free file of their
    machine in the folder of the unfinished map.
    """
    from distributed import get_worker

    name = str(get_worker().name)
    if name.isdigit():
        return int(name)
    machine = socket.gethostname()
    for number in itertools.count():
        try:
            (folder / f"{machine}.{number}.worker").touch(exist_ok=False)
        except FileExistsError:
            continue
        return number
