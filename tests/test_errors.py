import ast
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import hook
from hook import errors
from hook.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    HookError,
    SceneError,
    reports_errors,
)


def test_message_names_all_four():
    error = DataError("a.tif has wrong bands", expected=3, found=4, remedy="choose three")
    assert str(error) == (
        "a.tif has wrong bands\n  expected: 3\n  found: 4\n  remedy: choose three"
    )


def test_what_is_unknown_is_left_out():
    assert str(ConfigError("wrong")) == "wrong"


@pytest.mark.parametrize("kind", [CheckpointError, ConfigError, DataError, SceneError])
def test_kinds_travel_between_processes(kind):
    error = pickle.loads(pickle.dumps(kind("a", expected=1, found=2, remedy="b")))
    assert type(error) is kind
    assert isinstance(error, HookError)
    assert str(error) == "a\n  expected: 1\n  found: 2\n  remedy: b"


def test_commands_end_with_the_message(capsys):
    @reports_errors
    def main():
        raise SceneError("scene.tif is empty", remedy="take another")

    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 1
    assert capsys.readouterr().err == "error: scene.tif is empty\n  remedy: take another\n"


def test_defects_keep_their_traceback():
    @reports_errors
    def main():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        main()


def _end(capsys, raised):
    @reports_errors
    def main():
        raised()

    with pytest.raises(SystemExit) as end:
        main()
    return end.value.code, capsys.readouterr().err.splitlines()


def test_interruption_ends_in_one_line_with_what_is_kept(capsys):
    def interrupted():
        error = KeyboardInterrupt()
        error.add_note("map.tif: finished parts are kept")
        raise error

    assert _end(capsys, interrupted) == (130, ["interrupted; map.tif: finished parts are kept"])


def test_interruption_that_a_library_caught_is_one(capsys):
    def interrupted():
        try:
            raise KeyboardInterrupt
        except:  # noqa: E722
            raise SyntaxError("failed to format") from None

    assert _end(capsys, interrupted) == (130, ["interrupted"])


def test_sigterm_cleans_up_and_ends_with_143(capsys, tmp_path):
    before = signal.getsignal(signal.SIGTERM)

    def terminated():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        finally:
            (tmp_path / "cleaned").touch()

    assert _end(capsys, terminated) == (143, ["terminated"])
    assert (tmp_path / "cleaned").exists()
    assert signal.getsignal(signal.SIGTERM) is before


def _allocate():
    torch.empty(1 << 50)


@pytest.mark.parametrize(
    ("raised", "words"),
    [
        (lambda: os.mkdir("/proc/none/here"), "/proc/none/here: cannot be read or written"),
        (lambda: Path("x" * 300).touch(), "cannot be read or written"),
        (lambda: Path("/dev/full").write_text("x"), "a file: cannot be read or written"),
        (_allocate, "not enough memory"),
        (lambda: bytearray(1 << 60), "not enough memory"),
    ],
)
def test_errors_of_the_operating_system_are_reported(capsys, raised, words):
    status, lines = _end(capsys, raised)
    assert status == 1
    assert lines[0].startswith("error: ") and words in lines[0]
    assert any(line.startswith("  remedy: ") for line in lines)


@pytest.mark.parametrize(
    "broken",
    [
        lambda: open(Path(errors.__file__).parent / "absent.json"),
        lambda: os.fstat(1 << 20),
    ],
)
def test_files_that_the_package_lacks_are_a_defect(broken):
    with pytest.raises(OSError):
        reports_errors(broken)()


@pytest.mark.parametrize(
    ("redirection", "status"), [("| head -c 1", 141), (">&-", 0), ("> /dev/full", 1)]
)
def test_standard_output_that_ends_early(redirection, status):
    code = "from hook.errors import *; print_all = reports_errors(lambda: print('x\u00e4' * 99999))"
    command = f'PYTHONIOENCODING=ascii "$0" -c "$1; print_all()" {redirection}; '
    command += 'echo "${PIPESTATUS[0]}"'
    done = subprocess.run(
        ["bash", "-c", command, sys.executable, code], capture_output=True, text=True, timeout=60
    )
    assert done.stdout.split()[-1][-3:].lstrip("x") == str(status)
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr


KINDS = {kind.__name__ for kind in (CheckpointError, ConfigError, DataError, SceneError)}


def _errors_of(path):
    """Give the calls of a module that make one of HOOK's errors."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "id", getattr(node.func, "attr", None))
            if name in KINDS:
                yield node


def test_every_error_says_what_to_do():
    package = Path(hook.__file__).parent
    count, without = 0, []
    for path in sorted(package.rglob("*.py")):
        for call in _errors_of(path):
            count += 1
            if not {"remedy", None} & {keyword.arg for keyword in call.keywords}:
                without.append(f"{path.relative_to(package)}:{call.lineno}")
    assert count > 400
    assert not without, "errors without a remedy: " + ", ".join(without)
