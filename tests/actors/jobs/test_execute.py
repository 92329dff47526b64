from __future__ import annotations

import sysconfig
from pathlib import Path

import pytest

from covey.actors.jobs.launchers.execute import describe, execute, is_own, main_module
from covey.client.messages import Failed


def failure_of(script: Path) -> Failed:
    with pytest.raises(BaseException) as caught:  # noqa: PT011 (whatever a script may raise)
        execute(str(script), main_module(str(script)))
    return describe(caught.value, str(script))


def test_a_file_runs_as_main(tmp_path: Path) -> None:
    script = tmp_path / "client.py"
    script.write_text("assert __name__ == '__main__'\nclass A: pass\nname = A.__module__\n")
    module = main_module(str(script))
    execute(str(script), module)
    assert module.__dict__["name"] == "__main__"
    assert module.__dict__["__file__"] == str(script)


def test_the_deepest_frame_of_the_users_own_is_told(tmp_path: Path) -> None:
    script = tmp_path / "client.py"
    script.write_text("import json\ndef load():\n    return json.loads('{')\nload()\n")
    failed = failure_of(script)
    assert (failed.kind, failed.line) == ("JSONDecodeError", 3)
    assert failed.source_line == "return json.loads('{')"
    assert failed.traceback.splitlines()[1] == f'  File "{script}", line 4, in <module>'
    assert "execute.py" not in failed.traceback


def test_a_syntax_error_is_told_by_its_own_line(tmp_path: Path) -> None:
    script = tmp_path / "client.py"
    script.write_text("x = 1\ny = (\n")
    failed = failure_of(script)
    assert (failed.kind, failed.file, failed.line) == ("SyntaxError", str(script), 2)


def test_a_script_that_is_not_there_has_no_line(tmp_path: Path) -> None:
    failed = failure_of(tmp_path / "client.py")
    assert (failed.kind, failed.file, failed.line) == ("FileNotFoundError", "", 0)


def test_an_exception_that_cannot_be_told_is_told_all_the_same(tmp_path: Path) -> None:
    script = tmp_path / "client.py"
    script.write_text(
        "class Bad(Exception):\n    def __str__(self):\n        raise ValueError\nraise Bad\n"
    )
    assert failure_of(script).text == "<its text failed: ValueError>"


def test_long_texts_are_cut_to_what_a_message_takes(tmp_path: Path) -> None:
    script = tmp_path / "client.py"
    script.write_text("raise ValueError('x' * 1_000_000)\n")
    failed = failure_of(script)
    assert len(failed.text) < 10_000
    assert len(failed.traceback) < 50_000


def test_what_is_installed_below_the_script_is_not_the_users_own(tmp_path: Path) -> None:
    script = str(tmp_path / "client.py")
    assert is_own(script, script)
    assert is_own(str(tmp_path / "deep" / "net.py"), script)
    assert not is_own(str(tmp_path / ".venv/lib/site-packages/net.py"), script)
    assert not is_own("/elsewhere/net.py", script)
    assert not is_own("<string>", script)
    assert not is_own(sysconfig.get_path("stdlib") + "/json/__init__.py", "/client.py")
