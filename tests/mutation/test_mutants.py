"""Every operator makes the changes it should, and what nothing depends on is left alone."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from .mutants import mutants_of
from .results import FileResult, Survivor, equivalents, page
from .scope import SCOPE
from .workshop import COPIED

ROOT = Path(__file__).resolve().parents[2]


def changes(source: str) -> list[str]:
    """The changed lines of each mutant."""
    return [mutant.after for mutant in mutants_of(source.encode())]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("x = a < b", ["x = a <= b", "x = a >= b"]),
        ("x = a is not b", ["x = a is b"]),
        ("x = a not in b", ["x = a in b"]),
        ("x = a < b < c", ["x = a <= b < c", "x = a >= b < c", "x = a < b <= c", "x = a < b >= c"]),
        ("x = a + b", ["x = a - b"]),
        ("x = a // (b)", ["x = a * (b)"]),
        ("x += y", ["pass", "x -= y"]),
        ("x = a and b or c", ["x = a or b or c", "x = a and b and c"]),
        ("x = not a", ["x = a"]),
        ("x = -a", ["x = a"]),
        ("x = min(a, b)", ["x = max(a, b)"]),
        ("x = 1", ["x = 2"]),
        ("x = True", ["x = False"]),
        ("x = 'a'", ["x = 'XXa'"]),
        ("x = b''", ["x = b'XX'"]),
        ("x = a if b else c", ["x = a if (not (b)) else c"]),
        ("x = [a for a in b if c(a)]", ["x = [a for a in b if (not (c(a)))]"]),
        ("call(a)", ["pass"]),
        ("x.y = a", ["pass"]),
        ("del x", ["pass"]),
        ("raise E('text')", ["pass"]),
        ("def f(a=1): return a", ["def f(a=2): return a", "def f(a=1): return None"]),
        ("def f():\n    return", ["pass"]),
        ("def f():\n    return False", ["return True"]),
        ("while a:\n    break", ["while (not (a)):", "continue"]),
        ("for a in b:\n    continue", ["break"]),
        ("try: pass\nexcept E: x = y", ["except E: raise"]),
        ("match x:\n    case y if z: pass", ["case y if (not (z)): pass"]),
    ],
)  # fmt: skip
def test_an_operator_changes(source: str, expected: list[str]) -> None:
    assert changes(source) == expected


@pytest.mark.parametrize(
    "source",
    [
        '"""A docstring."""',
        "x: Literal['a'] = y",
        "X = Literal['a', 'b']",
        "def f(a: int | None) -> dict[str, 'X']: pass",
        "@decorated(frozen=True)\nclass C: pass",
        "__slots__ = ('a', 'b')",
        "if TYPE_CHECKING:\n    call(1 + 2)",
        "x = f'{a + 1} text'",
        "x = cast('X', y)",
        "class C:\n    def __init__(self) -> None:\n        self.x = y",
        "x = None",
    ],
)
def test_what_nothing_depends_on_is_left_alone(source: str) -> None:
    assert changes(source) == []


def test_a_mutant_says_where_it_is_and_which_of_several() -> None:
    source = "class C:\n    def f(self):\n        g()\n        g()\n"
    first, second = mutants_of(source.encode())
    assert (first.scope, first.line, first.key) == ("C.f", 3, ("C.f", "g()", "pass", 1))
    assert (second.line, second.nth) == (4, 2)
    assert second.source == source.encode().replace(b"g()\n        g()", b"g()\n        pass")


def test_places_are_found_behind_letters_of_several_bytes() -> None:
    assert changes("x = 'é'; y = a < b")[1] == "x = 'é'; y = a <= b"


@pytest.mark.parametrize("path", SCOPE)
def test_every_mutant_is_python_and_every_listed_equivalent_is_one(path: str) -> None:
    mutants = mutants_of((ROOT / path).read_bytes())
    for mutant in mutants:
        ast.parse(mutant.source)
    assert equivalents(path).keys() - {mutant.key for mutant in mutants} == set()


@pytest.mark.parametrize("path", SCOPE)
def test_every_test_file_is_there(path: str) -> None:
    assert [test for test in SCOPE[path] if not (ROOT / test).is_file()] == []


def test_equivalents_count_as_survivors_in_one_figure_and_not_in_the_other() -> None:
    survivors = [Survivor("f", 1, "a", "b"), Survivor("g", 2, "c", "d", why="the same")]
    result = FileResult(7, 1, survivors, tests=3, seconds=60.0, commit="abc")
    assert (result.percent, round(result.percent_of_others, 1)) == (80.0, 88.9)
    row = "| it | 10 | 7 | 1 | 1 | 1 | 80.0 % | 88.9 % | 3 | 1.0 min | abc |"
    assert row in page({"it": result})


PROGRAM = """
import sys
from pathlib import Path
from tests.mutation.workshop import Limits, Workshop

workshop = Workshop(Path(sys.argv[1]), Path(sys.argv[2]))
for change in ("1", "2", "spin()", "1/0", "leave()"):
    source = f"import os\\ndef spin():\\n    while True: pass\\n"
    source += f"def leave(): os._exit(0)\\ndef one(): return {change}\\n"
    outcome = workshop.test("actors/it.py", source.encode(), ["tests/test_it.py"], Limits(2.0))
    print(outcome.verdict, outcome.by, outcome.count)
"""


def test_a_change_is_noticed_by_failing_by_hanging_by_dying_or_not(tmp_path: Path) -> None:
    root, folder = tmp_path / "root", tmp_path / "folder"
    root.mkdir()
    folder.mkdir()
    for name in (*COPIED, ".links/covey"):
        (root / name).mkdir(exist_ok=True)
    (root / ".links/covey/actors").symlink_to("../../actors")
    (root / "actors/it.py").write_text("def one(): return 1\n")
    test = "from covey.actors.it import one\ndef test_it(): assert one() == 1\n"
    (root / "tests/test_it.py").write_text(test)
    settings = '[tool.pytest.ini_options]\naddopts = ["--import-mode=importlib"]\n'
    (root / "pyproject.toml").write_text(settings + 'markers = ["soak: long"]\n')
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(root), str(folder)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    it = "tests/test_it.py::test_it"
    assert done.stdout.splitlines() == [
        "survived  1",
        f"killed {it} 1",
        f"timeout {it} 0",
        f"killed {it} 1",
        "killed the process died 0",
    ], done.stderr
    assert (root / "actors/it.py").read_text() == "def one(): return 1\n"
