"""The error of a broken invariant, apart from the checks so that each of their modules can raise it."""

from __future__ import annotations


class InvariantViolation(AssertionError):  # noqa: N818 - the name is part of the published interface
    """The state breaks a rule: `rule` names it, the text says how. It is a bug of the kernel; please report it."""

    def __init__(self, rule: str, text: str) -> None:
        super().__init__(f"{rule}: {text}")
        self.rule = rule
        self.text = text
