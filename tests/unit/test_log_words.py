"""What the log says when the disk refuses: the path once, the reason in words, and what to try."""

import errno
import os
import pwd

import pytest

from gateway.errors import LogError, LogFull
from gateway.log.files import SystemFiles, as_log_errors


def said(path, error=None):
    with pytest.raises(LogError) as refused, as_log_errors(f"cannot open {path}"):
        if error is not None:
            raise error
        SystemFiles().make_folder(str(path))
    assert "Errno" not in str(refused.value)
    assert str(refused.value).count(str(path)) == 1
    return str(refused.value)


def test_a_file_in_the_place_of_the_folder(tmp_path):
    (tmp_path / "log").write_text("")
    for path in (tmp_path / "log", tmp_path / "log" / "inner"):
        assert "there is a file where the folder should be" in said(path)


def test_a_folder_of_somebody_else_names_who_we_are_and_whose_it_is(tmp_path):
    me = pwd.getpwuid(os.geteuid()).pw_name
    path = tmp_path / "log"
    path.mkdir(mode=0o755)
    refusal = PermissionError(errno.EACCES, "Permission denied", str(path))
    told = said(path, refusal)
    assert f"user {me} may not write there (it belongs to {me}, mode 0755)" in told
    assert f"chown -R {me}" in told
    assert "another log.path" in told


def test_a_read_only_disk_and_a_full_one(tmp_path):
    path = str(tmp_path / "log")
    assert "is read-only; mount it for writing" in said(path, OSError(errno.EROFS, "Read-only file system", path))
    with (
        pytest.raises(LogFull, match=f"^cannot write {path}: No space left on device$"),
        as_log_errors(f"cannot write {path}"),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
