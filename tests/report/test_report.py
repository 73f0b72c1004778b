"""The report: one page that stands alone, whatever the workdir holds."""

import base64
import hashlib
import html.parser
import json
import pathlib
import re

import numpy as np
import pytest
from PIL import Image

from ddae_jax.errors import UserError
from ddae_jax.report import figures as curves
from ddae_jax.report import outcome, page, provenance_sections, turned, wording
from ddae_jax.settings import schema
from ddae_jax.tasks import report as task
from ddae_jax.tasks.probe import grid as probe_grid
from tests.tools.experiments import experiment_of

VOID = {"meta", "img", "br", "link"}


class Checker(html.parser.HTMLParser):
    """Collects what a page refers to, and checks that its elements are closed."""

    def __init__(self):
        super().__init__()
        self.open, self.sources, self.text = [], [], []
        self.scripts = 0

    def handle_starttag(self, tag, attrs):
        self.sources += [value for key, value in attrs if key in ("src", "href")]
        assert tag != "link"
        self.scripts += tag == "script"
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def read_page(workdir):
    html = (workdir / "report.html").read_text().replace(turned.library(), "")
    checker = Checker()
    checker.feed(html)
    checker.close()
    assert not checker.open and checker.scripts <= 2
    assert all(source.startswith("data:image/") for source in checker.sources)
    assert not re.search(r"url\(|@import", html)
    return html, " ".join(checker.text), checker.sources


def metrics_row(step):
    return {
        "step": step,
        "time": 1e9 + step,
        "loss": 1 / (1 + step),
        "loss/0-0.1": 0.5,
        "loss/0.1-0.5": None,
        "loss/2.0-inf": 0.1,
        "gradient_norm": 2.0,
        "parameter_norm": 30.0,
        "update_norm": 0.01,
        "images_per_second": 100.0,
        "seconds_per_step": 0.16,
        "flops_per_step": 1e9,
    }


def probe_result():
    """What the probe task writes, from the function with which it writes it."""
    times = (probe_grid.Time(1, 1.0, 0.01), probe_grid.Time(11, 11.0, 0.1))

    def result(cells, times):
        seeds = [
            [{tap: value + shift for tap, value in row.items()} for row in cells]
            for shift in (-0.003, 0.003)
        ]
        scores = [probe_grid.Accuracies(held_out=seed, test=seed) for seed in seeds]
        return probe_grid.summarise(scores, times, 500)

    untrained = [{"out_1": 0.8822, "out_2": 0.5}, {"out_1": 0.1, "out_2": 0.2}]
    pixels = result([{"pixels": 0.9611}], (probe_grid.Time(0, 0.0, 0.0),))
    return {
        "step": 20,
        "data": "digits",
        "protocol": {"classifier": "logistic", "test_images": 500},
        "seeds": [0, 1],
        **result(
            [{"out_1": 0.5, "out_2": 0.6}, {"out_1": 0.7, "out_2": 0.9812}], times
        ),
        "baselines": {"untrained": result(untrained, times), "pixels": pixels},
    }


@pytest.fixture
def config():
    return schema.default()


@pytest.fixture
def full(tmp_path, config):
    rows = [json.dumps(metrics_row(step)) for step in range(10, 60, 10)]
    cut_short = '{"step": 60, "lo'
    (tmp_path / "metrics.jsonl").write_text("\n".join([*rows, cut_short]))
    (tmp_path / "probe.json").write_text(json.dumps(probe_result()))
    (tmp_path / "commands.txt").write_text("python -m ddae_jax.main --config=<x>&\n")
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    (tmp_path / "images").mkdir()
    picture = Image.fromarray(np.zeros((8, 8, 3), np.uint8))
    picture.save(tmp_path / "samples.png")
    picture.save(tmp_path / "probe.png")
    for step in range(10):
        picture.save(tmp_path / "images" / f"step_{step:08d}.png")
    return tmp_path


def test_full_report_tells_the_story(full, config):
    task.run(experiment_of(config, full))
    html, text, sources = read_page(full)
    assert "98.1 % ± 0.3" in text and "96.1 %" in text and "88.2 %" in text
    assert "+2.0" in text and "+9.9" in text
    assert "out_2, noise level 0.1" in text and "clean image" in text
    assert "classifier" in text and "logistic" in text
    assert "--config=<x>&" in text and "--config=&lt;x&gt;&amp;" in html
    assert "learning_rate" in text and "jax" in text
    # 4 of the 10 grids with the first and last, the samples, the heat map, 5 figures.
    assert len(sources) == 11
    assert "Step 0" in text and "Step 9" in text
    assert "produces it" not in text


