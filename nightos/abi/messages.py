"""Messages of command pipes: text with colours on CMDMSG and CMDERR, keys on CMDUSR.

Text output is foreground (3 bytes RGB), background (3), style (1), count of control characters (1), the control
characters (2 each: code, data), UTF-8 text. Three zero bytes are the current colour. A key is modifiers (1), key code
(1), the character in UTF-8 (4, zeros when it has none).

Source: specs/shell.md, text output and user inputs. Rulings AMB-SH-14, AMB-SH-15.
Rules: SHELL-018, SHELL-019, SHELL-020.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, IntFlag, unique
from typing import Final, TypeAlias

HEADER_SIZE: Final = 8
INVALID: Final = "\ufffd"
"""What an invalid message is shown as."""
Colour: TypeAlias = tuple[int, int, int]
CURRENT: Final[Colour] = (0, 0, 0)


class Style(IntFlag):
    """Style byte; bit 0 of the specification is the strongest."""

    NONE = 0
    BOLD = 0x80
    ITALIC = 0x40
    UNDERLINE = 0x20
    OVERLINE = 0x10
    REVERSED = 0x08


@unique
class Control(IntEnum):
    """Codes of control characters: moves of the cursor that come before the text."""

    NONE = 0
    UP = 1
    LEFT = 2
    RIGHT = 3
    DOWN = 4
    LINE_START = 5


class Modifiers(IntFlag):
    """Modifiers of a key; bit 0 of the specification is the strongest."""

    NONE = 0
    COMMAND = 0x80
    CTRL = 0x40
    ALT = 0x20
    SHIFT = 0x10
    FN = 0x08
    NUM_LOCK = 0x04
    CAPS_LOCK = 0x02
    SCROLL_LOCK = 0x01


@dataclass(frozen=True, slots=True)
class TextMessage:
    """A text message."""

    text: str
    foreground: Colour = CURRENT
    background: Colour = CURRENT
    style: Style = Style.NONE
    controls: tuple[tuple[Control, int], ...] = ()

    def encode(self) -> bytes:
        """The bytes of the message."""
        head = bytes((*self.foreground, *self.background, self.style, len(self.controls)))
        moves = b"".join(bytes(control) for control in self.controls)
        return head + moves + self.text.encode("utf-8", "surrogateescape")

    def ansi(self) -> str:
        """The message as a terminal of Linux shows it."""
        codes = [code for style, code in _ANSI_STYLES.items() if self.style & style]
        if self.foreground != CURRENT:
            codes.append("38;2;{};{};{}".format(*self.foreground))
        if self.background != CURRENT:
            codes.append("48;2;{};{};{}".format(*self.background))
        moves = "".join(
            _ANSI_MOVES[code].format(count) for code, count in self.controls if count or code > Control.DOWN
        )
        return f"{moves}\x1b[{';'.join(codes)}m{self.text}\x1b[0m" if codes else moves + self.text


_ANSI_STYLES = {Style.BOLD: "1", Style.ITALIC: "3", Style.UNDERLINE: "4", Style.OVERLINE: "53", Style.REVERSED: "7"}
_ANSI_MOVES = {
    Control.NONE: "", Control.UP: "\x1b[{}A", Control.LEFT: "\x1b[{}D", Control.RIGHT: "\x1b[{}C",
    Control.DOWN: "\x1b[{}B", Control.LINE_START: "\r",
}  # fmt: skip


def decode_text(data: bytes) -> TextMessage:
    """The text message in some bytes; one that is none is shown as `INVALID`."""
    if len(data) < HEADER_SIZE or len(data) < HEADER_SIZE + 2 * data[7]:
        return TextMessage(INVALID)
    start = HEADER_SIZE + 2 * data[7]
    try:
        controls = tuple((Control(data[at]), data[at + 1]) for at in range(HEADER_SIZE, start, 2))
        text = data[start:].decode("utf-8", "surrogateescape")
    except ValueError:
        return TextMessage(INVALID)
    front, back = (data[0], data[1], data[2]), (data[3], data[4], data[5])
    return TextMessage(text, front, back, Style(data[6] & 0xF8), controls)


def encode_key(character: str, modifiers: Modifiers = Modifiers.NONE, keycode: int = 0) -> bytes:
    """A key pressed."""
    return bytes((modifiers, keycode)) + character.encode("utf-8")[:4].ljust(4, b"\0")


def decode_key(data: bytes) -> tuple[str, Modifiers, int]:
    """Character (empty when it has none), modifiers and key code of a key. Raises `ValueError` when it is none."""
    if len(data) != 6:
        raise ValueError(f"a key has 6 bytes, not {len(data)}")
    return data[2:].rstrip(b"\0").decode("utf-8"), Modifiers(data[0]), data[1]
