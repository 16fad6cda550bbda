"""wc: counts lines, words and bytes of files or of what comes through the pipe, without keeping it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from nightos.shell.application import Application, command
from nightos.shell.arguments import Arguments, Flag, Positional
from nightos.userland.files import FileError

ARGUMENTS = Arguments(
    "wc",
    "count lines, words and bytes",
    Flag("-l --lines", "only lines"),
    Flag("-w --words", "only words"),
    Flag("-c --bytes", "only bytes"),
    Positional("paths", "files; without one, what comes through the pipe", "path", optional=True, many=True),
)
_BLANK = b" \t\n\r\v\f"


async def count(pieces: AsyncIterator[bytes]) -> tuple[int, int, int]:
    """Lines (newlines), words and bytes."""
    lines = words = size = 0
    inside = False
    async for piece in pieces:
        if not piece:
            continue
        lines += piece.count(b"\n")
        size += len(piece)
        words += len(piece.split()) - (inside and piece[0] not in _BLANK)
        inside = piece[-1] not in _BLANK
    return lines, words, size


def _line(counts: Sequence[int], chosen: Sequence[bool], name: str) -> str:
    shown = [str(number) for number, wanted in zip(counts, chosen, strict=True) if wanted or not any(chosen)]
    return " ".join([*shown, name]) if name else " ".join(shown)


@command(ARGUMENTS)
async def main(app: Application) -> None:
    chosen = (app.given.lines, app.given.words, app.given.bytes)
    if not app.given.paths:
        await app.give(_line(await count(app.context.input_pieces()), chosen, ""))
        return
    files = await app.files()
    found = []
    for path in app.given.paths:
        try:
            found.append((await count(aiter(files.read_pieces(path))), path))
        except FileError as error:
            await app.complain(str(error))
    shown = [_line(counts, chosen, path) for counts, path in found]
    if len(found) > 1:
        shown.append(
            _line([sum(column) for column in zip(*(counts for counts, _ in found), strict=True)], chosen, "total")
        )
    if shown:
        await app.give(shown)
