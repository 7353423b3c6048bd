"""Files are complete or missing, and one process at a time writes into a folder."""

import contextlib
import errno
import os
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from pvae import PvaeError
from pvae.runtime.files import LOCK, atomic, locked, why

HALF = """
import sys, pvae.runtime.files as f
from pathlib import Path
run, elsewhere = map(Path, sys.argv[1:])
with f.atomic(run / "report.html") as report, f.locked(run):
    with f.atomic(run / "a.nc") as a, f.atomic(run / "part" / "b") as b, f.atomic(elsewhere) as c:
        [path.write_text("half") for path in (report, a, b, c)]
        print("written", flush=True)
        input()
"""
HOLD = """\
import sys, pvae.runtime.files as f
with f.locked(sys.argv[1]): print('mine', flush=True); input()
"""


def _write(path, text, error):
    with atomic(path) as temporary:
        temporary.write_text(text)
        raise error


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError):
        _write(path, "new", ZeroDivisionError())
    assert path.read_text() == "old"
    with pytest.raises(PvaeError, match=r"Cannot write .*a.txt: No space"):
        _write(path, "half", OSError(28, "No space left on device"))
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_file_is_on_disk_before_it_has_its_name_and_its_name_afterwards(tmp_path, monkeypatch):
    done = []
    fsync, replace = os.fsync, os.replace

    def note_fsync(file):
        done.append(os.fstat(file).st_ino)
        fsync(file)

    def note_replace(old, new):
        done.append((os.stat(old).st_ino, Path(new).name))
        replace(old, new)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "replace", note_replace)
    path = tmp_path / "new" / "run" / "a.txt"
    with atomic(path) as temporary:
        temporary.write_text("whole")
    inodes = [p.stat().st_ino for p in (tmp_path, tmp_path / "new", path, path.parent)]
    assert done == [*inodes[:3], (inodes[2], "a.txt"), inodes[3]]


def test_what_the_system_said_is_found_where_a_library_hides_it(tmp_path):
    assert why(Path("/dev/full"), RuntimeError("HDF error")).errno == 28
    found = why(tmp_path / "a", RuntimeError("not the disk"))
    assert found.errno is None
    assert str(found) == "not the disk"


@pytest.fixture
def too_small():
    """Limits the files of this process to 8 KiB."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.getsignal(signal.SIGXFSZ)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("what", ["evaluation.nc", "checkpoint.pt", "evaluation.json"])
def test_a_disk_that_is_full_is_one_message_whatever_is_written(what, tmp_path, request):
    import numpy as np
    import torch

    from pvae.evaluation.result import Evaluation
    from pvae.training.checkpoint import write_checkpoint

    evaluation = Evaluation(
        **dict.fromkeys(
            ("elbo", "log_px", "log_px_se", "khat", "ess", "kl", "reconstruction"), np.zeros(3000)
        ),
        zero_weights=np.zeros(3000), bounds={1: np.zeros(3000)}, sites={}, num_samples=1, seed=0,
        khat_threshold=0.7, model="M", guide="G", data={"name": "n" * 9000, "hash": ""},
        strategy="plate",
    )  # fmt: skip
    (tmp_path / what).write_text("old")
    request.getfixturevalue("too_small")
    write = {
        "checkpoint.pt": lambda: write_checkpoint(tmp_path / what, {"x": torch.zeros(9000)}),
        "evaluation.nc": lambda: evaluation.save(tmp_path),
        "evaluation.json": lambda: evaluation.save_summary(tmp_path),
    }[what]
    with pytest.raises(PvaeError, match=rf"Cannot write .*{what}: File too large"):
        write()
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [(what, "old")]


@contextlib.contextmanager
def _process(code, *args):
    """Another process, after it has printed a line."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, *args],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout.readline() != ""
        yield process
        process.kill()


@pytest.fixture
def holder(tmp_path):
    """Another process that has the folder."""
    with _process(HOLD, tmp_path) as process:
        yield process


@pytest.mark.parametrize("end", ["done", "killed"])
def test_a_folder_is_one_processs_until_its_end(holder, tmp_path, end):
    (tmp_path / "sub").mkdir()
    with (
        pytest.raises(PvaeError, match=rf"is in use by process {holder.pid} on"),
        locked(tmp_path / "sub" / ".."),
    ):
        pytest.fail("it was another's")
    if end == "killed":
        holder.kill()
    else:
        holder.communicate("\n")
    holder.wait()
    assert (tmp_path / LOCK).exists() == (end == "killed")
    with locked(tmp_path), locked(tmp_path):
        assert f"process {os.getpid()} on" in (tmp_path / LOCK).read_text()
    assert [p.name for p in tmp_path.iterdir()] == ["sub"]


