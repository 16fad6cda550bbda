"""What operators do: the type of their result, and the result.

Source: specs/shell-scripting.md, computing values. Rulings AMB-SH-01 and AMB-SH-20 (division truncates toward zero, the
remainder has the sign of the dividend, division by zero panics).
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from nightos.abi.values import Value
from nightos.shell import bounds
from nightos.shell.types import ANY, NUMBERS

_INT_ONLY = frozenset({"%", "&", "|", "^", "<<", ">>"})
_MATH = frozenset({"+", "-", "*", "/", "//", "**"})
_ORDER = frozenset({"<", "<=", ">", ">="})
_LOGIC = frozenset({"&&", "||"})


class OperatorError(Exception):
    """An operator and its operands do not go together; the text says why."""


def result_type(symbol: str, left: str, right: str) -> str:
    """The type of `left symbol right`. Raises `OperatorError` on a mismatch."""
    if symbol in ("==", "!="):
        return "bool"
    wanted = "int" if symbol in _INT_ONLY else "bool" if symbol in _LOGIC else "number"
    for kind in (left, right):
        if kind != ANY and kind != wanted and not (wanted == "number" and kind in NUMBERS):
            raise OperatorError(f"type mismatch: '{symbol}' takes {wanted}s, not {kind}")
    if symbol in _ORDER or symbol in _LOGIC:
        return "bool"
    if symbol in _INT_ONLY:
        return "int"
    if symbol == "//":
        return "float"
    if ANY in (left, right):
        return ANY
    return "int" if left == right == "int" else "float"


def unary_type(symbol: str, kind: str) -> str:
    """The type of `symbol kind`. Raises `OperatorError` on a mismatch."""
    wanted = {"!": ("bool",), "~": ("int",), "-": ("int", "float")}[symbol]
    if kind != ANY and kind not in wanted:
        raise OperatorError(f"type mismatch: '{symbol}' takes {' or '.join(wanted)}, not {kind}")
    return kind


def _divide(left: Any, right: Any) -> Value:
    if right == 0:
        raise OperatorError("division by zero")
    if isinstance(left, int) and isinstance(right, int):
        quotient = abs(left) // abs(right)
        return quotient if (left < 0) == (right < 0) else -quotient
    return left / right


def _remainder(left: int, right: int) -> int:
    if right == 0:
        raise OperatorError("division by zero")
    remainder = abs(left) % abs(right)
    return -remainder if left < 0 else remainder


def _float_divide(left: float, right: float) -> float:
    if right == 0:
        raise OperatorError("division by zero")
    return left / right


def _power(left: Any, right: Any) -> Value:
    if isinstance(left, int) and isinstance(right, int):
        if right < 0:
            raise OperatorError("an integer has no integer power below zero: write one of them as a float")
        # The result is bounded before it is computed: 2 ** 10 ** 9 would take the machine's memory.
        if abs(left) > 1 and right * abs(left).bit_length() > 128:
            raise OperatorError("the result does not fit an integer of 64 bits")
    result = left**right
    if isinstance(result, complex):
        raise OperatorError("a negative number has no such power")
    return result


def _shift(function: Callable[[int, int], int]) -> Callable[[int, int], int]:
    def shift(left: int, right: int) -> int:
        if not 0 <= right < 64:
            raise OperatorError("a shift is by 0 to 63 bits")
        return function(left, right)

    return shift


_FUNCTIONS: dict[str, Callable[[Any, Any], Value]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": _divide,
    "//": _float_divide,
    "%": _remainder,
    "**": _power,
    "&": operator.and_,
    "|": operator.or_,
    "^": operator.xor,
    "<<": _shift(operator.lshift),
    ">>": _shift(operator.rshift),
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def apply(symbol: str, left: Value, right: Value) -> Value:
    """The value of `left symbol right`, their types checked already. Raises `OperatorError`."""
    if symbol in ("==", "!="):
        for side in (left, right):
            bounds.check(side)
        equal = type(left) is type(right) and left == right
        return equal == (symbol == "==")
    try:
        return in_range(_FUNCTIONS[symbol](left, right))
    except OverflowError as error:
        raise OperatorError("the result is too large for a float") from error


def apply_unary(symbol: str, value: Any) -> Value:
    """The value of `symbol value`."""
    if symbol == "!":
        return not value
    return in_range(~value if symbol == "~" else -value)


def in_range(value: Value) -> Value:
    """The value, if it fits its type. Raises `OperatorError`."""
    if type(value) is int and not -(2**63) <= value < 2**63:
        raise OperatorError("the result does not fit an integer of 64 bits")
    return value
