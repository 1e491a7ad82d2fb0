import ast
import pickle
from pathlib import Path

import pytest

import hook
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
