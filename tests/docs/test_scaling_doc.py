"""docs/scaling.md: its tables are arithmetic on what was counted, which is so."""

import itertools
import pathlib

import numpy as np
import pytest

from benchmarks.scaling import count, estimate, facts, tables
from benchmarks.scaling.cases import CASES, LAYOUTS, SHARES, layout_name, share_name
from benchmarks.scaling.collectives import KINDS, Collective, total
from benchmarks.scaling.collectives import count as count_collectives
from benchmarks.scaling.hardware import H100, H200, V5E, V5P

DOCUMENT = pathlib.Path(__file__).parent.parent.parent / "docs" / "scaling.md"
FACTS = facts.read()
# What the metrics of a step add to its gradient.
FEW = 4096


def test_the_tables_are_those_of_what_was_counted():
    lines = DOCUMENT.read_text().splitlines()
    assert list(FACTS) == list(CASES)
    for table in tables.all_tables(FACTS):
        start = lines.index(table[0])
        there = itertools.takewhile(lambda line: line.startswith("|"), lines[start:])
        assert list(there) == table


def test_data_parallel_steps_sum_the_gradient_once():
    for network, layouts in LAYOUTS.items():
        for devices, fsdp in layouts:
            if fsdp == 1:
                held = FACTS[layout_name(network, devices, fsdp)]
                (one,) = held.collectives
                assert (one.kind, one.group, one.stride) == ("all-reduce", devices, 1)
                # DiT's table of positions is fixed, and has no gradient.
                fixed = 256 * 1152 * 4 * (network == "dit-xl2")
                assert 0 < one.bytes - 4 * held.parameters + fixed < FEW


def test_the_state_of_a_device_falls_with_the_devices_that_share_it():
    first = FACTS[share_name(1)]
    # Parameters, EMA and Adam's two moments.
    assert 16 * first.parameters <= first.state_bytes < 16.001 * first.parameters
    for fsdp in SHARES:
        held = FACTS[share_name(fsdp)]
        assert held.state_bytes < 1.02 * first.state_bytes / fsdp
        images = held.argument_bytes - held.state_bytes
        assert 0 <= images == first.argument_bytes - first.state_bytes


@pytest.mark.slow
@pytest.mark.parametrize("fsdp", [1, 8])
def test_counting_again_finds_what_the_file_holds(fsdp):
    """On eight fake devices, beside what theory expects."""
    again, held = count.count(share_name(fsdp)), FACTS[share_name(fsdp)]
    assert again.state_bytes == held.state_bytes
    assert again.argument_bytes == held.argument_bytes
    assert again.flops == pytest.approx(held.flops, rel=1e-3)
    for kind in KINDS:  # another version of XLA may join them otherwise
        sent, known = total(again.collectives, kind), total(held.collectives, kind)
        assert sent == pytest.approx(known, rel=0.05, abs=FEW), kind
    positions = 256 * 384
    gradient = 4 * (again.parameters - positions)
    summed = total(again.collectives, "all-reduce")
    if fsdp == 1:
        assert 0 < summed - gradient < FEW
        return
    # Of the weights of time and classes, which see one row per image, XLA sends the
    # few rows instead, and reduces no gradient of theirs.
    assert 0.5 * gradient < summed < gradient
    gathered = total(again.collectives, "all-gather")
    assert 0.8 * gradient < gathered < 1.1 * gradient


def test_collectives_are_found_in_the_text_of_a_program():
    text = """
  %a = f32[8,4]{1,0} all-gather(%p), channel_id=1, replica_groups=[8,8]<=[8,8]T(1,0)
  %b = (f32[4]{0}, bf16[2,3]{1,0}) all-reduce(%p, %q), replica_groups={{0,2},{1,3}}
  %c = f32[2]{0} reduce-scatter(%p), replica_groups=[1,64]<=[64], dimensions={0}
  %d = (f32[1]{0}, f32[8]{0}) all-gather-start(%p), replica_groups=[1,8]<=[8]
  %e = f32[8]{0} all-gather-done(%d)
  %f = pred[3]{0} all-reduce(%p), replica_groups={}
  %g = f32[2]{0} all-reduce(%p), replica_groups={{0},{1}}
"""
    assert count_collectives(text, 4) == (
        Collective("all-gather", 8, 1, 1, 32),
        Collective("all-gather", 8, 8, 1, 128),
        Collective("all-reduce", 2, 2, 1, 28),
        Collective("all-reduce", 4, 1, 1, 3),
        Collective("reduce-scatter", 64, 1, 1, 512),
    )


def test_collectives_take_as_long_as_the_links_let_them():
    seconds = estimate.collective_seconds
    whole = 8_000_000
    sum_of_64 = Collective("all-reduce", 64, 1, 1, whole)
    assert seconds(sum_of_64, V5E) == pytest.approx(2 * 63 / 64 * whole / 200e9)
    # Within a node the whole, between nodes each GPU's eighth.
    near, far = 2 * 7 / 8 * whole / 450e9, 2 * 7 / 8 * whole / 8 / 50e9
    assert seconds(sum_of_64, H100) == pytest.approx(near + far)
    gathered = Collective("all-gather", 8, 1, 1, whole)
    assert seconds(gathered, H100) == pytest.approx(7 / 8 * whole / 450e9)
    apart = Collective("all-gather", 8, 8, 1, whole)
    assert seconds(apart, H100) == pytest.approx(7 / 8 * whole / 50e9)
    exchanged = Collective("all-to-all", 64, 1, 1, whole)
    expected = 7 / 64 * whole / 450e9 + 56 / 64 * whole / 50e9
    assert seconds(exchanged, H100) == pytest.approx(expected)


def test_a_slower_accelerator_is_slower_by_the_rate_that_binds():
    assert estimate.slowdown(H200) == 1
    assert estimate.slowdown(H100) == pytest.approx(4.8 / 3.35)
    assert estimate.slowdown(V5P) == pytest.approx(989 / 459)


def test_one_device_at_the_measured_batch_takes_the_measured_time():
    """The model gives back what it was made from."""
    for network, measured in estimate.MEASURED.items():
        held = FACTS[layout_name(network, 8, 1)]
        cluster = next(c for c in tables.CLUSTERS if c.name == "8 H200")
        found = estimate.estimate(network, cluster, 1, 8 * measured.batch, FACTS)
        alone = found.compute + found.optimiser
        np.testing.assert_allclose(alone, measured.batch / measured.images_per_second)
        np.testing.assert_allclose(found.memory, measured.memory, rtol=1e-4)
        assert found.slowest == pytest.approx(alone + found.communication)
        assert held.devices == 8
