"""Small expressions in a run's configuration, such as `lambda w: w >= 768` or `width >= 768 and "logo" not in caption`.

They are written in a part of Python's grammar and never run by Python: each piece that is allowed becomes a function of
this module when the text is read, and anything else is refused there and then, before any data is touched. An
expression can't loop, and its numbers stay below 2 ** 4096.
"""

from __future__ import annotations

import ast
import operator
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from littlecascade.errors import InputError, suggest

Run = Callable[[Mapping[str, Any]], Any]
"""What a piece of an expression becomes: from the values of its names to its own."""

LONGEST, DEEPEST, MOST_BITS = 1000, 30, 4096
"""Limits: characters of an expression, pieces within pieces, bits of a whole number."""

FUNCTIONS: dict[str, Callable[..., Any]] = {
    "abs": abs,
    "float": float,
    "int": int,
    "len": len,
    "max": max,
    "min": min,
    "round": lambda number: round(number),
}
"""What can be called by name, beside `get("field", default)`, which is a field or, where there is none, the default."""

METHODS: dict[str, type] = {
    "endswith": str,
    "get": dict,
    "lower": str,
    "split": str,
    "startswith": str,
    "strip": str,
    "upper": str,
}
"""What can be called on a value, and the only type of value that has it."""

_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
    ast.In: lambda one, other: one in other,
    ast.NotIn: lambda one, other: one not in other,
}
_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.Not: operator.not_,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}
_REFUSED: dict[type[ast.AST], str] = {
    ast.Attribute: "an attribute",
    ast.JoinedStr: "a formatted text",
    ast.Lambda: "a lambda within an expression",
    ast.NamedExpr: "an assignment",
    **dict.fromkeys((ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp), "a comprehension"),
}


class EvaluationError(ValueError):
    """An expression has no value for this sample: a field is missing or of the wrong kind."""


@dataclass(frozen=True)
class Expression:
    """One expression, checked when it is made. Raises `InputError` that names what is not allowed and where it stands.

    It is either a lambda of one parameter, to be called with that value, or plain, to be called with the mapping in
    which its names are looked up. A call raises `EvaluationError` where there is no value.

    >>> Expression("lambda w: w >= 768")(1024)
    True
    >>> Expression("width / height > 1.5 and 'logo' not in caption.lower()")({"width": 3, "height": 1, "caption": "A"})
    True
    """

    source: str
    parameter: str | None = field(init=False, compare=False)
    _run: Run = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        tree = _parse(self.source)
        parameter = _parameter(self.source, tree) if isinstance(tree, ast.Lambda) else None
        body = tree.body if isinstance(tree, ast.Lambda) else tree
        object.__setattr__(self, "parameter", parameter)
        object.__setattr__(self, "_run", _Builder(self.source, parameter).build(body))

    def __call__(self, value: Any) -> Any:
        """The value of the expression. `value`: a lambda's argument, or a mapping for a plain expression."""
        scope = value if self.parameter is None else {self.parameter: value}
        if not isinstance(scope, Mapping):
            raise EvaluationError(f"{self.source!r} needs fields, and there is only a {type(value).__name__}")
        try:
            return self._run(scope)
        except EvaluationError:
            raise
        except (TypeError, ValueError, ArithmeticError, LookupError, RecursionError) as error:
            raise EvaluationError(f"{self.source!r}: {error}") from None

    def __reduce__(self) -> tuple[type[Expression], tuple[str]]:
        return Expression, (self.source,)


