"""The pictures of the documentation, made by the code from a run of the digits.

    make docs-images

runs this on the workdir of `make demo`; the screenshots need playwright and Chromium.
"""

import pathlib
import shutil
import sys

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from matplotlib.figure import Figure

import ddae_jax
from ddae_jax.data import augment
from ddae_jax.diffusion import PROCESSES
from ddae_jax.report import figures, pictures
from ddae_jax.tasks import explore
from ddae_jax.tasks.explore import serving

WORKDIR = flags.DEFINE_string("workdir", "runs/digits", "A finished run.")
OUT = flags.DEFINE_string("out", "docs/images", "Folder of the pictures.")
SCREENSHOTS = flags.DEFINE_bool("screenshots", True, "Of the page, by Chromium.")

LEVELS = (0.05, 0.2, 0.5, 1.0, 2.0, 5.0)
_SIDE = 1200  # CSS pixels


def schedules() -> Figure:
    """Where on the axis of noise levels each process trains."""
    figure, (axis,) = figures.new_figure(height=2.6)
    shown = {"ddpm": "DDPM", "edm": "EDM", "flow": "flow"}
    for colour, (name, label) in zip(figures.COLOURS, shown.items(), strict=False):
        process = PROCESSES[name]()
        times = process.training_times(jax.random.key(0), 100_000)
        levels = np.log10(np.asarray(process.noise_level(times)))
        density, edges = np.histogram(levels, np.linspace(-3, 3, 121), density=True)
        middle = 10 ** ((edges[1:] + edges[:-1]) / 2)
        axis.plot(middle, density, color=colour, label=label)
    axis.set_xscale("log")
    axis.set_xlabel("noise level (sigma/alpha)")
    axis.set_ylabel("share of training")
    figures.legend(axis)
    return figure


def noisy_and_estimated(model: ddae_jax.Model, image: np.ndarray) -> Figure:
    """An image at several noise levels, and what the denoiser makes of each."""
    clean = np.asarray(augment.to_float(jnp.asarray(image)))
    noise = np.random.default_rng(0).standard_normal(clean.shape).astype(np.float32)
    rows = [[], []]
    for level in LEVELS:
        noisy = clean + level * noise
        estimate = model.denoise(noisy[None], level)[0]
        # As the network sees it: of variance about one.
        seen = noisy / np.sqrt(1 + level**2)
        for row, shown, title in (
            (rows[0], seen, f"{level:g}"),
            (rows[1], estimate, ""),
        ):
            row.append(pictures.Tile(((shown + 1) / 2).clip(0, 1), title))
    return pictures.gallery(rows, ("noisy", "x0 estimate"))


def screenshots(report: pathlib.Path, out: pathlib.Path) -> None:
    """The page in light and in dark, as Chromium shows it without a network."""
    from playwright import sync_api

    with sync_api.sync_playwright() as started:
        browser = started.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        for scheme, tab in (("light", "training"), ("dark", "features")):
            page = browser.new_page(
                color_scheme=scheme, viewport={"width": _SIDE, "height": 900}
            )
            page.goto(report.resolve().as_uri())
            page.click(f"#tab-{tab}")
            page.wait_for_selector(f"#{tab} .plot .main-svg")
            page.wait_for_timeout(500)
            page.screenshot(path=out / f"report_{scheme}.png")
        browser.close()


def explorer(model: ddae_jax.Model, out: pathlib.Path) -> None:
    """The page that --task=explore serves, at a middle noise level."""
    from playwright import sync_api

    served = explore.served(model.experiment)
    with (
        serving.listen(0) as listening,
        serving.started(served, listening),
        sync_api.sync_playwright() as started,
    ):
        browser = started.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        page = browser.new_page(viewport={"width": _SIDE, "height": 900})
        page.goto(f"http://{serving.HOST}:{listening.getsockname()[1]}/")
        page.wait_for_selector("#explorer[data-shown]")
        page.focus("#level")
        for _ in range(12):
            page.keyboard.press("ArrowRight")
        level = page.input_value("#level")
        page.wait_for_selector(f"#explorer[data-shown*='level={level}&']")
        page.locator("#explorer").screenshot(path=out / "explorer.png")
        browser.close()


def main(argv):
    """Writes the pictures."""
    del argv
    out, workdir = pathlib.Path(OUT.value), pathlib.Path(WORKDIR.value)
    if not (workdir / "report.html").is_file():
        sys.exit(f"--workdir: {workdir}: no report.html; make demo makes one")
    if SCREENSHOTS.value:
        try:
            import playwright  # noqa: F401
        except ImportError:
            sys.exit("screenshots need playwright: pip install playwright")
        if shutil.which("chromium") is None:
            sys.exit("screenshots need Chromium: apt-get install chromium")
    out.mkdir(parents=True, exist_ok=True)
    model = ddae_jax.load(workdir)
    test = model.experiment.source("test")
    drawn = {
        "training_noise": schedules(),
        "denoised": noisy_and_estimated(model, test.read(np.arange(1))[0]),
    }
    for name, figure in drawn.items():
        (out / f"{name}.png").write_bytes(pictures.png(figure))
    ddae_jax.run("dense", workdir=workdir, settings={"dense.parts": ("maps",)})
    strips = ("trajectory", "interpolation")
    found = {name: workdir / f"{name}.png" for name in strips}
    found["maps"] = sorted(workdir.glob("dense*.png"))[0]
    for name, path in found.items():
        shutil.copyfile(path, out / f"{name}.png")
    if SCREENSHOTS.value:
        screenshots(workdir / "report.html", out)
        explorer(model, out)


if __name__ == "__main__":
    app.run(main)
