"""Small changes of the hardware's source, one at a time: what they are and where they can be made.

Only code inside functions that describes hardware is changed: no ports, docstrings, messages or refusals, and none of
the Python that decides what is generated (`if`, `for`, conditions of comprehensions).
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

COMPARISONS = {ast.Eq: ("==", "!="), ast.NotEq: ("!=", "==")} | {
    **{ast.Lt: ("<", "<="), ast.LtE: ("<=", "<")},
    **{ast.Gt: (">", ">="), ast.GtE: (">=", ">")},
}
ARITHMETIC = {
    **{ast.Add: ("+", "-"), ast.Sub: ("-", "+")},
    **{ast.BitAnd: ("&", "|"), ast.BitOr: ("|", "&"), ast.BitXor: ("^", "|")},
    **{ast.LShift: ("<<", ">>"), ast.RShift: (">>", "<<")},
}


@dataclass(frozen=True)
class Mutant:
    """One change of one file.

    file : from the repository's root. function : that it is in, as `Class.method`. lines : first and last of its
    statement, counted from 1. start, end : of the changed text, in bytes. was, becomes : the text before and after.
    """

    file: str
    function: str
    operator: str
    lines: tuple[int, int]
    start: int
    end: int
    was: str
    becomes: str

    @property
    def block(self) -> str:
        """The file's name without its end."""
        return Path(self.file).stem

    def apply(self, source: bytes) -> bytes:
        """The file's text with the change."""
        return source[: self.start] + self.becomes.encode() + source[self.end :]

    def place(self, source: bytes) -> tuple[int, str]:
        """The number and the text of the line in which the change begins."""
        number = source.count(b"\n", 0, self.start)
        return number + 1, source.decode().splitlines()[number].strip()

    def entry(self, source: bytes) -> dict[str, str | int]:
        """What names the change in a list that outlives edits elsewhere in the file: how often its text comes in the
        function before it tells equal ones apart."""
        tree = dict(_functions(ast.parse(source)))
        begin = _starts(source)[tree[self.function].lineno - 1]
        before = source[begin : self.start].decode()
        return {
            "file": self.file,
            "function": self.function,
            "line": self.place(source)[1],
            "was": self.was,
            "becomes": self.becomes,
            "before": before.count(self.was),
        }


def mutants(file: str, source: bytes) -> list[Mutant]:
    """Every change that can be made to `file`, in the order of its text."""
    found = []
    for name, function in _functions(ast.parse(source)):
        found += _Finder(file, name, source).of(function)
    return sorted(dict.fromkeys(found), key=lambda mutant: (mutant.start, mutant.end, mutant.becomes))


