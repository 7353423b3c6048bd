"""Files are whole or not there."""

import pytest

from pvae import PvaeError
from pvae.files import atomic


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
