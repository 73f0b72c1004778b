"""The page in a real Chromium without a network; where there is none, not tried."""

import json
import shutil

import pytest

from ddae_jax.report import outcome
from ddae_jax.tasks import report as task

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="needs playwright: pip install playwright"
    )
    if CHROMIUM is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    with playwright.sync_playwright() as started:
        # The sandbox needs rights that a container's root does not have.
        opened = started.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox"]
        )
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A page with training, samples, features, evaluation and provenance."""
    folder = tmp_path_factory.mktemp("run")
    rows = [json.dumps({"step": step, "loss": 1 / step}) for step in range(1, 9)]
    (folder / "metrics.jsonl").write_text("\n".join(rows))
    headers = [f"a long header {number}" for number in range(12)]
    found = outcome.Outcome(
        "<img src=x onerror=alert(1)>", "x" * 200, {}, {}, headers, [headers]
    )
    outcome.write(folder, "fid", found)
    page = task.build(folder, "</title><script>alert(1)</script>", "y" * 200, {})
    (folder / "report.html").write_text(page)
    return folder / "report.html"


@pytest.fixture
def opened(browser, report):
    """Opens the page; in the end it said nothing, and asked for its own file alone."""
    contexts, said, asked = [], [], []

    def open_page(**options):
        context = browser.new_context(offline=True, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: said.append(dialog.message))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(report.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not said
    assert {url for url in asked if not url.startswith("data:")} == {report.as_uri()}


def shown(page):
    return page.eval_on_selector_all(
        "[role=tabpanel]",
        "all => all.filter(one => one.offsetHeight).map(one => one.id)",
    )


def test_arrow_keys_move_between_tabs(opened):
    page = opened()
    tabs = page.eval_on_selector_all("[role=tab]", "all => all.map(one => one.id)")
    names = [tab.removeprefix("tab-") for tab in tabs]
    assert names == ["training", "samples", "features", "evaluation", "provenance"]
    assert shown(page) == ["training"]
    page.focus("#tab-training")
    for key, name in [
        ("ArrowRight", "samples"),
        ("End", "provenance"),
        ("ArrowRight", "training"),
        ("ArrowLeft", "provenance"),
        ("Home", "training"),
    ]:
        page.keyboard.press(key)
        assert shown(page) == [name]
        assert page.evaluate("document.activeElement.id") == f"tab-{name}"
        chosen = page.eval_on_selector_all(
            "[role=tab][aria-selected=true]", "all => all.map(one => one.id)"
        )
        assert chosen == [f"tab-{name}"]


def test_no_tab_is_wider_than_a_phone(opened):
    page = opened(viewport={"width": 375, "height": 700})
    for tab in page.query_selector_all("[role=tab]"):
        tab.click()
        assert page.evaluate("document.documentElement.scrollWidth") == 375


@pytest.mark.parametrize("system", ["light", "dark"])
def test_the_switch_changes_light_and_dark(opened, system):
    page = opened(color_scheme=system)
    colour = "getComputedStyle(document.body).backgroundColor"
    light, dark = "rgb(245, 247, 250)", "rgb(18, 23, 29)"
    before, after = (light, dark) if system == "light" else (dark, light)
    assert page.evaluate(colour) == before
    page.click("#scheme")
    assert page.evaluate(colour) == after
    page.emulate_media(media="print")
    assert page.evaluate(colour) == light


def test_all_tabs_are_open_in_print_and_without_javascript(opened):
    page = opened()
    page.emulate_media(media="print")
    assert len(shown(page)) == 5 and not page.is_visible("#tabs")
    page = opened(java_script_enabled=False)
    panels = page.query_selector_all("[role=tabpanel]")
    assert len(panels) == 5 and all(panel.is_visible() for panel in panels)
    assert not page.is_visible("#tabs") and not page.is_visible("#scheme")


PLOT = "#training .plot"
FONT = f"document.querySelector('{PLOT}').layout.font.color"


def test_a_curve_can_be_zoomed_and_asked(opened):
    page = opened()
    page.wait_for_selector(f"{PLOT} .nsewdrag")
    assert page.get_attribute(PLOT, "aria-label") == "loss over training"
    assert not page.is_visible("#training .still img")
    box = page.locator(f"{PLOT} .nsewdrag").first.bounding_box()
    left, middle = box["x"] + 0.3 * box["width"], box["y"] + box["height"] / 2
    page.mouse.move(left, middle)
    page.wait_for_selector(f"{PLOT} .hoverlayer text")
    span = f"(([a, b]) => b - a)(document.querySelector('{PLOT}').layout.xaxis.range)"
    before = page.evaluate(span)
    page.mouse.down()
    page.mouse.move(left + 0.4 * box["width"], middle, steps=4)
    page.mouse.up()
    page.wait_for_function(f"{span} < 0.6 * {before}")


def test_curves_take_the_colours_of_the_page_and_print_as_pictures(opened):
    page = opened(color_scheme="light")
    page.wait_for_function(f"{FONT} === 'rgb(31, 41, 51)'")
    page.click("#scheme")
    page.wait_for_function(f"{FONT} === 'rgb(228, 231, 235)'")
    page.emulate_media(media="print")
    assert page.is_visible("#training .still img") and not page.is_visible(PLOT)
    page = opened(java_script_enabled=False)
    assert page.is_visible("#training .still img") and not page.is_visible(PLOT)
