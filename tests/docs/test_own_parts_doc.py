"""docs/own_parts.md: its code runs, block after block."""

import json
import os
import re
import subprocess
import sys

import pytest

from tests.conftest import ROOT

TEXT = (ROOT / "docs" / "own_parts.md").read_text()
CHECK = """
assert features.shape == (2, 4), features.shape
assert model.taps == ("hidden",)
assert model.settings.names["network"] == "plain"
ddae_jax.run("count", workdir="runs/stripes", settings={"imports": "mine"})
"""


@pytest.mark.slow
def test_every_block_runs(tmp_path):
    """In a process of its own: what is registered stays."""
    blocks = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert len(blocks) == 4
    text = "\n".join(blocks)
    assert text.count("steps=20") == 1
    (tmp_path / "page.py").write_text(text.replace("steps=20", "steps=2") + CHECK)
    package = tmp_path / "mine"
    package.mkdir()
    task = re.sub(r"^    ", "", TEXT.split("## Task")[1], flags=re.MULTILINE)
    for name, code in re.findall(
        r"^# mine/(\w+\.py)\n(.*?)(?=^# mine|^## )", task, re.DOTALL | re.MULTILINE
    ):
        (package / name).write_text(code)
    assert len(list(package.iterdir())) == 2
    done = subprocess.run(
        [sys.executable, "page.py"],
        env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / "runs" / "stripes" / "count.json").read_text())
    assert written == {"count": (9 * 4 + 4) + (9 * 4 + 1)}
