"""Which accelerators a machine shows."""

import pytest

from ddae_jax.runtime import hardware


@pytest.mark.parametrize(
    ("value", "gpus"),
    [
        ("0,1", ["0", "1"]),
        ("GPU-1a, GPU-2b", ["GPU-1a", "GPU-2b"]),
        ("", []),
        ("-1", []),
        ("0,-1,1", ["0"]),
    ],
)
def test_visible_gpus_are_those_that_cuda_takes(monkeypatch, value, gpus):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    assert hardware.gpus() == gpus


def test_nvidia_smi_is_asked(monkeypatch, tmp_path):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    tool = tmp_path / "nvidia-smi"
    tool.write_text(
        "#!/bin/sh\necho 'GPU 0: H100'; echo '  MIG 1g'; echo 'GPU 1: H100'"
    )
    tool.chmod(0o755)
    assert hardware.gpus() == ["0", "1"]


def test_tpu_chips_are_counted_but_no_network_cards(tmp_path):
    devices = {
        "a": ("0x1ae0", "0x006f"),
        "b": ("0x1ae0", "0x0042"),
        "c": ("0x10de", "0x006f"),
    }
    for name, (vendor, device) in devices.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "vendor").write_text(f"{vendor}\n")
        (tmp_path / name / "device").write_text(f"{device}\n")
    assert hardware.tpu_chips(tmp_path) == 1
