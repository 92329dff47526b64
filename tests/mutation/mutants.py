"""Small changes to a source file, each of which some test should notice.

Here: which changes there are, and making one. Not here: which files are changed and which tests
look (`scope.py`), running them (`workshop.py`).

The operators are the customary ones: comparisons (their boundary and their negation), arithmetic,
`and` and `or`, conditions, `not` and minus, constants (defaults too), returned values, statements,
`break` and `continue`, handlers of exceptions, `min` and `max`. Left alone is what nothing that
runs depends on, or nothing at all runs without: annotations, docstrings, decorators, `__slots__`,
what only type checkers see, the words of an error, attributes being made by a constructor.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

_COMPARISONS: Final[dict[type[ast.cmpop], tuple[str, list[str]]]] = {
    ast.Lt: ("<", ["<=", ">="]),
    ast.LtE: ("<=", ["<", ">"]),
    ast.Gt: (">", [">=", "<="]),
    ast.GtE: (">=", [">", "<"]),
    ast.Eq: ("==", ["!="]),
    ast.NotEq: ("!=", ["=="]),
    ast.Is: ("is", ["is not"]),
    ast.IsNot: ("is not", ["is"]),
    ast.In: ("in", ["not in"]),
    ast.NotIn: ("not in", ["in"]),
}
_ARITHMETIC: Final[dict[type[ast.operator], tuple[str, str]]] = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "/"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "*"),
    ast.Mod: ("%", "*"),
    ast.Pow: ("**", "*"),
    ast.LShift: ("<<", ">>"),
    ast.RShift: (">>", "<<"),
    ast.BitAnd: ("&", "|"),
    ast.BitOr: ("|", "&"),
    ast.BitXor: ("^", "&"),
}
_EXTREMES: Final = {"min": "max", "max": "min"}


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change.

    Attributes:
        scope: Class and function that it lies in.
        line: Number of the line that it begins in.
        before: The changed lines as they are, as one.
        after: What becomes of them.
        nth: Which one, where a scope has several such changes; from 1.
        source: The whole changed file.
    """

    scope: str
    line: int
    before: str
    after: str
    nth: int
    source: bytes

    @property
    def key(self) -> tuple[str, str, str, int]:
        """What names it as long as its lines stay, wherever these go in the file."""
        return self.scope, self.before, self.after, self.nth


@dataclass(frozen=True, slots=True)
class _Edit:
    """Other bytes in a place of the source."""

    scope: str
    start: int
    end: int
    new: str


def mutants_of(source: bytes) -> list[Mutant]:
    """Every change to a source file, from its first line to its last."""
    finder = _Finder(source)
    finder.visit(ast.parse(source))
    found: list[Mutant] = []
    seen: Counter[tuple[str, str, str]] = Counter()
    for edit in sorted(finder.edits, key=lambda edit: (edit.start, edit.end)):
        changed = source[: edit.start] + edit.new.encode() + source[edit.end :]
        first = source.rfind(b"\n", 0, edit.start) + 1
        last = (source + b"\n").find(b"\n", edit.end)
        before = " ".join(source[first:last].decode().split())
        after = " ".join(changed[first : last + len(changed) - len(source)].decode().split())
        name = (edit.scope, before, after)
        seen[name] += 1
        line = source.count(b"\n", 0, edit.start) + 1
        found.append(Mutant(edit.scope, line, before, after, seen[name], changed))
    return found


