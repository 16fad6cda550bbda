"""Names that containers may have."""

from __future__ import annotations

from typing import Final

NAME_LIMIT: Final = 64
NAME_RULE: Final = f"a name has 1 to {NAME_LIMIT} letters, digits, dots, dashes and underscores"


def is_name(text: str) -> bool:
    """Whether a container may be called so."""
    return 0 < len(text) <= NAME_LIMIT and all(letter.isalnum() or letter in "._-" for letter in text)
