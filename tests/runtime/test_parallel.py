"""The mesh: which devices lie beside each other, and how arrays lie on it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from ddae_jax.errors import UserError
from ddae_jax.runtime import parallel

# JAX's order of the cores of a TPU v3 host: a ring in which neighbours are connected.
RING = [0, 1, 2, 3, 6, 7, 4, 5]


@dataclasses.dataclass(frozen=True)
class Device:
    """What jax.make_mesh asks of a device."""

    id: int
    process_index: int
    device_kind: str = "cpu"
    platform: str = "cpu"


@pytest.fixture
def pretend(monkeypatch):
    """Lets jax have devices of these kinds, in some order, on so many hosts."""

    def devices(count, processes, **kind):
        per_process = count // processes
        found = [Device(i, i // per_process, **kind) for i in range(count)]
        order = np.random.default_rng(0).permutation(count)
        monkeypatch.setattr(jax, "devices", lambda: [found[i] for i in order])
        monkeypatch.setattr(jax, "process_count", lambda: processes)

    return devices


def ids(mesh):
    return np.vectorize(lambda device: device.id)(mesh.devices).tolist()


def test_the_devices_of_a_process_lie_together_in_the_order_of_the_topology(pretend):
    pretend(16, 2, device_kind="TPU v3", platform="tpu")
    both = RING + [8 + core for core in RING]
    for fsdp, tensor in ((1, 1), (2, 1), (8, 1), (16, 1), (1, 2), (2, 4), (4, 4)):
        mesh = parallel.make_mesh(fsdp, tensor)
        assert mesh.axis_names == ("data", "fsdp", "tensor")
        assert ids(mesh) == np.reshape(both, (-1, fsdp, tensor)).tolist()


def test_without_a_topology_devices_are_in_the_order_of_their_numbers(pretend):
    pretend(8, 2)
    assert ids(parallel.make_mesh(2)) == np.arange(8).reshape(4, 2, 1).tolist()


@pytest.mark.parametrize("fsdp", [8, 16])
def test_an_axis_beyond_one_process_takes_processes_in_their_order(pretend, fsdp):
    pretend(16, 4)
    assert ids(parallel.make_mesh(fsdp)) == np.arange(16).reshape(-1, fsdp, 1).tolist()


def test_devices_that_cannot_be_split_are_refused(pretend):
    pretend(6, 1)
    with pytest.raises(UserError, match=r"mesh\.fsdp: 6 devices .* split by 4$"):
        parallel.make_mesh(4)
    with pytest.raises(UserError, match=r"fsdp: 6 .* by 2 x 2 \(config\.mesh\.tensor"):
        parallel.make_mesh(2, 2)
    pretend(8, 4)
    with pytest.raises(UserError, match=r"mesh\.tensor: 2 devices of a process .* 4$"):
        parallel.make_mesh(1, 4)


def test_large_arrays_are_sharded_along_their_largest_axis_that_divides(pretend):
    pretend(8, 1)
    shapes = {
        "kernel": (3, 3, 32, 64),
        "square": (64, 64),
        "odd": (4096, 5001),
        "nothing divides": (81, 81),
        "small": (4, 1023),
        "number": (),
    }
    tree = {name: jax.ShapeDtypeStruct(shape, "f") for name, shape in shapes.items()}
    for fsdp in (1, 4):
        shardings = parallel.state_shardings(parallel.make_mesh(fsdp), tree)
        found = {name: sharding.spec for name, sharding in shardings.items()}
        expected = dict.fromkeys(shapes, PartitionSpec())
        if fsdp > 1:
            expected["kernel"] = PartitionSpec(None, None, None, "fsdp")
            expected["square"] = expected["odd"] = PartitionSpec("fsdp")
        assert found == expected


def test_rules_share_axes_that_divide_and_fsdp_takes_another(pretend):
    pretend(8, 1)
    rules = (("mlp/linear1/kernel$", PartitionSpec(None, "tensor")),)
    shapes = {"kernel": (64, 128), "bias": (128,)}, {"kernel": (64, 129)}
    tree = {
        place: {"mlp": {"linear1": {k: jax.ShapeDtypeStruct(s, "f") for k, s in these}}}
        for place, these in zip(("mu", "odd"), map(dict.items, shapes), strict=True)
    }
    mesh = parallel.make_mesh(2, 2)
    shardings = parallel.state_shardings(mesh, tree, rules)
    found = jax.tree.map(lambda sharding: sharding.spec, shardings)
    assert found["mu"]["mlp"]["linear1"] == {
        "kernel": PartitionSpec("fsdp", "tensor"),
        "bias": PartitionSpec(),
    }
    odd = found["odd"]["mlp"]["linear1"]["kernel"]
    assert odd == PartitionSpec("fsdp")
    kernel, bias, halved = 64 * 128 * 4, 128 * 4, 64 * 129 * 4 // 2
    held = parallel.bytes_per_device(tree, shardings)
    assert held == (kernel // 4 + bias + halved, bias)


def test_a_batch_is_split_over_all_axes_but_tensor(pretend):
    pretend(8, 1)
    mesh = parallel.make_mesh(2, 2)
    assert parallel.batch_parts(mesh) == 4
    parallel.check_batch_size("batch", 12, mesh)
    with pytest.raises(UserError, match="batch: 10 cannot be split over 4 devices"):
        parallel.check_batch_size("batch", 10, mesh)
    assert parallel.batch_sharding(mesh).shard_shape((8, 3)) == (2, 3)


def test_a_tree_on_the_host_is_placed_as_it_is():
    tree = {"a": np.arange(6.0, dtype="f").reshape(2, 3), "b": np.array(3)}
    placed = parallel.place_state(parallel.make_mesh(), tree)
    jax.tree.map(np.testing.assert_array_equal, placed, tree)
    assert placed["b"].dtype == jnp.int32
    jax.tree.map(np.testing.assert_array_equal, parallel.on_host(placed), tree)
