r"""Kill ``hook map`` at random times, resume it, and compare its files with an uninterrupted run.

With ``--command``, it is ``hook encode`` of a scene or ``hook decode`` of its codes. Every trial
starts the command, kills it (SIGKILL) after a random time, resumes it with
``--resume``, possibly several times, and compares every file. Options after ``--`` are passed on.

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
    parser.add_argument("checkpoint", help="checkpoint of the model")
    parser.add_argument("scene", help="scene to map or code, or codes to decode")
    parser.add_argument("--command", choices=("map", "encode", "decode"), default="map")
    parser.add_argument("--kills", type=int, default=20, help="number of kills (default 20)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the times (default 0)")
    # argparse would parse what follows -- as further positional arguments.
    end = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    options = argparse.Namespace(options=sys.argv[end + 1 :])
    return parser.parse_args(sys.argv[1:end], options)


def command(args: argparse.Namespace, output: Path) -> list[str]:
    """Return the command line of a run."""
    words = [args.config, args.checkpoint, args.scene, str(output)]
    if args.command == "decode":
        words = [*words[2:], "--model", args.config, "--checkpoint", args.checkpoint]
    start = [sys.executable, "-m", "hook.cli", args.command]
    return [*start, *words, "--quiet", "--resume", *args.options]


def run(args: argparse.Namespace, output: Path) -> float:
    """Run to the end and return the duration in seconds; raise HookError if the run fails."""
    start = time.monotonic()
    done = subprocess.run(command(args, output), capture_output=True, text=True)
    if done.returncode:
        raise HookError(f"hook {args.command} failed", found=done.stderr.strip().splitlines()[-8:])
    return time.monotonic() - start


def contents(folder: Path) -> dict[str, bytes]:
    """Read all files of a folder."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@reports_errors
def main() -> None:
    args = parse_args()
    times = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as name:
        complete, killed = Path(name) / "complete", Path(name) / "killed"
        complete.mkdir()
        seconds = run(args, complete / "map.tif")
        expected = contents(complete)
        print(f"uninterrupted run: {seconds:.1f} s, {len(expected)} files")
        kills = trials = 0
        with tqdm(total=args.kills, unit="kill", disable=None) as bar:
            while kills < args.kills:
                killed.mkdir()
                trials += 1
                while kills < args.kills:
                    quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                    process = subprocess.Popen(command(args, killed / "map.tif"), **quiet)
                    try:
                        process.wait(times.uniform(0.1, 1.0) * seconds)
                        break
                    except subprocess.TimeoutExpired:
                        process.send_signal(signal.SIGKILL)
                        process.wait()
                        kills += 1
                        bar.update()
                        done = len(list(killed.glob(".*/*.done")))
                        print(f"kill {kills}: {done} blocks were finished")
                if not (killed / "map.tif").exists() or any(killed.glob(".*")):
                    run(args, killed / "map.tif")
                found = contents(killed)
                wrong = [n for n in {*expected, *found} if expected.get(n) != found.get(n)]
                if wrong:
                    raise HookError(
                        "a resumed file differs from the uninterrupted one", found=wrong
                    )
                for path in killed.iterdir():
                    path.unlink()
                killed.rmdir()
        print(f"{kills} kills in {trials} runs: all files equal the uninterrupted run")


if __name__ == "__main__":
    main()
