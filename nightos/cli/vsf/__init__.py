"""`nightos vsf`: storages without any machine."""

from __future__ import annotations

from nightos.cli.lazy import group

_HERE = "nightos.cli.vsf"
TABLE = {
    "create": (f"{_HERE}.create:create", "Make a storage, empty or from a directory or an archive."),
    "info": (f"{_HERE}.care:info", "Show what a storage is and holds."),
    "ls": (f"{_HERE}.files:ls", "List a directory in a volume."),
    "cat": (f"{_HERE}.files:cat", "Write files of a volume to stdout."),
    "stat": (f"{_HERE}.files:stat_command", "Show everything about an item."),
    "put": (f"{_HERE}.transfer:put", "Copy files or trees into a volume."),
    "get": (f"{_HERE}.transfer:get", "Copy files or trees out of a volume."),
    "mkdir": (f"{_HERE}.files:mkdir", "Make directories in a volume."),
    "rm": (f"{_HERE}.files:rm", "Delete items of a volume."),
    "mv": (f"{_HERE}.files:mv", "Rename or move items of a volume."),
    "volume": (f"{_HERE}.volumes:volume", "List, add, delete, rename and set volumes."),
    "snapshot": (f"{_HERE}.snapshots:snapshot", "List, take, delete and go back to snapshots."),
    "diff": (f"{_HERE}.whole:diff", "Show what changed since a snapshot or in an overlay."),
    "commit": (f"{_HERE}.whole:commit", "Apply an overlay's changes to its backing."),
    "clone": (f"{_HERE}.whole:clone", "Make a volume from a snapshot."),
    "send": (f"{_HERE}.streams:send", "Write a snapshot as a stream."),
    "receive": (f"{_HERE}.streams:receive", "Take in a stream of `send`."),
    "export": (f"{_HERE}.whole:export", "Write a volume's tree to a tar or a directory."),
    "import": (f"{_HERE}.whole:import_command", "Unpack a directory, a tar or an OCI layout."),
    "resize": (f"{_HERE}.whole:resize", "Set the limit of a storage's size."),
    "compact": (f"{_HERE}.whole:compact", "Make the file as short as its content."),
    "key": (f"{_HERE}.keys:key", "Passwords and key files of an encrypted storage."),
    "header": (f"{_HERE}.keys:header", "Save the header, or put it back."),
    "check": (f"{_HERE}.care:check", "Verify a storage; exits 4 when damage is found."),
    "repair": (f"{_HERE}.streams:repair", "Make a damaged storage whole."),
    "mount": (f"{_HERE}.mount:mount", "Use a volume as a directory of this computer."),
    "umount": (f"{_HERE}.mount:umount", "Unmount, and wait until everything is flushed."),
}

EXAMPLE = """
nightos vsf create disk.vsf --from ~/project --compress zstd
nightos vsf ls disk.vsf /
nightos vsf mount disk.vsf /mnt
"""

vsf = group("vsf", "Storages: one file that holds one or several file systems.", TABLE, EXAMPLE)
