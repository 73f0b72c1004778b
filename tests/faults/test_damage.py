"""Files that change under a run: checkpoints that are damaged, images that go."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image

from ddae_jax.runtime import checksums, log
from ddae_jax.runtime.files import read_json
from tests.tools import runs as run_tools


@pytest.mark.slow
def test_a_flipped_bit_costs_the_steps_since_the_checkpoint_before(
    pretrained, tmp_path
):
    workdir = shutil.copytree(pretrained, tmp_path / "run")
    expected = run_tools.saved_state(workdir, 4)
    folder = workdir / "checkpoints" / "4"
    names = read_json(folder / checksums.FILE)
    largest = max((folder / name for name in names), key=os.path.getsize)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    sampling = ("--task=sample", "--config.sampler.steps=2", f"--workdir={workdir}")
    errors = run_tools.run(*run_tools.TINY, *sampling)
    assert f"{largest.name}: its content has changed; reading step 2" in errors
    errors = run_tools.run(*run_tools.pretraining(workdir, 4))
    assert f"{largest.name}: its content has changed; set aside" in errors
    assert "resuming from step 2" in errors
    run_tools.assert_same_state(run_tools.saved_state(workdir, 4), expected)
    assert [row["step"] for row in log.read_metrics(workdir)] == [1, 2, 3, 4]


@pytest.mark.campaign
def test_an_image_that_is_removed_is_named_and_the_run_goes_on_with_it(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(40):
            pixels = rng.integers(0, 256, (8, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{i}.png")
    words = run_tools.pretraining(
        tmp_path / "run",
        100_000,
        "--config.data.name=image_folder",
        f"--config.data.folder={tmp_path / 'images'}",
        "--config.data.resident_bytes=0",
        "--config.train.checkpoint_every=2",
    )
    process = run_tools.start(*words)
    for line in process.stderr:
        if "pretrain 4/" in line:
            break
    (tmp_path / "images" / "a").rename(tmp_path / "gone")
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 2, errors
    last = errors.splitlines()[-1]
    assert last.startswith("error: ") and str(tmp_path / "images" / "a") in last
    assert "Traceback" not in errors
    (tmp_path / "gone").rename(tmp_path / "images" / "a")
    saved = [int(p.name) for p in (tmp_path / "run" / "checkpoints").glob("[0-9]*")]
    done = max(int(step) for step in saved)
    assert done >= 2
    again = [word for word in words if not word.startswith("--config.train.steps")]
    errors = run_tools.run(*again, f"--config.train.steps={done + 2}")
    assert f"resuming from step {done}" in errors
