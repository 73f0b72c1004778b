"""The notebooks as they are committed; `make test-notebooks` runs them."""

import json
import pathlib

import pytest

import ddae_jax

FOLDER = pathlib.Path(ddae_jax.__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def test_there_are_notebooks():
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_cleared_and_costs_come_first(path):
    cells = json.loads(path.read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    for cell in code:
        # An error that a run left is one of the outputs.
        assert cell["outputs"] == [] and cell["execution_count"] is None
    assert cells[0]["cell_type"] == "markdown"
    assert "What it costs" in "".join(cells[0]["source"])
    assert "%pip install" in "".join(code[0]["source"])
    assert any("DDAE_SHORT" in "".join(cell["source"]) for cell in code)
