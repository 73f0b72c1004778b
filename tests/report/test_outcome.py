"""What evaluation tasks leave, and how the report shows it."""

import io
import json

import pytest
from PIL import Image

from ddae_jax.report import figures as curves
from ddae_jax.report import outcome
from ddae_jax.settings import schema
from ddae_jax.tasks import report


def png():
    buffer = io.BytesIO()
    Image.new("L", (4, 4)).save(buffer, format="png")
    return buffer.getvalue()


@pytest.fixture
def written(tmp_path):
    figure, _ = curves.new_figure()
    outcome.write(
        tmp_path,
        "fid",
        outcome.Outcome(
            "Distance <of> samples",
            "FID 3.25 of 50 samples",
            {"step": 7, "fid": 3.25},
            {"samples": 50},
            ("metric", "value"),
            (("FID", 3.25), ("KID", 0.123456)),
            (outcome.Picture("a curve", figure), outcome.Picture("dots", png(), True)),
            note="Not comparable with other counts.",
        ),
    )
    return tmp_path


def test_files_hold_facts_table_and_pictures(written):
    content = json.loads((written / "fid.json").read_text())
    assert (content["step"], content["fid"]) == (7, 3.25)
    assert content["protocol"] == {"samples": 50}
    text = (written / "fid.txt").read_text().splitlines()
    assert text[:3] == [
        "Distance <of> samples",
        "FID 3.25 of 50 samples",
        "Not comparable with other counts.",
    ]
    assert "   KID  0.1235" in text
    for name in ("fid.png", "fid_2.png"):
        with Image.open(written / name) as image:
            assert image.format == "PNG"
    assert not list(written.glob("*.part"))


def test_report_shows_it(written):
    section = report.evaluations(written, schema.default())
    assert "Distance &lt;of&gt; samples" in section and "0.1235" in section
    assert section.count("data:image/png;base64,") == 2
    assert 'class="pixels"' in section
    assert report.evaluations(written / "empty", schema.default()) is None
