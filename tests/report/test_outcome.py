"""What evaluation tasks leave, and how the report shows it."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from ddae_jax.errors import UserError
from ddae_jax.report import figures as curves
from ddae_jax.report import outcome, outcome_sections, page


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
    for name in ("fid.png", "fid+2.png"):
        with Image.open(written / name) as image:
            assert image.format == "PNG"
    assert not list(written.glob("*.part"))


def show(workdir):
    return page.render("title", "", outcome_sections.sections(workdir))


def test_report_shows_it(written):
    html = show(written)
    assert "Distance &lt;of&gt; samples" in html and "0.1235" in html
    assert html.count("data:image/png;base64,") == 2
    assert 'class="pixels"' in html
    assert outcome_sections.sections(written / "empty") == []


def plain(**fields):
    parts = {"facts": {}, "protocol": {}, "headers": ("a",), "rows": [(1.5,)]}
    return outcome.Outcome("Title", "summary", **(parts | fields))


def test_an_outcome_leaves_the_pictures_of_others_alone(written):
    picture = outcome.Picture("its own", np.full((4, 4, 1), 7, np.uint8))
    outcome.write(written, "fid_2", plain(pictures=[picture]))
    first = (written / "fid_2.png").read_bytes()
    outcome.write(written, "fid", plain(pictures=[outcome.Picture("a", png())]))
    assert (written / "fid_2.png").read_bytes() == first
    assert not (written / "fid+2.png").exists()  # of the earlier outcome
    outcome.write(written, "fid", plain())
    assert not (written / "fid.png").exists()


def test_numbers_that_json_does_not_have_are_null(tmp_path):
    facts = {"loss": float("nan"), "all": [np.float32("inf"), np.int64(3)]}
    outcome.write(tmp_path, "fid", plain(facts=facts, rows=[(float("inf"),)]))
    content = json.loads(
        (tmp_path / "fid.json").read_text(), parse_constant=pytest.fail
    )
    assert content["loss"] is None and content["all"] == [None, 3]
    assert "–" in show(tmp_path)


@pytest.mark.parametrize("name", ["", "a/b", "../a", "data", "probe", "a+2", "x" * 101])
def test_names_that_would_hit_other_files_are_refused(tmp_path, name):
    with pytest.raises(UserError) as raised:
        outcome.write(tmp_path, name, plain())
    assert "\n" not in str(raised.value) and not list(tmp_path.iterdir())


def change(workdir, **layout):
    path = workdir / "fid.json"
    content = json.loads(path.read_text())
    content["shown"] |= layout
    path.write_text(json.dumps(content))


def test_what_cannot_be_shown_is_said(written):
    secret = written.parent / "secret.png"
    secret.write_bytes(png())
    file = {"caption": "a secret", "pixels": False, "file": "../secret.png"}
    change(written, pictures=[file])
    assert "a secret" not in show(written)
    change(written, rows=[[1]])
    assert "fid.json: it is not as this version writes it" in show(written)
    change(written, version=99)
    assert "written by a newer version" in show(written)
    (written / "fid.json").write_text('{"shown": ')
    assert outcome_sections.sections(written) == []


def test_outcomes_of_version_0_1_are_shown(written):
    (written / "fid+2.png").rename(written / "fid_2.png")
    path = written / "fid.json"
    content = json.loads(path.read_text())
    del content["shown"]["version"]
    content["shown"]["pictures"][1]["file"] = "fid_2.png"
    path.write_text(json.dumps(content))
    assert show(written).count("data:image/png;base64,") == 2
