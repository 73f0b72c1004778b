"""The report: one page that stands alone, whatever the workdir holds."""

import html.parser
import json
import re

import numpy as np
import pytest
from PIL import Image

from ddae_jax.report import figures as curves
from ddae_jax.report import page as report
from ddae_jax.settings import schema
from ddae_jax.tasks import report as task
from ddae_jax.tasks.probe import grid as probe_grid

VOID = {"meta", "img", "br", "link"}


class Checker(html.parser.HTMLParser):
    """Collects what a page refers to, and checks that its elements are closed."""

    def __init__(self):
        super().__init__()
        self.open, self.sources, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        self.sources += [value for key, value in attrs if key in ("src", "href")]
        assert tag not in ("script", "link")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def read_page(workdir):
    page = (workdir / "report.html").read_text()
    checker = Checker()
    checker.feed(page)
    checker.close()
    assert not checker.open
    assert all(source.startswith("data:image/") for source in checker.sources)
    assert not re.search(r"url\(|@import", page)
    return page, " ".join(checker.text), checker.sources


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
        scores = [probe_grid.Score(held_out=seed, test=seed) for seed in seeds]
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
    task.run(config, full)
    page, text, sources = read_page(full)
    assert "98.1 % ± 0.3" in text and "96.1 %" in text and "88.2 %" in text
    assert "+2.0" in text and "+9.9" in text
    assert "out_2, noise level 0.1" in text and "clean image" in text
    assert "classifier" in text and "logistic" in text
    assert "--config=<x>&" in text and "--config=&lt;x&gt;&amp;" in page
    assert "learning_rate" in text and "jax" in text
    # 4 of the 10 grids with the first and last, the samples, the heat map, 4 figures.
    assert len(sources) == 10
    assert "Step 0" in text and "Step 9" in text
    assert "produces it" not in text


def test_report_of_an_empty_workdir_names_the_tasks(tmp_path, config):
    task.run(config, tmp_path)
    _, text, sources = read_page(tmp_path)
    assert not sources
    for name in ("pretrain", "sample", "probe"):
        assert f"--task={name}" in text


def test_report_tolerates_a_damaged_probe(full, config):
    (full / "probe.json").write_text('{"cells": [')
    task.run(config, full)
    assert "--task=probe" in read_page(full)[1]
    (full / "probe.json").write_text('{"step": 3, "cells": [{"tap": "out_1"}]}')
    task.run(config, full)
    assert "1 cells" in read_page(full)[1]


def test_equal_data_gives_equal_pages(full, config):
    task.run(config, full)
    first = (full / "report.html").read_bytes()
    task.run(config, full)
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


def test_table_aligns_numbers_and_escapes():
    text = report.table(("name", "value"), [("<a>", 0.123456), ("b", 2)], chosen=1)
    assert "&lt;a&gt;" in text and "0.1235" in text
    assert text.count('class="number"') == 3
    assert text.count("class=chosen") == 1
    assert report.percent(None) == "–"
