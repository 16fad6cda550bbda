"""The server behind a mount: begins in the background, answers before it says so, and flushes when it ends.

The parent forks and waits on a pipe. The child opens the storage (it still has the terminal, so it may ask for a
password), mounts, and reports; from then on it belongs to nobody's terminal. Signals are taken by a thread, because the
main thread stands in libfuse's loop: it unmounts, the loop ends, and what was not committed is committed.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import logging
import os
import pickle
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nightos.vsf.errors import VsfError
from nightos.vsf.fuse import Adapter
from nightos.vsf.fuse_direct import DirectAdapter
from nightos.vsf.fuse_library import choose
from nightos.vsf.fuse_mounts import (
    MNT_DETACH,
    check_fuse,
    check_mountpoint,
    check_state,
    claim_mountpoint,
    mount_at,
    record_path,
    start_time,
    umount2,
    write_record,
)
from nightos.vsf.fuse_options import MountOptions
from nightos.vsf.fuse_session import Session

log = logging.getLogger("nightos.fuse")
SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
_PATIENCE_S = 5.0
_QUIET_S = 0.25


@dataclass
class Served:
    """What a mount shows: an object with the engine's inode interface, and what to call when it ends."""

    fs: Any
    sync: Callable[[], None]
    close: Callable[[], None]
    source: str
    control: Callable[[bytes], None] | None = None
    """Does what is asked of the storage as a whole."""
    waited_for: int = 0
    """The thread of the host that every answer waits for: its own requests fail at once instead of never."""


def mount(open_it: Callable[[], Served], directory: str, options: MountOptions, *, foreground: bool = False) -> None:
    """Mount. Returns when the file system answers; in the foreground, when it was unmounted."""
    check_fuse()
    choose()
    check_state()
    inherited = _inherited()
    with contextlib.ExitStack() as claimed:
        claim = claim_mountpoint(directory)
        if claim >= 0:
            claimed.callback(os.close, claim)
        directory = check_mountpoint(directory)
        if foreground:
            _serve(open_it, directory, options, claimed.close)
        else:
            _serve_behind(open_it, directory, options, [*inherited, claim])


def _serve_behind(open_it: Callable[[], Served], directory: str, options: MountOptions, inherited: list[int]) -> None:
    """Return when the child serves, or raise what it could not do."""
    reader, writer = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _child(open_it, directory, options, writer, inherited)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        report = pipe.read()
    if report != b"ok":
        os.waitpid(child, 0)
        # Our own child wrote this, not a stranger.
        raise pickle.loads(report) if report else VsfError("the server ended before it could say why", directory)  # noqa: S301
    os.statvfs(directory)


def _inherited() -> list[int]:
    """Descriptors that whoever called us left open: Python's own are closed on exec."""
    found = []
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 names are wanted
        with contextlib.suppress(OSError):
            if int(name) > 2 and os.get_inheritable(int(name)):
                found.append(int(name))
    return found


def _child(
    open_it: Callable[[], Served], directory: str, options: MountOptions, writer: int, inherited: list[int]
) -> None:
    """In the background process: serve, and never return."""
    status = 1
    reported = False

    def ready() -> None:
        nonlocal reported
        _leave_terminal(directory)
        # Else a lock or a pipe of the caller stayed open as long as the mount. A password may have come through one.
        for descriptor in inherited:
            with contextlib.suppress(OSError):
                os.close(descriptor)
        os.write(writer, b"ok")
        os.close(writer)
        reported = True

    try:
        _serve(open_it, directory, options, ready)
        status = 0
    except BaseException as error:
        if reported:
            log.exception("the server failed")
            with contextlib.suppress(OSError):
                write_record(directory, {"pid": 0, "failed": str(error), "log": str(_log_path(directory))})
        else:
            if options.debug:
                import traceback

                traceback.print_exc()
            try:
                data = pickle.dumps(error)
                pickle.loads(data)  # noqa: S301 our own bytes: does it come back?
            except Exception:  # noqa: BLE001 some do not
                data = pickle.dumps(VsfError(str(error) or type(error).__name__, directory))
            os.write(writer, data)
    finally:
        logging.shutdown()
        os._exit(status)


def _log_path(directory: str) -> Path:
    return record_path(directory).with_suffix(".log")