class _Finder(ast.NodeVisitor):
    """Collects the edits of a module."""

    def __init__(self, source: bytes) -> None:
        self.edits: list[_Edit] = []
        self._source = source
        self._scope: list[str] = []
        self._lines = [0, *(match.end() for match in re.finditer(b"\n", source))]

    # Places ----------------------------------------------------------------

    def _start(self, node: ast.expr | ast.stmt) -> int:
        return self._lines[node.lineno - 1] + node.col_offset

    def _end(self, node: ast.expr | ast.stmt) -> int:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self._lines[node.end_lineno - 1] + node.end_col_offset

    def _text(self, node: ast.expr) -> str:
        return self._source[self._start(node) : self._end(node)].decode()

    def _edit(self, start: int, end: int, new: str) -> None:
        self.edits.append(_Edit(".".join(self._scope) or "module", start, end, new))

    def _replace(self, node: ast.expr | ast.stmt, new: str) -> None:
        self._edit(self._start(node), self._end(node), new)

    def _between(self, left: ast.expr, right: ast.expr, old: str, new: str) -> None:
        """Replace the operator between two operands."""
        start, end = self._end(left), self._start(right)
        pattern = r"\s+".join(re.escape(word) for word in old.split())
        if old[0].isalpha():
            pattern = rf"\b{pattern}\b"
        match = re.search(pattern.encode(), self._source[start:end])
        assert match is not None
        self._edit(start + match.start(), start + match.end(), new)

    # What is left alone ----------------------------------------------------

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._inside(node.name, node.body)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        for default in (*node.args.defaults, *node.args.kw_defaults):
            if default is not None:
                self.visit(default)
        self._inside(node.name, node.body)

    visit_AsyncFunctionDef = visit_FunctionDef

    def _inside(self, name: str, body: list[ast.stmt]) -> None:
        self._scope.append(name)
        for statement in body:
            self.visit(statement)
        self._scope.pop()

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """Text, and Python 3.11 does not know where its parts lie."""

    def visit_Subscript(self, node: ast.Subscript) -> None:
        if not (isinstance(node.value, ast.Name) and node.value.id == "Literal"):
            self.generic_visit(node)

    # Statements ------------------------------------------------------------

    def visit_Expr(self, node: ast.Expr) -> None:
        if not isinstance(node.value, ast.Constant):
            self._replace(node, "pass")
            self.visit(node.value)

    def visit_Assign(self, node: ast.Assign) -> None:
        targets = [target for target in node.targets if not isinstance(target, ast.Name)]
        if any(isinstance(t, ast.Name) and t.id == "__slots__" for t in node.targets):
            return
        made = self._scope[-1:] == ["__init__"]
        if targets and not (made or any(isinstance(target, ast.Tuple) for target in targets)):
            self._replace(node, "pass")
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self._replace(node, "pass")
        old, new = _ARITHMETIC[type(node.op)]
        self._between(node.target, node.value, f"{old}=", f"{new}=")
        self.generic_visit(node)

    def visit_Delete(self, node: ast.Delete) -> None:
        self._replace(node, "pass")

    def visit_Raise(self, node: ast.Raise) -> None:
        self._replace(node, "pass")
        for child in ast.walk(node):
            if isinstance(child, ast.Call):
                for argument in (*child.args, *(keyword.value for keyword in child.keywords)):
                    if not isinstance(argument, ast.Constant | ast.Call):
                        self.visit(argument)

    def visit_Return(self, node: ast.Return) -> None:
        if node.value is None:
            self._replace(node, "pass")
        elif not (isinstance(node.value, ast.Constant) and node.value.value in (None, True, False)):
            self._replace(node, "return None")
        self.generic_visit(node)

    def visit_Break(self, node: ast.Break) -> None:
        self._replace(node, "continue")

    def visit_Continue(self, node: ast.Continue) -> None:
        self._replace(node, "break")

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        first, last = node.body[0], node.body[-1]
        if not (isinstance(first, ast.Raise) and first.exc is None):
            self._edit(self._start(first), self._end(last), "raise")
        for statement in node.body:
            self.visit(statement)

    def visit_Pass(self, node: ast.Pass) -> None:
        """Nothing to take away."""

    # Conditions ------------------------------------------------------------

    def visit_If(self, node: ast.If) -> None:
        if ast.unparse(node.test) == "TYPE_CHECKING":
            return
        self._negate(node.test)
        self.generic_visit(node)

    def visit_While(self, node: ast.While) -> None:
        self._negate(node.test)
        self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self._negate(node.test)
        self.generic_visit(node)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        for test in node.ifs:
            self._negate(test)
        self.generic_visit(node)

    def visit_match_case(self, node: ast.match_case) -> None:
        if node.guard is not None:
            self._negate(node.guard)
        self.generic_visit(node)

    def _negate(self, test: ast.expr) -> None:
        """Negate a condition, unless another operator does as much to it."""
        inverted = isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not)
        if not (inverted or isinstance(test, ast.Compare | ast.BoolOp | ast.Constant)):
            self._replace(test, f"(not ({self._text(test)}))")

    # Expressions -----------------------------------------------------------

    def visit_Compare(self, node: ast.Compare) -> None:
        operands = [node.left, *node.comparators]
        for left, op, right in zip(operands, node.ops, operands[1:], strict=False):
            old, others = _COMPARISONS[type(op)]
            for new in others:
                self._between(left, right, old, new)
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        if type(node.op) in _ARITHMETIC:
            self._between(node.left, node.right, *_ARITHMETIC[type(node.op)])
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        words = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
        for left, right in zip(node.values, node.values[1:], strict=False):
            self._between(left, right, *words)
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, ast.Not | ast.USub):
            length = 3 if isinstance(node.op, ast.Not) else 1
            self._edit(self._start(node), self._start(node) + length, "")
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        if name in _EXTREMES:
            self._replace(node.func, _EXTREMES[name])
        if name == "cast":
            node = ast.Call(node.func, node.args[1:], node.keywords)
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        for new in _other_constants(node.value):
            self._replace(node, new)


def _other_constants(value: object) -> Iterator[str]:
    if isinstance(value, bool):
        yield str(not value)
    elif isinstance(value, int | float):
        yield str(value + 1)
    elif isinstance(value, str):
        yield repr("XX" + value)
    elif isinstance(value, bytes):
        yield repr(b"XX" + value)
