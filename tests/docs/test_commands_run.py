"""The commands of README.md and docs run, one after the other, in their short form.

Each page has a folder of its own, with the files that it names and what its reader has
trained before. Elsewhere: what CI itself does (make, pip), clusters and clouds
(tests/launch), the explorer, which serves until Ctrl-C (test_interrupts.py), and
benchmarks.
"""

import os
import pathlib
import re
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.tools import object_store

COMMAND = re.compile(
    r"^ {4}((?:python -m ddae_jax|bash launch/local\.sh)(?:.*\\\n)*.*)$", re.MULTILINE
)
NOT_HERE = re.compile(r"--task=explore|ddae_jax\.settings\.reference")
SHORT = (
    (r"\\\n *", ""),
    (r" +#.*", ""),
    (r"--config=\.\.\.", "--config=digits --task=pretrain"),
    (r"--config=configs/(\w+)\.py:(\S+)", r"--config=\1:\2+test"),
    (r"--config=(?:configs/)?(\w+)(?:\.py)?(?= |$)", r"--config=\1:test"),
    # Where a default is taken by the variant's name, the reader's is without `test`.
    (r"^((?!.*--workdir).*--config=(\w+):test.*)", r"\1 --workdir=runs/\2"),
    (r"^((?!.*--workdir).*--config=(\w+):(\S+)\+test.*)", r"\1 --workdir=runs/\2-\3"),
    # The digits go through all tasks of their config.
    (
        r"^((?!.*--task).*(?:=cifar10:|=image_folder|local\.sh).*)",
        r"\1 --task=pretrain",
    ),
    # What has one size only, or is told by numbers that a small one lacks.
    (r"fid\.inception=\S+", "fid.features=inception"),
    (
        r"resnet50\S+",
        "resnet_small.pth --config.reid.resnet.blocks=2,1,1,1 "
        "--config.reid.resnet.width=8",
    ),
    (r"DiT-XL\S+", r"\g<0> --config.import_weights.heads=4"),
    (r"(.*(?:=cifar10\b).*)", r"\1 --config.data.folder=cifar10"),
    (r"(.*--task=probe.*)", r"\1 --config.probe.epochs=1 --config.probe.times=10"),
    (r"(.*--task=import,sample.*)", r"\1 --config.sample.count=2"),
    (r"--workdir=DIR", "--workdir=runs/market1501"),
    (r"(.*(?:image_folder|latent).*)\bDIR\b", r"\1images"),
    (r"\bDIR\b", "persons"),
    (r"FOLDER", "photos"),
    (r"s3://BUCKET", f"s3://{object_store.BUCKET}"),
)
DIGITS = "python -m ddae_jax.main --config=configs/digits.py"
IMPORT = "python -m ddae_jax.main --task=import --config.import_weights.path="
VAE = f"{IMPORT}sd-vae-ft-mse.safetensors --workdir="
BEFORE = {
    "README.md": (
        DIGITS,
        f"{IMPORT}DiT-XL-2-256x256.pt --workdir=runs/dit",
        f"{VAE}runs/dit",
        f"{VAE}runs/vae",
    ),
    "additions.md": (f"{DIGITS} --task=pretrain --workdir=runs/old",),
    "features_in_sklearn.md": (f"{DIGITS} --task=pretrain",),
    "fid.md": (
        "python -m ddae_jax.main --config=configs/cifar10.py:edm_ddpmpp "
        "--task=pretrain",
    ),
}


def commands(text: str) -> list[str]:
    """Those of a page that run here, as they are written."""
    return [line for line in COMMAND.findall(text) if not NOT_HERE.search(line)]


def short(command: str) -> str:
    """The short form of a command."""
    for written, meant in SHORT:
        command = re.sub(written, meant, command)
    return command


PAGES = {
    page.name: found
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
    if (found := commands(page.read_text()))
}


def test_commands_and_their_short_forms():
    assert sum(len(found) for found in PAGES.values()) > 20
    text = (
        "    python -m ddae_jax.main --config=configs/a.py:b \\\n        --task=c  # d"
    )
    assert [short(command) for command in commands(text)] == [
        "python -m ddae_jax.main --config=a:b+test --task=c --workdir=runs/a-b"
    ]


@pytest.fixture
def files(tmp_path):
    """A folder with the files that the pages name."""
    pytest.importorskip("torch", reason="writes torch files: make test-all")
    from tests.tools import doc_files

    doc_files.write(tmp_path)
    (tmp_path / "launch").symlink_to(ROOT / "launch")
    return tmp_path


@pytest.fixture
def server(tmp_path_factory):
    with object_store.serving(tmp_path_factory.mktemp("store")) as server:
        yield server


def _marked(page):
    marks = pytest.mark.campaign if page == "launching.md" else pytest.mark.slow
    return pytest.param(page, marks=marks)


@pytest.mark.parametrize("page", map(_marked, PAGES))
def test_the_commands_of_a_page_run(page, files, request):
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "PATH": f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHON": sys.executable,
    }
    if "s3://" in "".join(PAGES[page]):
        environment |= request.getfixturevalue("server").environment
    for command in (*BEFORE.get(page, ()), *PAGES[page]):
        done = subprocess.run(
            short(command),
            shell=True,
            cwd=files,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert done.returncode == 0, f"{short(command)}\n{done.stdout[-3000:]}"
        assert "Traceback" not in done.stdout