def test_report_of_an_empty_workdir_names_the_tasks(tmp_path, config):
    task.run(experiment_of(config, tmp_path))
    _, text, sources = read_page(tmp_path)
    assert not sources
    for name in ("pretrain", "sample", "probe"):
        assert f"--task={name}" in text


def test_report_tolerates_a_damaged_probe(full, config):
    (full / "probe.json").write_text('{"cells": [')
    task.run(experiment_of(config, full))
    assert "--task=probe" in read_page(full)[1]
    (full / "probe.json").write_text('{"step": 3, "cells": [{"tap": "out_1"}]}')
    task.run(experiment_of(config, full))
    assert "1 cells" in read_page(full)[1]


def test_equal_data_gives_equal_pages(full, config):
    task.run(experiment_of(config, full))
    first = (full / "report.html").read_bytes()
    task.run(experiment_of(config, full))
    assert (full / "report.html").read_bytes() == first


def test_series_keeps_the_last_of_a_repeated_step_and_skips_gaps():
    rows = [
        {"step": 2, "loss": 1.0},
        {"step": 1, "loss": 5.0},
        {"step": 2, "loss": 3.0},
        {"step": 3, "loss": None},
        {"step": 4, "loss": float("nan")},
    ]
    steps, values = curves.series(rows, "loss")
    np.testing.assert_array_equal(steps, [1, 2])
    np.testing.assert_array_equal(values, [5, 3])


def test_running_mean_against_a_loop():
    values = np.random.default_rng(0).normal(size=17)
    expected = [values[max(0, i - 3) : i + 1].mean() for i in range(17)]
    np.testing.assert_allclose(curves.running_mean(values, 4), expected, atol=1e-12)


def test_accuracy_figure_takes_the_best_held_out_tap():
    cells = [
        {"tap": "a", "noise_level": 0.1, "held_out": 0.9, "test": 0.5},
        {"tap": "b", "noise_level": 0.1, "held_out": 0.1, "test": 0.8},
        {"tap": "a", "noise_level": 1.0, "held_out": 0.2, "test": 0.3},
    ]
    figure = curves.accuracy_figure(cells, "b", {"raw pixels": 0.4})
    best, chosen, baseline = figure.axes[0].lines
    np.testing.assert_allclose(best.get_ydata(), [50, 30])
    np.testing.assert_allclose(chosen.get_ydata(), [80])
    np.testing.assert_allclose(baseline.get_ydata(), [40, 40])
    assert curves.accuracy_figure(cells[:1], None, {}) is None


