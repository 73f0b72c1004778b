"""torchvision's ResNet files: what is read, and what is refused."""

import hashlib

import jax
import numpy as np
import pytest
import safetensors.numpy

from ddae_jax.errors import UserError
from ddae_jax.models.resnet import ResNet
from ddae_jax.weights import resnet, torch_layout
from tests.tools import golden_values
from tests.tools.inception_state import inception_state

META, _ = golden_values.load("resnet_small")
NETWORK = ResNet(tuple(META["blocks"]), META["width"])


@pytest.fixture(scope="module")
def state():
    """As torchvision's files, which count the steps of training."""
    state = inception_state(META)
    counters = {
        name.replace("running_mean", "num_batches_tracked"): np.array(7, np.int64)
        for name in state
        if name.endswith("running_mean")
    }
    return state | counters


def test_the_classifier_is_left_out_or_taken_alone(state):
    variables = resnet.variables_from_torch(NETWORK, state)
    back = torch_layout.to_torch(variables, resnet.names(NETWORK))
    assert set(state) - set(back) == {"fc.weight", "fc.bias"} | {
        name for name in state if name.endswith("num_batches_tracked")
    }
    for name, array in back.items():
        np.testing.assert_array_equal(array, state[name])
    head = resnet.classifier_from_torch(state)
    np.testing.assert_array_equal(head["kernel"], state["fc.weight"].T)
    np.testing.assert_array_equal(head["bias"], state["fc.bias"])
    with pytest.raises(UserError, match=r"no classifier: fc.weight, fc.bias missing"):
        resnet.classifier_from_torch(back)
    without = resnet.variables_from_torch(NETWORK, back)
    jax.tree.map(np.testing.assert_array_equal, without, variables)


def test_a_file_is_read(state, tmp_path):
    wanted = resnet.variables_from_torch(NETWORK, state)
    path = tmp_path / "resnet.safetensors"
    safetensors.numpy.save_file(state, path)
    read = resnet.load(path, NETWORK)
    assert read.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    jax.tree.map(np.testing.assert_array_equal, read.variables, wanted)


@pytest.mark.slow
def test_files_of_torch_are_read(state, tmp_path):
    torch = pytest.importorskip("torch", reason="torch writes the file")
    wanted = resnet.variables_from_torch(NETWORK, state)
    plain = tmp_path / "plain.pth"
    torch.save({f"module.{k}": torch.tensor(v) for k, v in state.items()}, plain)
    digits = hashlib.sha256(plain.read_bytes()).hexdigest()[:8]
    path = plain.rename(tmp_path / f"resnet50-{digits}.pth")
    read = resnet.load(path, NETWORK)
    jax.tree.map(np.testing.assert_array_equal, read.variables, wanted)


def message_of(path, network=NETWORK):
    with pytest.raises(UserError) as raised:
        resnet.load(path, network)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_files_that_cannot_be_used_are_named(state, tmp_path):
    message = message_of(tmp_path / "none.pth")
    assert "there is no file" in message
    assert "resnet50-0676ba61.pth" in message and "download.pytorch.org" in message
    path = tmp_path / "resnet50-0676ba61.pth"
    path.write_bytes(b"cut short")
    assert "not 0676ba61: damaged or another file" in message_of(path)

    path = tmp_path / "other.safetensors"
    path.write_bytes(b"cut short")
    assert f"{path}: missing, corrupt or truncated" in message_of(path)
    changed = {name: array for name, array in state.items() if name != "bn1.bias"}
    changed["layer9.weight"] = np.zeros(3, np.float32)
    changed["conv1.weight"] = np.zeros((8, 1, 7, 7), np.float32)
    safetensors.numpy.save_file(changed, path)
    message = message_of(path)
    assert message.startswith(f"{path}: tensors do not fit the network; ")
    for part in (
        "missing: bn1.bias;",
        "surplus: layer9.weight;",
        "misshapen: conv1.weight (8, 1, 7, 7), not like our (7, 7, 3, 8)",
    ):
        assert part in message
