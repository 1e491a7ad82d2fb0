import pickle

import pytest

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
