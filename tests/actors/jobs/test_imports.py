from __future__ import annotations

import sys
from pathlib import Path

import pytest

from covey.actors.jobs.launchers.imports import ScriptImports, scan


def scan_files(folder: Path, /, *extra: Path, **files: str) -> ScriptImports:
    for name, text in files.items():
        path = folder / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return scan(folder / "client.py", extra)


def test_installed_modules_are_named_in_order_with_what_is_taken_from_them(tmp_path: Path) -> None:
    found = scan_files(
        tmp_path,
        client="import os, json\nimport numpy as np\nfrom msgpack import packb, ext\n"
        "from concurrent.futures import wait\nfrom numpy.linalg import *\n"
        "from covey.client.tracking import SummaryWriter\n",
    )
    assert found.third_party == (
        "numpy",
        "msgpack",
        "msgpack:packb",
        "msgpack:ext",
        "numpy.linalg",
        "covey.client.tracking",
        "covey.client.tracking:SummaryWriter",
    )
    assert found.local == (tmp_path / "client.py",)
    assert found.missing == ()


def test_imports_that_may_not_happen_are_left_out(tmp_path: Path) -> None:
    found = scan_files(
        tmp_path,
        client="""
try:
    import nowhere_1
except ImportError:
    pass
if False:
    import nowhere_2
def work():
    import nowhere_3
class Lazy:
    import nowhere_4
with open("x"):
    import msgpack
""",
    )
    assert (found.third_party, found.missing) == (("msgpack",), ())


def test_local_modules_are_followed_and_never_imported(tmp_path: Path) -> None:
    found = scan_files(
        tmp_path,
        client="import net\nfrom package import inner, missing_name\nimport client",
        net="raise SystemExit\nimport msgpack",
        **{
            "package/__init__": "from . import sibling\nfrom .deep.leaf import thing",
            "package/inner": "import numpy",
            "package/sibling": "import net",
            "package/deep/leaf": "from ..other import x\nimport greenlet",
            "package/other": "",
        },
    )
    names = {str(path.relative_to(tmp_path)) for path in found.local}
    assert names == {
        "client.py",
        "net.py",
        "package/__init__.py",
        "package/inner.py",
        "package/sibling.py",
        "package/deep/leaf.py",
        "package/other.py",
    }
    assert set(found.third_party) == {"msgpack", "numpy", "greenlet"}
    assert found.missing == ()
    assert "net" not in sys.modules


def test_a_missing_module_is_named_with_the_line_that_needs_it(tmp_path: Path) -> None:
    found = scan_files(
        tmp_path, client="import helper\nimport numpy", helper="\n\nimport nowhere.at.all"
    )
    (missing,) = found.missing
    assert (missing.module, missing.file, missing.line) == ("nowhere", tmp_path / "helper.py", 3)
    assert (
        str(missing) == f"no module named 'nowhere', imported in \"{tmp_path}/helper.py\", line 3"
    )


def test_other_folders_of_the_path_are_looked_in(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "beside.py").write_text("import msgpack")
    assert scan_files(tmp_path, client="import beside").missing[0].module == "beside"
    found = scan_files(tmp_path, other, client="import beside")
    assert found.local == (tmp_path / "client.py", other / "beside.py")
    assert found.third_party == ("msgpack",)


def test_the_users_own_code_on_the_path_is_followed_and_not_taken_as_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "project"
    (project / "mine").mkdir(parents=True)
    (project / "mine" / "__init__.py").write_text("import msgpack\nraise SystemExit")
    monkeypatch.setattr(sys, "path", [str(project), *sys.path])
    found = scan_files(tmp_path / "run", client="import mine")
    assert found.third_party == ("msgpack",)
    assert project / "mine" / "__init__.py" in found.local


def test_a_file_beside_the_script_comes_before_an_installed_module(tmp_path: Path) -> None:
    found = scan_files(tmp_path, client="import msgpack\nimport json", msgpack="", json="")
    assert found.third_party == ()
    assert len(found.local) == 3


def test_a_script_with_a_syntax_error_has_no_imports(tmp_path: Path) -> None:
    assert scan_files(tmp_path, client="import numpy\ndef (").third_party == ()


def test_a_script_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        scan(tmp_path / "client.py")
