"""docs/python.md: its code runs, block after block, on a tiny network."""

import pathlib
import re

import numpy as np
import pytest

import ddae_jax

TEXT = (pathlib.Path(ddae_jax.__file__).parents[1] / "docs" / "python.md").read_text()
SHORT = {
    'config="digits"': 'config="digits:test"',
    "steps=400": "steps=2",
    'classifier="logistic"': 'classifier="logistic", batch_size=8, times=(1,)',
}


@pytest.mark.slow
def test_every_block_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (60, 8, 8, 1), np.uint8)
    labels = np.arange(60) % 2
    names = {"images": images, "labels": labels}
    names |= {"test_images": images[:20], "test_labels": labels[:20]}
    blocks = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert len(blocks) == 7
    text = "\n".join(blocks)
    for long, short in SHORT.items():
        assert text.count(long) == 1
        text = text.replace(long, short)
    exec(compile(text, "docs/python.md", "exec"), names)
    assert names["features"].shape[0] == 60 and names["positions"].ndim == 3
    assert set(names["several"]) == set(names["model"].taps[:2])
    assert np.abs(names["saliency"]).max() > 0
    assert names["samples"].shape == (16, 8, 8, 1)
    assert "diagnose" in names["results"]
    assert names["result"].tap in capsys.readouterr().out