def test_sections_stand_in_their_tabs_and_the_page_runs_its_own_script_alone():
    sections = [
        page.PageSection("<late>", [page.Paragraph("</script>")], "Evaluation"),
        page.PageSection("", [page.Paragraph("always")]),
        page.PageSection("early", [page.Paragraph("first")], "Training"),
    ]
    html = page.render("", "", sections)
    tabs = re.findall(r'role="tab" id="[^"]*" aria-controls="(\w+)"', html)
    assert tabs == re.findall(r'role="tabpanel" id="(\w+)"', html)
    assert tabs == ["training", "evaluation"]
    places = [
        html.index(text) for text in ("always<", 'id="tabs"', ">early<", "&lt;late")
    ]
    assert places == sorted(places) and "<late>" not in html
    # Without JavaScript and in print all panels are open: only the script hides them.
    assert not re.search(r"tabpanel[^>]*hidden", html)
    script = html.split("<script>")[1].split("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in html


def test_table_aligns_numbers_and_escapes():
    table = page.Table(("name", "value"), [("<a>", 0.123456), ("b", 2)], chosen=1)
    text = page.render("<title>", "", [page.PageSection("", [table])])
    assert "&lt;a&gt;" in text and "0.1235" in text
    assert "<h1>&lt;title&gt;</h1>" in text and "<h2>" not in text
    assert text.count('class="number"') == 3
    assert text.count('class="chosen"') == 1
    signs = page.Table(("a",), [("+1.2",), ("–",), ("98.1 % ± 0.3",), ("1e-06",)])
    assert signs.numeric == [True] and table.numeric == [False, True]
    assert page.Table(("a",), [("3 x 3",)]).numeric == [False]
    assert page.Table(("a", "b"), []).numeric == [False, False]
    assert wording.percent(None) == wording.number(None) == "–"


def image_widths(html):
    return [int(width) for width in re.findall(r'<img[^>]* width="(\d+)"', html)]


def test_small_pictures_grow_by_whole_factors_and_drawings_keep_their_size(tmp_path):
    Image.new("L", (45, 9)).save(tmp_path / "tiny.png")
    Image.new("L", (620, 9)).save(tmp_path / "grid.png")
    Image.new("L", (800, 9)).save(tmp_path / "drawn.png", dpi=(192, 192))
    (tmp_path / "no.png").write_text("text")
    blocks = [
        page.png_file(tmp_path / f"{name}.png", "it", pixels=True)
        for name in ("tiny", "grid", "drawn", "no")
    ]
    html = page.render("", "", [page.PageSection("images", blocks)])
    assert image_widths(html) == [13 * 45, 620, 400]
    assert html.count('class="pixels"') == 2  # the drawn one says so itself
    assert "no.png: not a PNG image" in html


def test_type_is_readable_at_the_size_of_the_page(full, config):
    rows = [metrics_row(step) for step in (1, 2, 3)]
    figure = curves.panels(rows, curves.losses(rows))
    axes = figure.axes
    texts = [axis.yaxis.label for axis in axes] + axes[0].get_xticklabels()
    texts += axes[1].get_legend().get_texts()
    in_the_page = {text.get_fontsize() * 96 / 72 for text in texts}
    assert all(13 <= size <= 14 for size in in_the_page)
    shown = page.figure(figure, "loss")
    assert shown.width == round(figure.get_figwidth() * 96) <= 450  # of a column
    assert b"currentColor" in shown.content and curves.INK.encode() in shown.content


def test_the_page_names_the_data_that_it_was_trained_on(full, config):
    config.data.name = "fashion_mnist"  # of the config that a later task was given
    task.run(experiment_of(config, full))
    assert "fashion_mnist" not in read_page(full)[0].split("</header>")[0]
    data = {"name": "holiday <3", "train_images": 12345, "image_shape": [24, 32, 3]}
    (full / "data.json").write_text(json.dumps(data))
    task.run(experiment_of(config, full))
    header = read_page(full)[0].split("</header>")[0]
    assert (
        "unet under ddpm, on holiday &lt;3 (12,345 training images, 32 x 24 pixels)"
        in header
    )


def test_tasks_of_other_packages_appear_by_what_they_left(full, config):
    for name in ("zebra", "dense_more", "dense", "aardvark"):
        found = outcome.Outcome(f"Title of {name}", "", {}, {}, ("a",), [(1,)])
        outcome.write(full, name, found)
    (full / "other.json").write_text('{"summary": "not an outcome"}')
    (full / "list.json").write_text("[1]")
    task.run(experiment_of(config, full))
    titles = re.findall("<h2>Title of (.*)</h2>", read_page(full)[0])
    assert titles == ["dense", "dense_more", "aardvark", "zebra"]
    assert "not an outcome" not in read_page(full)[1]


def test_the_report_floor_imports_no_task():
    folder = pathlib.Path(outcome.__file__).parent
    for path in folder.glob("*.py"):
        assert "ddae_jax.tasks" not in path.read_text(), path.name


def test_a_folder_that_is_no_checkout_has_no_commit(tmp_path):
    assert provenance_sections.git_commit(tmp_path) is None


def test_runs_are_compared_side_by_side(full, config, tmp_path_factory):
    other = tmp_path_factory.mktemp("run<b>")
    (other / "config.json").write_text("{}")
    (other / "metrics.jsonl").write_text('{"step": 7, "loss": 0.25}')
    found = outcome.Outcome("Distance", "FID 12.5", {}, {}, ("a",), [(1,)])
    outcome.write(other, "fid", found)
    config.report.compare = f"{other},{full}"  # itself counts once
    task.run(experiment_of(config, full))
    html = read_page(full)[0].split('id="comparison"')[1]
    table = html.split("</table>")[0]
    assert "run&lt;b&gt;" in table and table.count("<th") - table.count("<thead") == 3
    cells = dict.fromkeys(re.findall("<tr>(<td.*)</tr>", table))
    rows = [re.findall("<td[^>]*>([^<]*)</td>", row) for row in cells]
    assert ["optimiser steps", "50", "7"] in rows
    assert ["last loss", "0.01961", "0.25"] in rows
    assert ["linear probe, test accuracy", "98.1 %", "–"] in rows
    assert ["fid", "–", "FID 12.5"] in rows
    assert "loss of each run over training" in html


def test_overlaid_curves_are_those_of_each_run():
    runs = {"a": [{"step": 1, "loss": 2.0}], "b": [{"step": 3, "loss": 4.0}], "c": []}
    axis = curves.overlaid_figure(runs, "loss").axes[0]
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["a", "b"]
    assert curves.overlaid_figure({"c": []}, "loss") is None


@pytest.mark.parametrize("name", ["nowhere", "empty"])
def test_what_is_no_run_cannot_be_compared(full, config, name):
    (full / "empty").mkdir()
    config.report.compare = str(full / name)
    with pytest.raises(UserError, match="^config.report.compare: .*" + name) as raised:
        task.run(experiment_of(config, full))
    assert "\n" not in str(raised.value) and not (full / "report.html").exists()
