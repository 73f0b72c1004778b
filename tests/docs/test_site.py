"""The site of the documentation is built without a warning."""

import re
import subprocess
import sys

import pytest

from tests.conftest import ROOT

PAGES = ("README", "RESULTS", "CONTRIBUTING", "benchmarks/README")


@pytest.mark.slow
def test_the_site_is_built_strictly(tmp_path):
    for module in (
        "mkdocs",
        "material",
        "mkdocstrings",
        "mkdocstrings_handlers.python",
    ):
        pytest.importorskip(module, reason="make docs installs mkdocs")
    pages, site = tmp_path / "pages", tmp_path / "site"
    for path in [
        *(ROOT / f"{name}.md" for name in PAGES),
        *(path for path in (ROOT / "docs").rglob("*") if path.is_file()),
    ]:
        copy = pages / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    config = (ROOT / "mkdocs.yml").read_text()
    config = re.sub(r"docs_dir: .*", f"docs_dir: {pages}", config)
    config = re.sub(r"paths: \[\.\]", f"paths: [{ROOT}]", config)
    (tmp_path / "mkdocs.yml").write_text(config)
    words = ["-m", "mkdocs", "build", "--strict", "--site-dir", site]
    done = subprocess.run(
        [sys.executable, *words], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "pretrain" in (site / "docs" / "api" / "index.html").read_text()
