r"""Kill a map at random moments, resume it, and compare its bytes with those of an unbroken run.

Every trial starts ``hook map`` on the scene, kills the process (SIGKILL) after a random time, goes
on with ``--resume``, perhaps to be killed again, and in the end compares every file. The options
after ``--`` are handed to ``hook map``.

    python tools/analysis_tools/kill_and_resume.py configs/hook/demo_hook.py checkpoint.pth \
        scene.tif --kills 20 --seed 0 -- --overlap 0.5 --scores probs
"""

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tqdm import tqdm

from hook.errors import HookError, reports_errors


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", help="config of the model")
    parser.add_argument("checkpoint", help="its checkpoint")
    parser.add_argument("scene", help="scene to map")
    parser.add_argument("--kills", type=int, default=20, help="number of kills (default 20)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default 0)")
    # argparse would take what follows -- for further positional arguments.
    end = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    own, options = sys.argv[1:end], sys.argv[end + 1 :]
    return parser.parse_args(own, argparse.Namespace(options=options))


def command(args: argparse.Namespace, output: Path) -> list[str]:
    """Give the command line of a run."""
    start = [sys.executable, "-m", "hook.cli", "map", args.config, args.checkpoint, args.scene]
    return [*start, str(output), "--quiet", "--resume", *args.options]


def run(args: argparse.Namespace, output: Path) -> float:
    """Run to the end; return the seconds.

    Raises:
        HookError: The run failed.
    """
    begun = time.monotonic()
    done = subprocess.run(command(args, output), capture_output=True, text=True)
    if done.returncode:
        raise HookError("hook map failed", found=done.stderr.strip().splitlines()[-8:])
    return time.monotonic() - begun


def contents(folder: Path) -> dict[str, bytes]:
    """Read all files of a folder."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@reports_errors
def main() -> None:
    args = parse_args()
    moments = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as name:
        whole, broken = Path(name) / "whole", Path(name) / "broken"
        whole.mkdir()
        seconds = run(args, whole / "map.tif")
        expected = contents(whole)
        print(f"unbroken run: {seconds:.1f} s, {len(expected)} files")
        kills = trials = 0
        with tqdm(total=args.kills, unit="kill", disable=None) as bar:
            while kills < args.kills:
                broken.mkdir()
                trials += 1
                while kills < args.kills:
                    process = subprocess.Popen(
                        command(args, broken / "map.tif"),
                        stdout=subprocess.DEVNULL,
                        stderr=subprocess.DEVNULL,
                    )
                    try:
                        process.wait(moments.uniform(0.1, 1.0) * seconds)
                        break
                    except subprocess.TimeoutExpired:
                        process.send_signal(signal.SIGKILL)
                        process.wait()
                        kills += 1
                        bar.update()
                        left = len(list(broken.glob(".*/*.done")))
                        print(f"kill {kills}: {left} blocks were finished")
                if not (broken / "map.tif").exists() or any(broken.glob(".*")):
                    run(args, broken / "map.tif")
                found = contents(broken)
                wrong = [n for n in {*expected, *found} if expected.get(n) != found.get(n)]
                if wrong:
                    raise HookError("a resumed map differs from the unbroken one", found=wrong)
                for path in broken.iterdir():
                    path.unlink()
                broken.rmdir()
        print(f"{kills} kills in {trials} maps: all files equal those of the unbroken run")


if __name__ == "__main__":
    main()