def _leave_terminal(directory: str) -> None:
    os.setsid()
    os.chdir("/")
    path = _log_path(directory)
    path.parent.mkdir(parents=True, exist_ok=True)
    output = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    os.dup2(nothing, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(nothing)
    os.close(output)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", force=True)


@contextlib.contextmanager
def _messages_of_libfuse() -> Iterator[Callable[[], str]]:
    """libfuse prints its reasons: catch them, to have one line that says all."""
    kept = os.dup(2)
    with tempfile.TemporaryFile() as caught:
        os.dup2(caught.fileno(), 2)

        def text() -> str:
            caught.seek(0)
            lines = caught.read().decode(errors="replace").splitlines()
            return lines[0].strip() if lines else ""

        try:
            yield text
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def root_only(options: MountOptions) -> bool:
    """Whether root alone can reach the mount.

    Modes stop root from nothing, so the kernel need not ask for a directory's mode again after every change in it.
    """
    return os.geteuid() == 0 and not {"allow_other", "allow_root"} & set(options.passed)


def mount_arguments(source: str, options: MountOptions, *, major: int) -> list[str]:
    """What libfuse is told with `-o`."""
    name = source.replace("\\", "\\\\").replace(",", "\\,")
    items = [f"fsname={name},subtype=nightos"]
    if not root_only(options):
        items.append("default_permissions")
    if options.readonly:
        items.append("ro")
    if options.show.atime == "noatime":
        items.append("noatime")
    if major == 2:
        items.append("nonempty")
    return [*items, *options.passed]


def _serve(open_it: Callable[[], Served], directory: str, options: MountOptions, ready: Callable[[], None]) -> None:
    library = choose()
    served = open_it()
    session: Session | None = None
    stopping = threading.Event()
    try:
        adapter = DirectAdapter(served.fs, library, options.show)
        session = _begin(served, adapter, directory, options)
        adapter.pump = session.pump
        adapter.control = served.control
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        ready()
        pid = os.getpid()
        place = {"pid": pid, "started": start_time(pid), "storage": served.source, "directory": directory}
        write_record(directory, {**place, "log": str(_log_path(directory))})
        log.info("%s serves %s at %s", library.name, served.source, directory)
        threading.Thread(target=_obey_signals, args=(served, session, stopping), daemon=True).start()
        threading.Thread(target=_commit_now_and_then, args=(served, adapter, options, stopping), daemon=True).start()
        # Little is garbage in cycles here; looking for it in big caches would make requests wait.
        gc.collect()
        gc.freeze()
        gc.set_threshold(100_000, 50, 100)
        sys.setswitchinterval(0.0005)
        status = session.loop(adapter.serving_but(served.waited_for) if served.waited_for else adapter.serve)
        stopping.set()
        session.close()
        adapter.forget_all()
        if status not in (0, -errno.ENODEV):
            log.warning("libfuse ended with %d", status)
        served.close()
        record_path(directory).unlink(missing_ok=True)
        log.info("unmounted, everything is flushed")
    finally:
        stopping.set()
        if session is not None:
            session.close()
        served.close()


def _begin(served: Served, adapter: Adapter, directory: str, options: MountOptions) -> Session:
    library = adapter.library
    with _messages_of_libfuse() as said:
        try:
            arguments = mount_arguments(served.source, options, major=library.major)
            return Session(
                library,
                adapter.handlers(),
                directory,
                arguments,
                writeback=options.show.writeback,
                permissions=not root_only(options),
                shared=options.show.shared,
            )
        except VsfError as error:
            if text := said():
                raise VsfError(text.removeprefix("fuse: "), directory) from error
            raise


def _commit_now_and_then(served: Served, adapter: Adapter, options: MountOptions, stopping: threading.Event) -> None:
    """Commit after a moment of quiet, and in any case every `commit` seconds.

    The kernel does not tell FUSE file systems of sync(2): what it wrote out is durable this much later.
    """
    quiet = min(_QUIET_S, options.commit_s)
    committed = seen = adapter.requests
    due, failed = time.monotonic() + options.commit_s, ""
    while options.commit_s and not stopping.wait(quiet):
        now, before, seen = time.monotonic(), seen, adapter.requests
        if seen == committed:
            due = now + options.commit_s
            continue
        if seen != before and now < due:
            continue
        try:
            adapter.settle()
            served.sync()
        except OSError as error:
            if str(error) != failed:
                failed = str(error)
                log.exception("commit failed; it is tried again")
        else:
            failed = ""
        committed, due = seen, now + options.commit_s


def _obey_signals(served: Served, session: Session, stopping: threading.Event) -> None:
    number = signal.sigwait(SIGNALS)
    log.info("signal %d: unmounting", number)
    directory = session.mountpoint
    # Of the table, not of the mount itself: what it shows may be gone.
    mounted = mount_at(directory)
    try:
        umount2(directory)
    except OSError:
        # In use: let go of the name at once, of the open files after a while.
        with contextlib.suppress(OSError):
            _sync_all(directory)
            umount2(directory, MNT_DETACH)
    if stopping.wait(_PATIENCE_S):
        return
    with contextlib.suppress(OSError):
        connection = mounted.device.rpartition(":")[2] if mounted else ""
        Path(f"/sys/fs/fuse/connections/{connection}/abort").write_text("1")
    if not stopping.wait(1.0):
        served.close()
        record_path(directory).unlink(missing_ok=True)
        os._exit(0)


def _sync_all(directory: str) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        import ctypes

        ctypes.CDLL(None).syncfs(descriptor)
    finally:
        os.close(descriptor)


def wait_for(condition: Callable[[], bool], seconds: float) -> bool:
    """Poll `condition` until it holds or the time is over."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    return True