def _names(folder):
    return sorted(path.name.split(".")[1] for path in folder.rglob(".*.tmp"))


def test_what_a_killed_process_had_begun_is_removed_with_its_lock(tmp_path):
    run = tmp_path / "run"
    with _process(HALF, run, tmp_path / "elsewhere") as process:
        with pytest.raises(PvaeError, match="in use"), locked(run):
            pytest.fail("it was another's")
        assert _names(tmp_path) == ["a", "b", "elsewhere", "report"]  # being written
        process.kill()
    (run / ".notes.tmp").write_text("somebody else's")
    with atomic(run / "c") as temporary:
        temporary.write_text("whole")
        assert _names(run) == ["a", "b", "c", "notes", "report"]
    with locked(tmp_path), locked(run):
        # Without the lock, others may be writing these.
        assert _names(tmp_path) == ["elsewhere", "notes", "report"]


def test_nothing_is_removed_where_nothing_can_be_locked(tmp_path, monkeypatch):
    def no_locks(file, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", no_locks)
    with contextlib.ExitStack() as stack:
        with pytest.warns(UserWarning, match="has no locks"):
            stack.enter_context(locked(tmp_path))
        temporary = stack.enter_context(atomic(tmp_path / "a"))
        temporary.write_text("whole")
        with pytest.warns(UserWarning, match="No locks available"):
            assert take_in_a_thread(tmp_path) == "taken"
        assert temporary.exists()


def take_in_a_thread(folder):
    """Returns what another thread gets when it locks the folder: "taken" or the error."""
    said = []

    def take():
        try:
            with locked(folder):
                said.append("taken")
        except PvaeError as error:
            said.append(str(error))

    thread = threading.Thread(target=take)
    thread.start()
    thread.join()
    return said[0]


@pytest.fixture
def windows(monkeypatch):
    """Locks as on Windows: of the bytes at a file's position, which no other process may touch."""
    taken, unlink = {}, Path.unlink

    def is_open(file, inode):
        try:
            return os.fstat(file).st_ino == inode
        except OSError:
            return False

    def locking(file, mode, count):
        assert (mode, count) == ("LK_NBLCK", 1)
        inode, place = os.fstat(file).st_ino, os.lseek(file, 0, os.SEEK_CUR)
        assert place > 1000  # the text can be read by others
        if taken.setdefault(inode, file) != file and is_open(taken[inode], inode):
            raise PermissionError(errno.EACCES, "Permission denied")
        taken[inode] = file  # a number that is given out again was closed

    def remove(path, missing_ok=False):
        if path.name == LOCK:
            raise PermissionError(errno.EACCES, "It is open")
        unlink(path, missing_ok)

    monkeypatch.setitem(
        sys.modules, "msvcrt", SimpleNamespace(locking=locking, LK_NBLCK="LK_NBLCK")
    )
    monkeypatch.setattr("pvae.runtime.files.fcntl", None)
    monkeypatch.setattr(Path, "unlink", remove)


@pytest.mark.usefixtures("windows")
def test_a_folder_is_one_threads_on_windows(tmp_path):
    with locked(tmp_path), locked(tmp_path):
        assert f"in use by process {os.getpid()} on" in take_in_a_thread(tmp_path)
    assert take_in_a_thread(tmp_path) == "taken"
    with locked(tmp_path):
        text = (tmp_path / LOCK).read_text()
    assert text.startswith(f"process {os.getpid()} on")
    assert text.count("process") == 1


def test_a_folder_is_one_threads(tmp_path):
    with locked(tmp_path):
        assert f"in use by process {os.getpid()}" in take_in_a_thread(tmp_path)
    assert take_in_a_thread(tmp_path) == "taken"


def test_a_lock_file_that_its_holder_removes_meanwhile_locks_nothing(tmp_path, monkeypatch):
    # The holder removes the file after it was opened here: two processes would hold two files.
    path, first = tmp_path / LOCK, []
    real = os.open

    def slow(name, *args, **kwargs):
        file = real(name, *args, **kwargs)
        if Path(name) == path and not first:
            first.append(file)
            path.unlink()
        return file

    monkeypatch.setattr(os, "open", slow)
    with locked(tmp_path):
        assert path.exists()


def test_a_folder_that_cannot_be_locked(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(PvaeError, match="Cannot write"), locked(tmp_path / "file" / "run"):
        pytest.fail("there is no such folder")
    with locked(None):
        pass
