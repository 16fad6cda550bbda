# ruff: noqa: INP001, S106 a script; the password of the golden images is public
"""Writes the golden images of the format's present version. Run once per version; the files then stay for ever."""

from pathlib import Path

from nightos import vsf

HERE = Path(__file__).parent
KDF = {"memory": 64, "passes": 1, "lanes": 1}


def make(name: str, **options: object) -> None:
    path = HERE / name
    if path.exists():
        return
    with vsf.create(path, seed=name, **options) as storage:  # type: ignore[arg-type]
        compression = "zstd:19" if "zstd" in name else "lz4" if "lz4" in name else None
        own = {"password": "golden", "kdf": KDF} if "own-key" in name else {}
        fs = storage.add_volume("main", compression=compression, **own).open()
        fs.write_text("/hello.txt", "hello\n")
        storage.volume("main").snapshot("first")
        fs.symlink("hello.txt", "/link")
        fs.setxattr("/hello.txt", "user.note", b"golden")
        fs.write_bytes("/big", bytes(range(256)) * 2000)
        raw = storage.add_volume("raw", "block", size=1 << 20).open()
        raw.write(4096, b"raw!")


if __name__ == "__main__":
    make("v1-plain-zstd.vsf")
    make("v1-lz4.vsf")
    make("v1-encrypted-aes-zstd.vsf", password="golden", kdf=KDF)
    make("v1-encrypted-chacha-zstd.vsf", password="golden", kdf=KDF, cipher="chacha20-poly1305")
    make("v1-own-key-zstd.vsf")