def _functions(tree: ast.Module) -> Iterator[tuple[str, ast.FunctionDef]]:
    """Functions of a module and methods of its classes; those inside others are part of them."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            yield node.name, node
        elif isinstance(node, ast.ClassDef):
            for inner in node.body:
                if isinstance(inner, ast.FunctionDef) and inner.name != "__init__":
                    yield f"{node.name}.{inner.name}", inner


def _starts(source: bytes) -> list[int]:
    """Where lines begin."""
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    return starts


class _Finder:
    def __init__(self, file: str, function: str, source: bytes):
        self.file, self.function, self.source = file, function, source
        self.starts = _starts(source)
        self.lines = (0, 0)
        self.found: list[Mutant] = []

    def of(self, function: ast.FunctionDef) -> list[Mutant]:
        self._body(function.body)
        return self.found

    # ---- statements
    def _body(self, body: list[ast.stmt]) -> None:
        for statement in body:
            self._statement(statement)

    def _statement(self, node: ast.stmt) -> None:
        inner = getattr(node, "body", None)
        self.lines = (node.lineno, max(node.lineno, inner[0].lineno - 1) if inner else node.end_lineno or node.lineno)
        match node:
            case ast.Raise() | ast.Assert() | ast.Expr(value=ast.Constant()):
                return
            case ast.AugAssign(target=ast.Attribute(value=ast.Attribute(attr="d"))):
                self._drops(node.value)
                self._expression(node.value)
            case ast.Assign(targets=[ast.Attribute(value=ast.Name(id="m"), attr="next")]):
                self._add("transition dropped", node, "pass")
            case ast.With():
                for item in node.items:
                    self._context(item.context_expr)
                self._body(node.body)
            case ast.FunctionDef() | ast.For():
                self._body(node.body)
            case ast.If():
                self._body(node.body)
                self._body(node.orelse)
            case ast.Match():
                for case in node.cases:
                    self._body(case.body)
            case ast.Assign() | ast.AnnAssign() | ast.AugAssign() | ast.Return() | ast.Expr():
                if node.value is not None:
                    self._expression(node.value)

    def _drops(self, value: ast.expr) -> None:
        """Assignments that are left out, alone or from a list."""
        if not isinstance(value, ast.List):
            self._add("assignment dropped", value, "[]")
            return
        for element in value.elts:
            self._add("assignment dropped", element, "*[]")

    def _context(self, node: ast.expr) -> None:
        match node:
            case ast.Call(func=ast.Attribute(attr="If" | "Elif"), args=[condition]):
                self._add("condition always true", condition, "1")
                self._add("condition never true", condition, "0")
        self._expression(node)

    # ---- expressions
    def _expression(self, node: ast.AST) -> None:
        match node:
            case ast.JoinedStr() | ast.Lambda(args=ast.arguments(defaults=[_, *_])):
                return
            case ast.IfExp():
                self._expression(node.body)
                self._expression(node.orelse)
                return
            case ast.comprehension():
                return
            case ast.Compare(ops=[operator]) if type(operator) in COMPARISONS:
                self._symbol("comparison", node.left, node.comparators[0], *COMPARISONS[type(operator)])
            case ast.BinOp() if type(node.op) in ARITHMETIC:
                self._symbol("operator", node.left, node.right, *ARITHMETIC[type(node.op)])
                if isinstance(node.op, ast.BitAnd | ast.BitOr):
                    self._add("operand dropped", node, self._text(node.left))
                    self._add("operand dropped", node, self._text(node.right))
            case ast.UnaryOp(op=ast.Invert()):
                self._add("inversion dropped", node, self._text(node.operand))
            case ast.Call(func=ast.Name(id="Mux"), args=[condition, one, other]):
                parts = (self._text(part) for part in (condition, other, one))
                self._add("choices swapped", node, f"Mux({', '.join(parts)})")
            case ast.Call(func=ast.Attribute(attr="any" | "all" as name), args=[]):
                self._end("any and all swapped", node.func, name, "all" if name == "any" else "any")
            case ast.Constant(value=int() as value) if not isinstance(value, bool):
                self._add("constant", node, str(value + 1))
                if value:
                    self._add("constant", node, str(value - 1))
        for child in ast.iter_child_nodes(node):
            self._expression(child)

    # ---- text
    def _at(self, line: int, column: int) -> int:
        return self.starts[line - 1] + column

    def _begin(self, node: ast.expr | ast.stmt) -> int:
        return self._at(node.lineno, node.col_offset)

    def _stop(self, node: ast.expr | ast.stmt) -> int:
        return self._at(node.end_lineno or node.lineno, node.end_col_offset or 0)

    def _text(self, node: ast.expr) -> str:
        text = self.source[self._begin(node) : self._stop(node)].decode()
        # An operand loses what stood around it.
        return f"({text})" if isinstance(node, (ast.BinOp, ast.Compare, ast.BoolOp, ast.IfExp)) else text

    def _symbol(self, operator: str, left: ast.expr, right: ast.expr, was: str, becomes: str) -> None:
        begin, between = self._stop(left), self.source[self._stop(left) : self._begin(right)]
        at = begin + between.index(was.encode())
        self._record(operator, at, at + len(was), becomes)

    def _end(self, operator: str, node: ast.expr, was: str, becomes: str) -> None:
        stop = self._stop(node)
        self._record(operator, stop - len(was), stop, becomes)

    def _add(self, operator: str, node: ast.expr | ast.stmt, becomes: str) -> None:
        self._record(operator, self._begin(node), self._stop(node), becomes)

    def _record(self, operator: str, start: int, end: int, becomes: str) -> None:
        was = self.source[start:end].decode()
        self.found.append(Mutant(self.file, self.function, operator, self.lines, start, end, was, becomes))
