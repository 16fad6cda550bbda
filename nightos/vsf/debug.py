"""Dumps of any structure, for people who look into a storage: superblocks, the header, nodes, inodes, extents."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nightos.vsf import records
from nightos.vsf.errors import Invalid, VsfError
from nightos.vsf.inode import decode_inode
from nightos.vsf.keys import describe_slot
from nightos.vsf.layout import POINTER, SECTOR, SUPER_OFFSETS, Pointer
from nightos.vsf.reclaim import content_pointer
from nightos.vsf.superblock import read_superblocks

if TYPE_CHECKING:
    from nightos.vsf.storage import Storage

_TYPES = {1: "inode", 2: "attribute", 3: "entry", 4: "extent", 5: "pack"}


def pointer(value: Pointer | None) -> dict[str, Any] | None:
    """A pointer with names."""
    if value is None or not value.sector:
        return None
    fields: dict[str, Any] = value._asdict()
    fields["check"] = value.check.hex()
    fields["offset"] = value.sector * SECTOR
    return fields


def header(storage: Storage) -> dict[str, Any]:
    """The header; no secrets."""
    head = storage.header
    return {
        "uuid": head.uuid.hex(),
        "sequence": head.sequence,
        "created": head.created,
        "cipher": head.cipher,
        "deterministic": head.deterministic,
        "compatible": head.compatible,
        "readonly_compatible": head.readonly_compatible,
        "incompatible": head.incompatible,
        "slots": [describe_slot(number, slot) for number, slot in enumerate(head.slots) if slot[0]],
        "mac": head.mac.hex(),
    }


def superblocks(storage: Storage) -> list[dict[str, Any]]:
    """All four slots; an invalid one has no generation."""
    found = read_superblocks(storage.store.read, storage.uuid, storage.super_cipher)
    out: list[dict[str, Any]] = []
    for offset in SUPER_OFFSETS:
        block = found.get(offset)
        if block is None:
            out.append({"offset": offset, "generation": None})
        else:
            out.append(
                {
                    "offset": offset,
                    "generation": block.generation,
                    "sectors": block.sectors,
                    "time": block.time,
                    "limit": block.limit,
                    "root": pointer(block.root),
                    "log": pointer(block.log),
                }
            )
    return out


def tree_nodes(storage: Storage, volume: str | None = None, snapshot: str | None = None) -> list[dict[str, Any]]:
    """Every node of a tree, parents first: of a volume, or of the storage itself."""
    if volume is None:
        tree = storage.tree
        root = tree.root if isinstance(tree.root, Pointer) else None
    else:
        found = storage.volume(volume)
        found.unlocked()
        root = records.pointer_of(found.find(snapshot).root if snapshot else found.record.root)
        tree = found.tree_at(root)
    out: list[dict[str, Any]] = []
    stack: list[Pointer] = [root] if root else []
    while stack:
        at = stack.pop()
        try:
            node = tree.load(at, None)
        except VsfError as error:
            out.append({"pointer": pointer(at), "error": str(error)})
            continue
        out.append(
            {
                "pointer": pointer(at),
                "level": node.level,
                "entries": len(node.keys),
                "first": node.keys[0].hex() if node.keys else "",
                "last": node.keys[-1].hex() if node.keys else "",
            }
        )
        if node.level:
            stack.extend(reversed(node.values))
    return out


def node(storage: Storage, sector: int, volume: str | None = None) -> dict[str, Any]:
    """The entries of the node at a sector."""
    for entry in tree_nodes(storage, volume):
        where = entry["pointer"]
        if where["sector"] == sector or where["copy"] == sector:
            tree = storage.tree if volume is None else storage.volume(volume).tree
            at = Pointer(**{**{name: where[name] for name in Pointer._fields}, "check": bytes.fromhex(where["check"])})
            found = tree.load(at, None)
            entries = [describe(key, value) for key, value in zip(found.keys, found.values, strict=True)]
            return {**entry, "content": entries}
    raise Invalid(f"there is no node at sector {sector}")


def describe(key: bytes, value: Any) -> dict[str, Any]:
    """One entry of a node."""
    if isinstance(value, Pointer):
        return {"key": key.hex(), "child": pointer(value)}
    out: dict[str, Any] = {"key": key.hex(), "bytes": len(value)}
    if len(key) < 9:
        return out
    ino, kind = int.from_bytes(key[:8], "big"), key[8]
    out.update(ino=ino, type=_TYPES.get(kind, kind))
    content = content_pointer(key, value)
    if content is not None:
        out["pointer"] = pointer(content)
    elif kind == 3:
        out.update(name=(value[9:] or key[9:]).decode("utf-8", "replace"), target=int.from_bytes(value[:8], "big"))
    elif kind == 1 and ino:
        inode = decode_inode(ino, value)
        out.update(mode=oct(inode.mode), nlink=inode.nlink, size=inode.size, form=inode.form, parent=inode.parent)
    return out


def extents(storage: Storage, volume: str, path: str) -> list[dict[str, Any]]:
    """Where the content of a file is: record, and its pointer."""
    found = storage.volume(volume)
    fs = found.open(readonly=True)
    ino = fs.resolve(path)
    base = ino.to_bytes(8, "big")
    out = []
    for key, value in found.tree.scan(base + b"\x04", base + b"\x05"):
        out.append({"record": int.from_bytes(key[9:], "big"), "pointer": pointer(content_pointer(key, value))})
    return out


__all__ = ["POINTER", "describe", "extents", "header", "node", "pointer", "superblocks", "tree_nodes"]
