"""Files that are written completely or not at all, and locks of run folders."""

import contextlib
import datetime
import errno
import os
import socket
import threading
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path

from pvae.errors import PvaeError, first_line

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

__all__ = ["LOCK", "atomic", "locked", "why"]

LOCK = ".lock"

_UNDER_LOCK = ".locked.tmp"  # the suffix of temporary files in a locked folder
_held: set[tuple[Path, int, int]] = set()  # folder, process, thread


@contextlib.contextmanager
def atomic(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a temporary path beside `path` and renames it to `path` if the block succeeds.

    The content and the name are on disk before this returns. After a power cut, the folder has the
    old file or the new one.

    Raises:
        PvaeError: The file cannot be written; an older file of that name is unchanged.

    Example:
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "a.txt"
        >>> with atomic(path) as temporary:
        ...     _ = temporary.write_text("whole")
        >>> path.read_text()
        'whole'
    """
    path = Path(path)
    end = _UNDER_LOCK if _is_mine(path.parent) else ".tmp"
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}{end}")
    try:
        _make(path.parent)
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)
        _sync(path.parent)
    except OSError as error:
        raise _cannot_write(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(folder: str | os.PathLike[str] | None) -> Iterator[None]:
    """Locks a folder for this thread: no other process or thread writes there.

    The operating system holds the lock, on a file that names the process, and releases it when the
    process ends. The thread that holds it may lock again. Files that a killed process left
    unfinished under the lock are removed. `None` locks nothing.

    Raises:
        PvaeError: Another process or thread uses the folder (the message names the process), or
            the folder cannot be written.
    """
    if folder is None:
        yield
        return
    folder = Path(folder).resolve()
    mine = _mine(folder)
    if mine in _held:
        yield
        return
    file = _take(folder)
    _held.add(mine)
    try:
        yield
    finally:
        _held.discard(mine)
        with contextlib.suppress(OSError):  # before the lock is released: nobody else holds it
            (folder / LOCK).unlink()
        os.close(file)


def why(temporary: Path, error: Exception) -> OSError:
    """Returns the system's error after a library failed to write a file, by writing to it again."""
    try:
        with temporary.open("ab") as file:
            for _ in range(64):
                file.write(bytes(2**20))
            file.flush()
            os.fsync(file.fileno())
    except OSError as found:
        return found
    return OSError(first_line(error))


def _take(folder: Path) -> int:
    """Opens the folder's lock file and locks it."""
    path = folder / LOCK
    try:
        _make(folder)
        while True:
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                mine = _lock(file)
                if mine is False:
                    holder = os.read(file, 1000).decode(errors="replace") or "another process"
                    raise PvaeError(
                        f"{folder} is in use by {holder}. Wait until it has finished, or choose "
                        "another folder."
                    )
                # Except on Windows, the last holder may have removed the file that was opened here.
                if fcntl is None or (
                    path.exists() and os.path.samestat(os.fstat(file), path.stat())
                ):
                    now = datetime.datetime.now().isoformat(" ", "seconds")
                    text = f"process {os.getpid()} on {socket.gethostname()} (since {now})"
                    os.ftruncate(file, 0)
                    os.write(file, text.encode())
                    if mine:
                        _remove_unfinished(folder)
                    return file
            except BaseException:
                os.close(file)
                raise
            os.close(file)
    except OSError as error:
        raise _cannot_write(path, error) from error


def _mine(folder: Path) -> tuple[Path, int, int]:
    return folder, os.getpid(), threading.get_ident()


def _is_mine(folder: Path) -> bool:
    """Whether this thread has locked a folder or its parent."""
    folder = folder.resolve()
    return _mine(folder) in _held or _mine(folder.parent) in _held


def _remove_unfinished(folder: Path) -> None:
    """Removes the unfinished files of processes that were killed under the lock."""
    with contextlib.suppress(OSError):
        for pattern in (f".*{_UNDER_LOCK}", f"*/.*{_UNDER_LOCK}"):
            for path in folder.glob(pattern):
                path.unlink()


def _lock(file: int) -> bool | None:
    """Locks an open file; False if it is in use, None if the file system has no locks."""
    try:
        if fcntl is None:
            import msvcrt

            os.lseek(file, 1 << 30, os.SEEK_SET)  # after the text, which others read
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
            os.lseek(file, 0, os.SEEK_SET)
        else:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES, errno.EDEADLK):
            os.lseek(file, 0, os.SEEK_SET)
            return False
        warnings.warn(
            f"This file system has no locks ({error.strerror}). Let only one process at a time "
            "work in a run folder.",
            stacklevel=5,
        )
        return None
    return True


def _make(folder: Path) -> None:
    """Makes a folder and its parents, and waits until they are on disk."""
    if not folder.is_dir():
        _make(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync(folder.parent)


def _sync(path: Path) -> None:
    """Waits until a file or a folder's entries are on disk."""
    folder = path.is_dir()
    if folder and os.name == "nt":  # Windows cannot open folders
        return
    file = os.open(path, os.O_RDONLY if folder else os.O_RDWR)
    try:
        os.fsync(file)
    except OSError as error:
        # Some file systems cannot sync folders.
        if not folder or error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(file)


def _cannot_write(path: Path, error: OSError) -> PvaeError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return PvaeError(
        f"Cannot write {path}: {error.strerror or error}. "
        f"{'Free some space or choose' if full else 'Choose'} another folder; older files are "
        "unchanged."
    )
