"""docs/tutorial.md: its code runs, block after block, in its short form."""

import re

import matplotlib
import pytest

from tests.conftest import ROOT

PAGE = ROOT / "docs" / "tutorial.md"


@pytest.mark.slow
def test_every_block_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) == 6
    text = "\n".join(blocks)
    assert text.count('config="digits"') == 1
    short = text.replace('config="digits"', 'config="digits:test"')
    names = {}
    exec(compile(short, PAGE.name, "exec"), names)
    assert names["samples"].shape == (16, 8, 8, 1)
    assert len(names["features"]) == len(names["test_images"]) == 497
    assert isinstance(names["figure"], matplotlib.figure.Figure)
    assert names["result"].tap in capsys.readouterr().out
    assert (tmp_path / "runs/tutorial/report.html").is_file()