def _parse(source: str) -> ast.expr:
    if len(source) > LONGEST:
        raise InputError(f"The expression {source[:40]!r}... has more than {LONGEST} characters.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd literals; the parts that are allowed have none
            return ast.parse(source.replace("\n", " ").strip(), mode="eval").body
    except SyntaxError as error:
        where = f" at character {error.offset}" if error.offset else ""
        raise InputError(f"{source!r} is no expression: {error.msg}{where}.") from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise InputError(f"{source[:40]!r}... is no expression: {str(error) or 'it is nested too deeply'}.") from None


def _parameter(source: str, tree: ast.Lambda) -> str:
    given = tree.args
    others = [*given.posonlyargs, *given.kwonlyargs, given.vararg, given.kwarg]
    if len(given.args) != 1 or any(others) or given.defaults:
        raise InputError(f"{source!r}: a lambda has exactly one parameter here, as in 'lambda w: w >= 768'.")
    return given.args[0].arg


class _Builder:
    """Turns the pieces of one expression into functions, or refuses them."""

    def __init__(self, source: str, parameter: str | None) -> None:
        self.source = source
        self.parameter = parameter
        self.depth = 0

    def refusal(self, node: ast.AST, reason: str) -> InputError:
        text = self.source.replace("\n", " ").strip()
        piece = ast.get_source_segment(text, node) or ""
        before = text.encode()[: getattr(node, "col_offset", 0)].decode()  # Python counts bytes of UTF-8
        return InputError(f"{piece!r} at character {len(before) + 1} of {text!r}: {reason}.")

    def build(self, node: ast.expr) -> Run:
        self.depth += 1
        if self.depth > DEEPEST:
            raise self.refusal(node, f"it is nested more than {DEEPEST} deep")
        run = self._piece(node)
        self.depth -= 1
        return run

    def _piece(self, node: ast.expr) -> Run:
        match node:
            case ast.Constant(value=None | bool() | int() | float() | str() as value):
                return lambda scope: value
            case ast.Name(id=name):
                return self._name(node, name)
            case ast.BoolOp(op=connective, values=values):
                return _connect([self.build(value) for value in values], isinstance(connective, ast.Or))
            case ast.UnaryOp(op=sign, operand=operand) if type(sign) in _UNARY:
                function, inner = _UNARY[type(sign)], self.build(operand)
                return lambda scope: function(inner(scope))
            case ast.BinOp(left=left, op=sign, right=right) if type(sign) in _ARITHMETIC:
                function, one, other = _ARITHMETIC[type(sign)], self.build(left), self.build(right)
                return lambda scope: _calculate(function, one(scope), other(scope))
            case ast.Compare():
                return self._comparison(node)
            case ast.IfExp(test=test, body=body, orelse=orelse):
                condition, yes, no = self.build(test), self.build(body), self.build(orelse)
                return lambda scope: yes(scope) if condition(scope) else no(scope)
            case ast.List(elts=items) | ast.Tuple(elts=items):
                built = [self.build(item) for item in items]
                return lambda scope: [item(scope) for item in built]
            case ast.Subscript(value=value, slice=index):
                container, key = self.build(value), self._key(index)
                return lambda scope: container(scope)[key]
            case ast.Call():
                return self._call(node)
            case _:
                raise self.refusal(node, f"{_REFUSED.get(type(node), 'this')} is not allowed in an expression")

    def _name(self, node: ast.AST, name: str) -> Run:
        if self.parameter is not None and name != self.parameter:
            hint = suggest(name, [self.parameter]) or f" Only {self.parameter!r} is."
            raise self.refusal(node, f"the name is not known here.{hint}".rstrip("."))
        return lambda scope: _look_up(scope, name)

    def _comparison(self, node: ast.Compare) -> Run:
        first, *others = [self.build(value) for value in (node.left, *node.comparators)]
        for sign, value in zip(node.ops, node.comparators, strict=True):
            if isinstance(sign, ast.Is | ast.IsNot) and not (isinstance(value, ast.Constant) and value.value is None):
                raise self.refusal(value, "'is' is for None alone; compare values with ==")
        steps = [(_COMPARISONS[type(sign)], other) for sign, other in zip(node.ops, others, strict=True)]

        def run(scope: Mapping[str, Any]) -> bool:
            left = first(scope)
            for compare, other in steps:
                right = other(scope)
                if not compare(left, right):
                    return False
                left = right
            return True

        return run

    def _key(self, node: ast.expr) -> str | int:
        match node:
            case ast.Constant(value=str() | int() as key):
                return key
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() as number)):
                return -number
            case _:
                raise self.refusal(node, "an index is a number or a name in quotes")

    def _call(self, node: ast.Call) -> Run:
        for keyword in node.keywords:
            raise self.refusal(keyword, "arguments have no names here")
        arguments = [self.build(argument) for argument in node.args]
        match node.func:
            case ast.Name(id="get") if self.parameter is None:
                return self._get(node, arguments)
            case ast.Name(id=name) if name in FUNCTIONS:
                function = FUNCTIONS[name]
                return lambda scope: function(*(argument(scope) for argument in arguments))
            case ast.Name(id=name):
                names = [*FUNCTIONS, *([] if self.parameter else ["get"])]
                raise self.refusal(
                    node.func, f"there is no such function.{suggest(name, names)} Those are {', '.join(names)}"
                )
            case ast.Attribute(value=value, attr=name) if name in METHODS:
                receiver = self.build(value)
                return lambda scope: _call_method(receiver(scope), name, [argument(scope) for argument in arguments])
            case ast.Attribute(attr=name):
                hint = f"{suggest(name, METHODS)} Those are {', '.join(METHODS)}"
                raise self.refusal(node.func, f"there is no such method.{hint}")
            case _:
                raise self.refusal(node.func, "only named functions and methods can be called")

    def _get(self, node: ast.Call, arguments: Sequence[Run]) -> Run:
        match node.args:
            case [ast.Constant(value=str() as name), _]:
                instead = arguments[1]
                return lambda scope: scope[name] if name in scope else instead(scope)
            case _:
                raise self.refusal(node, "it takes a field's name in quotes and what to use without it")


def _connect(values: Sequence[Run], wanted: bool) -> Run:
    """`or` (wanted is True) or `and`: the first value that decides, else the last."""

    def run(scope: Mapping[str, Any]) -> Any:
        value = None
        for part in values:
            value = part(scope)
            if bool(value) is wanted:
                break
        return value

    return run


def _look_up(scope: Mapping[str, Any], name: str) -> Any:
    if name not in scope:
        raise EvaluationError(f"there is no field {name!r}")
    return scope[name]


def _calculate(function: Callable[[Any, Any], Any], left: Any, right: Any) -> Any:
    """Numbers with numbers; texts can only be joined. Whole numbers stay below 2 ** MOST_BITS."""
    if function is operator.add and isinstance(left, str) and isinstance(right, str):
        return left + right
    for value in (left, right):
        if not isinstance(value, int | float):
            raise EvaluationError(f"can't calculate with a {type(value).__name__}")
    if isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length() * max(right, 1) if function is operator.pow else left.bit_length() + right.bit_length()
        if bits > MOST_BITS:
            raise EvaluationError("a number grows too large")
    return function(left, right)


def _call_method(receiver: Any, name: str, arguments: Sequence[Any]) -> Any:
    kind = METHODS[name]
    if not isinstance(receiver, kind):
        raise EvaluationError(f"a {type(receiver).__name__} has no {name}()")
    return getattr(kind, name)(receiver, *arguments)
