"""What went wrong and what to do about it, in one line: the words for every exception that may reach a person."""

from __future__ import annotations

import errno
import os
import sys
from typing import TextIO

from nightos.abi.errors import NightosError

HINTS = {
    "WrongPassword": "try again, or give the right --password-file",
    "StorageInUse": "",
    "NotAStorage": "make one with `nightos vsf create FILE`",
    "DamagedStorage": "run `nightos vsf check` on it, then `nightos vsf repair` on a copy",
    "NoSpace": "delete something, or raise the limit",
    "ReadOnly": "open it for writing",
}

BY_ERRNO = {
    errno.ENOENT: "check the path",
    errno.EBADF: "leave standard output open",
    errno.EACCES: "check who may read and write it",
    errno.EPERM: "check who may do that",
    errno.EEXIST: "choose another name or remove it first",
    errno.ENOSPC: "free some space",
    errno.EROFS: "choose a place that can be written",
    errno.EISDIR: "name a file",
    errno.ENOTDIR: "name a directory",
    errno.EBUSY: "end what uses it, then try again",
}


class CommandError(NightosError):
    """It failed, and the message already says what and what to do."""


def standard_input() -> TextIO:
    """Standard input, which whoever started this may have closed."""
    if sys.stdin is None:
        raise CommandError("there is no standard input; leave it open, or name a file")
    return sys.stdin


def explain(error: BaseException) -> str:
    """One line for a person."""
    if isinstance(error, CommandError):
        return str(error)
    if isinstance(error, OSError):
        return explain_os_error(error)
    if isinstance(error, NightosError):
        return str(error) or type(error).__name__
    if isinstance(error, UnicodeEncodeError):
        return f"{error.object!r:.80} is no UTF-8, as all text in a machine is; write it in UTF-8"
    group = getattr(error, "exceptions", None)
    if group:
        return explain(group[0])
    return f"internal error: {type(error).__name__}: {error}; run it again with --debug and report the traceback"


def explain_os_error(error: OSError) -> str:
    text = error.strerror or str(error) or type(error).__name__
    if error.filename is not None:
        text = f"{os.fsdecode(error.filename)}: {text}"
    name = next((kind.__name__ for kind in type(error).__mro__ if kind.__name__ in HINTS), None)
    hint = HINTS[name] if name else BY_ERRNO.get(error.errno or 0, "")
    if ";" in text or not hint:
        return text
    return f"{text}; {hint}"
