"""Files appear whole or not at all."""

import errno
import subprocess
import sys

import pytest

from ddae_jax.errors import UserError
from ddae_jax.runtime import files
from ddae_jax.runtime.files import replacing


def test_a_file_appears_where_the_block_succeeds(tmp_path):
    path = tmp_path / "config.json"
    with replacing(path) as part:
        part.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_what_was_there(tmp_path):
    path = tmp_path / "config.json"
    path.write_text("old")
    with pytest.raises(RuntimeError), replacing(path) as part:
        part.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_one_run_at_a_time_in_a_folder(tmp_path):
    workdir = tmp_path / "run"
    code = (
        "import sys; from ddae_jax.runtime import files\n"
        "with files.only_run_in(sys.argv[1]): print('in', flush=True); input()"
    )
    words = [sys.executable, "-c", code, str(workdir)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(words, **pipes) as other:
        assert other.stdout.readline() == b"in\n"
        with (
            pytest.raises(UserError, match="another run works in"),
            files.only_run_in(workdir),
        ):
            pass
        other.kill()
    (workdir / "config.json.0a1b2c3d.part").touch()
    with files.only_run_in(workdir):  # a crash leaves no lock behind
        assert [path.name for path in workdir.iterdir()] == [".lock"]


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(UserError, match=r"--workdir: .*file/run: Not a directory"),
        files.only_run_in(tmp_path / "file" / "run"),
    ):
        pass


def test_a_full_disk_is_known_through_what_libraries_make_of_it():
    full = OSError(errno.ENOSPC, "No space left on device")
    wrapped = ValueError("RESOURCE_EXHAUSTED: write: No space left on device")
    assert files.disk_is_full(full) and files.disk_is_full(wrapped)
    try:
        raise RuntimeError("saving failed") from full
    except RuntimeError as error:
        assert files.disk_is_full(error)
    assert not files.disk_is_full(OSError(errno.EACCES, "no"))
