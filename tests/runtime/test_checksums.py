"""Every damage of a checkpoint's files is noticed, and the one before it is used."""

import os
import random
import shutil

import pytest

from ddae_jax.errors import UserError
from ddae_jax.runtime import checkpoint, checksums, damage
from ddae_jax.runtime.files import read_json


def files(workdir, step=4):
    folder = workdir / "checkpoints" / str(step)
    return [folder / name for name in read_json(folder / checksums.FILE)]


def flip(path, bit):
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def test_damage_of_each_file_is_noticed_and_named(pretrained, tmp_path):
    rng = random.Random(0)
    workdir = shutil.copytree(pretrained, tmp_path / "run")
    folder = workdir / "checkpoints"
    assert damage.find(folder, 4) is None
    for path in files(workdir):
        content = path.read_bytes()
        path.unlink()
        assert f"{path.name}: it is missing" in damage.find(folder, 4)
        path.write_bytes(content[: rng.randrange(len(content))])
        assert f"{path.name}: " in damage.find(folder, 4)
        if path.name != "_CHECKPOINT_METADATA":  # its time of commit may change
            for _ in range(3):
                path.write_bytes(content)
                flip(path, rng.randrange(8 * len(content)))
                assert f"{path.name}: its content" in damage.find(folder, 4)
        path.write_bytes(content)
    assert damage.find(folder, 4) is None


def test_the_newest_intact_one_is_chosen(pretrained, tmp_path, caplog):
    workdir = shutil.copytree(pretrained, tmp_path / "run")
    largest = max(files(workdir), key=os.path.getsize)
    flip(largest, 12345)
    with caplog.at_level("WARNING"):
        assert checkpoint.choose_step(workdir) == 2
    assert f"{largest.name}: its content has changed" in caplog.text
    assert "reading step 2 instead" in caplog.text
    with pytest.raises(UserError, match=r"is damaged: .*; choose another"):
        checkpoint.choose_step(workdir, 4)
    damage.tidy(workdir / "checkpoints")
    assert checkpoint.saved_steps(workdir) == [2]
    assert (workdir / "checkpoints" / "4.damaged").is_dir()
    flip(max(files(workdir, 2), key=os.path.getsize), 12345)
    with pytest.raises(UserError, match="no other is intact"):
        damage.tidy(workdir / "checkpoints")


def test_what_a_kill_left_half_removed_goes(pretrained, tmp_path):
    workdir = shutil.copytree(pretrained, tmp_path / "run")
    folder = workdir / "checkpoints"
    shutil.copytree(folder / "2", folder / "1")
    shutil.rmtree(folder / "1" / "metrics")
    files(workdir, 2)[0].unlink()
    damage.tidy(folder, every=2)
    assert sorted(path.name for path in folder.iterdir()) == ["2.damaged", "4"]
