"""How much memory is free: from files as Linux writes them."""

import pytest

from ddae_jax.errors import UserError
from ddae_jax.runtime import memory


@pytest.fixture
def system(tmp_path, monkeypatch):
    """A machine with 8 MiB free and no groups."""
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_OWN_GROUP", tmp_path / "cgroup")
    monkeypatch.setattr(memory, "_GROUPS", tmp_path / "groups")
    (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:   8192 kB\n")
    return tmp_path


def group(folder, limit, used, cache, version=2):
    folder.mkdir(parents=True, exist_ok=True)
    names = (
        ("memory.max", "memory.current"),
        (
            "memory.limit_in_bytes",
            "memory.usage_in_bytes",
        ),
    )
    for name, value in zip(names[version == 1], (limit, used), strict=True):
        (folder / name).write_text(f"{value}\n")
    prefix = "total_" if version == 1 else ""
    (folder / "memory.stat").write_text(f"anon 5\n{prefix}inactive_file {cache}\n")


def test_the_least_of_machine_and_groups(system):
    assert memory.available() == 8 << 20
    group(system / "groups", 1000, 600, 50)  # a container's own
    assert memory.available() == 450
    group(system / "groups", "max", 600, 50)
    (system / "cgroup").write_text("0::/user/session\n")
    group(system / "groups" / "user", 3000, 1000, 0)
    group(system / "groups" / "user" / "session", "max", 1000, 0)
    assert memory.available() == 2000
    (system / "cgroup").write_text("9:name=systemd:/\n4:memory:/job\n0::/\n")
    group(system / "groups" / "memory" / "job", 700, 600, 3, version=1)
    assert memory.available() == 103


def test_without_proc_nothing_is_refused(system):
    (system / "meminfo").unlink()
    assert memory.available() is None
    memory.check(1 << 60, "x", "y")


def test_this_machine_has_memory():
    assert memory.available() is None or memory.available() > 1 << 20


def test_what_is_too_much_is_refused_in_one_line(system):
    memory.check(8 << 20, "x", "y")
    with pytest.raises(UserError) as error:
        memory.check(5_000_000_000, "config.x: 7", "lower it")
    assert str(error.value) == (
        "config.x: 7 needs about 5.0 GB of memory, and 8.4 MB are free; lower it"
    )
