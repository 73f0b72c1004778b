"""What docs say of fields: the page is the code's, and every flag names a field."""

import ast
import re

import pytest

from ddae_jax.diffusion import PROCESSES, SAMPLERS
from ddae_jax.models import NETWORKS
from ddae_jax.settings import reference, schema
from tests.conftest import ROOT
from tests.tools.configs import CONFIGS

PAGE = ROOT / "docs" / "settings.md"
PAGES = sorted(
    path
    for pattern in ("README.md", "CONTRIBUTING.md", "RESULTS.md", "docs/*.md")
    for path in ROOT.glob(pattern)
    # Its flags are of parts that it registers: test_own_parts_doc.py runs it.
    if path.name != "own_parts.md"
)
LAUNCHERS = sorted(path for path in ROOT.glob("launch/**/*") if path.is_file())
FLAG = re.compile(r"--config\.([a-z]\w*(?:\.\w+)*)")


def known_fields():
    """Of every network, process and sampler."""
    configs = [schema.default(network) for network in NETWORKS] + [
        schema.default(process=process, sampler=sampler)
        for process in PROCESSES
        for sampler in SAMPLERS[process]
    ]
    return {path for config in configs for path, *_ in schema.reference(config)}


def test_the_page_is_what_the_code_makes():
    assert PAGE.read_text() == reference.page(), f"write it anew: {reference.COMMAND}"


def test_help_is_what_the_code_makes():
    assert reference.HELP.read_text() == reference.help_text(), reference.COMMAND


def test_the_page_has_every_field_with_its_help():
    rows = [line for line in reference.page().splitlines() if line.startswith("| `")]
    for path, _, bounds in schema.reference(schema.default()):
        field = path.split(".", 1)[-1]
        if path.split(".")[0] in schema.CHOSEN and field == "name":
            continue  # it is in the titles
        told = bounds.help.replace("|", "\\|")
        assert any(
            row.startswith(f"| `{field}` |") and row.endswith(f"| {told} |")
            for row in rows
        ), path


@pytest.mark.parametrize("path", [*PAGES, *LAUNCHERS], ids=lambda path: path.name)
def test_every_flag_of_the_docs_names_a_field(path):
    flags = FLAG.findall(path.read_text())
    assert set(flags) <= known_fields()


@pytest.mark.parametrize(
    "path", sorted(CONFIGS.glob("*.py")), ids=lambda path: path.stem
)
def test_every_flag_of_a_config_names_a_field(path):
    flags = FLAG.findall(ast.get_docstring(ast.parse(path.read_text())))
    assert set(flags) <= known_fields()


def test_docs_have_flags():
    """Else the pattern is wrong."""
    assert "fid.inception" in FLAG.findall((ROOT / "docs" / "fid.md").read_text())
