"""docs/networks.md: its table is that of the networks as they are."""

import itertools
import json
import pathlib

import pytest

from benchmarks import golden_errors, self_conditioning
from benchmarks.networks import NAMED
from ddae_jax.models import NETWORKS
from ddae_jax.weights import families
from tests.tools import golden_values

pytestmark = pytest.mark.slow

DOCUMENT = pathlib.Path(__file__).parent.parent.parent / "docs" / "networks.md"


def rows(header=golden_errors.HEADER):
    lines = DOCUMENT.read_text().splitlines()
    start = lines.index(header) + 2
    table = itertools.takewhile(lambda line: line.startswith("|"), lines[start:])
    return {cells[0]: cells[1:] for cells in map(cells_of, table)}


def cells_of(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_every_network_and_golden_file_has_a_row():
    assert list(rows()) == list(NAMED)
    assert {named.family for named in NAMED.values()} == {*NETWORKS, "vae"}
    assert {named.family for named in NAMED.values()} == set(families.FAMILIES)
    of_networks = {
        path.stem
        for path in golden_values.FOLDER.glob("*.json")
        if "act" in _kinds(path.stem) and "spec" in json.loads(path.read_text())
    }
    covered = {named.golden for named in NAMED.values()} | {"unet_small"}
    assert of_networks - covered <= {"unet_small_bigup", "inception_fid"}


def _kinds(name):
    return {key.split("/")[0].split("_")[0] for key in golden_values.load(name)[1]}


@pytest.mark.parametrize("name", NAMED)
def test_the_row_is_true(name):
    count, golden, deviation, family = rows()[name]
    named = NAMED[name]
    assert (golden, family) == (named.golden, named.family)
    assert int(count.replace(",", "")) == named.parameter_count()
    full_size = golden in ("unet_ddpm", "unet_ddpmpp_aug")
    assert 0 < float(deviation) < (1e-4 if full_size else 1e-5)


def test_self_conditioning_has_a_row_of_every_size():
    assert list(rows(self_conditioning.HEADER)) == list(self_conditioning.SIZES)


@pytest.mark.parametrize("name", self_conditioning.SIZES)
def test_self_conditioning_costs_at_most_a_hundredth(name):
    *_, parameters, more, share, _, flops = rows(self_conditioning.HEADER)[name]
    plain, on = self_conditioning.parameters(name)
    assert [parameters, more] == [f"{plain:,}", f"{on - plain:,}"]
    assert on <= 1.01 * plain and share == f"{on / plain - 1:.2%}"
    assert 0 < float(flops.removesuffix("%")) < 1


@pytest.mark.parametrize(
    "name",
    [
        *("unet-ddpm", "uvit-s2", "dit-s2", "lightningdit-b1"),
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in self_conditioning.SIZES
            if name not in ("unet-ddpm", "uvit-s2", "dit-s2", "lightningdit-b1")
        ),
    ],
)
def test_the_row_of_self_conditioning_is_true(name):
    assert self_conditioning.row(name) in DOCUMENT.read_text().splitlines()


def test_the_table_is_replaced_and_nothing_else():
    text = f"before\n\n{golden_errors.HEADER}\n|---|\n| old |\n\nafter\n"
    new = golden_errors.replace_table(text, [golden_errors.HEADER, "| new |"])
    assert new == f"before\n\n{golden_errors.HEADER}\n| new |\n\nafter\n"
