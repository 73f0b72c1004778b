"""--task=explore in a real Chromium that may reach no other host.

Where there is no Chromium or Playwright, not tried.
"""

import functools
import http.server
import shutil
import subprocess
import threading
import urllib.parse

import numpy as np
import pytest
from PIL import Image

from tests.tools import runs as run_tools

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
NAME = "<img src=x onerror=alert(1)>"

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
def address(browser, tmp_path_factory):
    """Of a server that shows images of two classes, one with a name like a tag.

    The whole way of a user: pre-training on them, a head, the page.
    """
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for label, name in enumerate((NAME, "plain & simple")):
        (folder / name).mkdir()
        for number in range(12):
            pixels = rng.integers(0, 128, (8, 8)) + 127 * label
            file = folder / name / f"{number}.png"
            Image.fromarray(pixels.astype(np.uint8)).save(file)
    fields = {
        "train.steps": 2,
        "data.name": "image_folder",
        "data.folder": folder,
        "data.image_size": 8,
        "data.channels": 1,
        "predict.images": folder,
        "explore.count": 4,
        "explore.references": 12,
        "explore.neighbours": 12,  # all of them: of both classes
    }
    words = (f"--config.{field}={value}" for field, value in fields.items())
    process = run_tools.start(
        *run_tools.TINY,
        *words,
        "--task=pretrain,predict,explore",  # predict leaves the head
        f"--workdir={tmp_path_factory.mktemp('run')}",
    )
    try:
        said = []
        for line in process.stderr:
            said.append(line)
            if "Ctrl-C ends it" in line:
                break
        assert process.poll() is None, "".join(said)
        # What it says later must not fill the pipe.
        threading.Thread(target=process.stderr.read, daemon=True).start()
        yield next(word for word in said[-1].split() if word.startswith("http"))
    finally:
        process.terminate()
        try:
            assert process.wait(timeout=60) == 143
        except subprocess.TimeoutExpired:
            process.kill()
            raise


@pytest.fixture
def opened(browser, address):
    """Opens the page; in the end it said nothing, and asked for nothing elsewhere."""
    contexts, said, elsewhere = [], [], []

    def route(route):
        if urllib.parse.urlsplit(route.request.url).hostname == "127.0.0.1":
            route.continue_()
        else:
            elsewhere.append(route.request.url)
            route.abort()

    def open_page(**options):
        context = browser.new_context(**options)
        contexts.append(context)
        context.route("**/*", route)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: said.append(dialog.message))
        page.goto(address)
        answered(page)
        return page

    open_page.said = said
    yield open_page
    for context in contexts:
        context.close()
    assert not said
    assert not elsewhere


def answered(page, **wanted):
    """Waits until what is shown is what the controls ask for, and returns it."""
    page.wait_for_function(
        """(wanted) => {
          const shown = new URLSearchParams(
            document.getElementById("explorer").dataset.shown ?? "");
          const level = document.getElementById("level").value;
          return shown.get("level") === level && Object.entries(wanted).every(
            ([name, value]) => shown.get(name) === value);
        }""",
        arg={name: str(value) for name, value in wanted.items()},
        timeout=60_000,
    )
    return shown(page)


def shown(page):
    """What the pictures hold: name -> pixels."""
    found = page.evaluate(
        """async () => {
          const images = document.querySelectorAll(
            "#clean, #noisy, #denoised, [data-map], #neighbours img");
          const drawn = [];
          for (const image of images) {
            await image.decode();
            const canvas = document.createElement("canvas");
            canvas.width = image.naturalWidth;
            canvas.height = image.naturalHeight;
            const context = canvas.getContext("2d");
            context.drawImage(image, 0, 0);
            const all = context.getImageData(0, 0, canvas.width, canvas.height);
            drawn.push([image.id || image.alt, [...all.data]]);
          }
          return drawn;
        }"""
    )
    return {name: np.array(pixels) for name, pixels in found}


def test_the_slider_changes_the_maps(opened):
    page = opened()
    before = answered(page, source="chosen", number=0)
    page.focus("#level")
    for _ in range(12):
        page.keyboard.press("ArrowRight")
    after = answered(page)
    assert page.text_content("#level-shown") == page.get_attribute(
        "#level", "aria-valuetext"
    )
    assert float(page.text_content("#level-shown")) > 0.2
    maps = [name for name in before if "components of" in name]
    assert maps
    for name in ("noisy", "denoised", *maps):
        assert not np.array_equal(before[name], after[name]), name
    np.testing.assert_array_equal(before["clean"], after["clean"])
    for _ in range(12):
        page.keyboard.press("ArrowLeft")
    again = answered(page)
    for name, pixels in before.items():
        np.testing.assert_array_equal(pixels, again[name], err_msg=name)


def test_images_and_taps_are_chosen_by_keyboard(opened):
    page = opened()
    before = answered(page, number=0)
    page.focus("input[name=image]:checked")
    page.keyboard.press("ArrowRight")
    after = answered(page, number=1)
    assert not np.array_equal(before["clean"], after["clean"])
    taps = page.eval_on_selector_all(
        "input[name=tap]", "all => all.map((one) => one.value)"
    )
    page.focus("input[name=tap]:checked")
    page.keyboard.press("ArrowRight")
    chosen = page.eval_on_selector("input[name=tap]:checked", "one => one.value")
    assert chosen in taps
    answered(page, tap=chosen)
    assert page.text_content("#tap-shown") == chosen


def test_every_control_is_reached_by_the_tab_key(opened):
    page = opened()
    page.focus("#tab-explore")
    reached = []
    for _ in range(4):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate("document.activeElement.id || document.activeElement.name")
        )
    assert reached == ["level", "image", "file", "tap"]


def test_an_image_of_the_users_own_is_answered(opened, tmp_path):
    page = opened()
    path = tmp_path / f"{NAME}.png"
    pixels = np.full((40, 60, 3), 200, np.uint8)
    Image.fromarray(pixels).save(path)
    page.set_input_files("#file", path)
    found = answered(page, source="upload")
    assert set(found["clean"].reshape(-1, 4)[:, 0]) == {200}
    assert page.text_content("#name") == f": {path.name}"
    assert not page.is_visible("#told")
    # Back to one of the page's.
    page.click("#choice label:nth-child(2)")
    answered(page, source="chosen", number=1)


def test_a_file_that_is_no_image_is_one_line_in_the_page(opened, tmp_path):
    page = opened()
    path = tmp_path / "notes.png"
    path.write_text("no image")
    page.set_input_files("#file", path)
    page.wait_for_selector("#told", state="visible")
    assert page.text_content("#told") == "your image: not a readable image"
    # Chromium itself says in the console that the answer was 400.
    assert all("400 (Bad Request)" in line for line in opened.said)
    opened.said.clear()
    page.click("#choice label:nth-child(2)")
    answered(page, number=1)
    assert not page.is_visible("#told")


def test_names_are_text(opened):
    page = opened()
    found = answered(page)
    assert NAME in found  # a neighbour's, as the text for those who cannot see it
    assert page.text_content("#name") == f": {NAME}"
    captions = page.text_content("#neighbours")
    assert NAME in captions
    classes = page.eval_on_selector_all(
        "#classes td:first-child", "all => all.map((one) => one.textContent)"
    )
    assert sorted(classes) == [NAME, "plain & simple"]
    assert page.query_selector("img[src=x]") is None
    shares = page.eval_on_selector_all(
        "#classes td:last-child", "all => all.map((one) => parseFloat(one.textContent))"
    )
    assert sum(shares) == pytest.approx(100, abs=0.2)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_readable_on_a_phone(opened, scheme):
    page = opened(viewport={"width": 375, "height": 700}, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") == 375
    small = page.eval_on_selector_all(
        "#explorer *",
        """all => all.filter((one) => one.textContent.trim() && one.offsetHeight
          && parseFloat(getComputedStyle(one).fontSize) < 12).map((one) => one.tagName)
        """,
    )
    assert not small
    # The slider stays in sight.
    page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
    assert (
        page.evaluate("document.getElementById('level').getBoundingClientRect().top")
        < 150
    )


SENT = """async ([address, content]) => {
  try {
    const body = new Uint8Array(content);
    const answer = await fetch(address + "upload", { method: "POST", body });
    return (await answer.json()).number;
  } catch { return null; }
}"""


def test_a_page_of_another_origin_is_refused(browser, opened, address, tmp_path):
    """A page of another server on this machine sends an image, and asks for a view."""
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "image.png")
    content = [*(tmp_path / "image.png").read_bytes()]
    own = opened()
    before = own.evaluate(SENT, [address, content])
    (tmp_path / "index.html").write_text("<p>")
    handler = functools.partial(
        http.server.SimpleHTTPRequestHandler, directory=tmp_path
    )
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        context = browser.new_context()
        page = context.new_page()
        page.goto(f"http://127.0.0.1:{other.server_address[1]}/")
        assert page.evaluate(SENT, [address, content]) is None
        view = f"{address}view?source=chosen&number=0&level=0&tap=out_1"
        asked = "(view) => fetch(view).then(() => true, () => false)"
        assert not page.evaluate(asked, view)
        assert own.evaluate(asked, view)
        context.close()
        other.shutdown()
    # The other page's was not even kept.
    assert own.evaluate(SENT, [address, content]) == before + 1
