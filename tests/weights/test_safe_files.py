"""Files from others are read without running what is in them."""

import os
import pickle
import sys

import numpy as np
import pytest

from ddae_jax.errors import UserError
from ddae_jax.runtime import safe_pickle
from ddae_jax.weights import edm_pickle, folder, torch_files

NO_TORCH = "torch is not installed: pip install ddae_jax[torch]"


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason=NO_TORCH)


class Malicious:
    """Makes a folder when it is unpickled by a reader that obeys."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_malicious_pickles_do_not_run(torch, tmp_path):
    target = tmp_path / "made"
    path = tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps({"ema": Malicious(target)}))
    with pytest.raises(UserError, match=r"refused.*(posix|nt)\.mkdir"):
        edm_pickle.read(path)
    # Deeper: in the storage of a tensor, which is a pickle of its own.
    inner = pickle.dumps(Malicious(target))
    nested = (
        b"ctorch.storage\n_load_from_bytes\n(" + pickle.dumps(inner, 0)[:-1] + b"tR."
    )
    for content in (nested, pickle.dumps({"ema": torch.load})):
        path.write_bytes(content)
        with pytest.raises(UserError, match="refused"):
            edm_pickle.read(path)
    torch.save({"EMA": Malicious(target)}, path)
    with pytest.raises(
        UserError, match=r"refused, the file asks for (posix|nt)\.mkdir"
    ):
        torch_files.read(path)
    assert not target.exists()


def test_a_tensor_cannot_reach_outside_its_storage():
    storage = np.arange(6, dtype=np.float32)
    build = edm_pickle._BUILDERS[("torch._utils", "_rebuild_tensor_v2")]
    transposed = build(storage, 0, (3, 2), (1, 3), False, {})
    np.testing.assert_array_equal(transposed, storage.reshape(2, 3).T)
    for offset, size, stride in [(1, (6,), (1,)), (0, (2,), (6,)), (-1, (1,), (1,))]:
        with pytest.raises(ValueError):
            build(storage, offset, size, stride, False, {})
    # Rows of a matrix begin late in it; a stride of 0 repeats one number for ever.
    with pytest.raises(ValueError, match="without a storage"):
        build(storage.reshape(3, 2), 2, (4,), (1,), False, {})
    with pytest.raises(ValueError, match="larger than its storage"):
        build(storage, 0, (1 << 40,), (0,), False, {})


def test_torch_files_in_every_official_form(torch, tmp_path):
    weight = torch.arange(6.0).reshape(2, 3)
    plain = {"a.weight": weight, "b.bias": weight[0].to(torch.bfloat16)}
    wrapped = {f"module.{name}": array for name, array in plain.items()}
    averaged = {f"ema_model.nn_model.{name}": array for name, array in plain.items()}
    averaged |= {"initted": torch.tensor(True), "step": torch.tensor(3)}
    averaged |= {
        f"online_model.nn_model.{name}": array for name, array in plain.items()
    }
    trained = {f"module.nn_model.{name}": array * 0 for name, array in plain.items()}
    for content in (
        plain,
        {"model": trained, "ema": plain, "opt": {}, "args": None},
        {"ema": wrapped},
        {"MODEL": trained, "EMA": averaged, "opt": {"state": {}}},
    ):
        for zipped in (True, False):
            path = tmp_path / "weights.pt"
            torch.save(content, path, _use_new_zipfile_serialization=zipped)
            found = torch_files.state_dict(torch_files.read(path))
            assert found.keys() == plain.keys()
            for name, array in found.items():
                np.testing.assert_array_equal(array, plain[name].float().numpy())
    found = torch_files.state_dict(torch_files.read(path), "model")
    assert not found["a.weight"].any()


def test_torch_files_of_another_form(torch, tmp_path):
    path = tmp_path / "weights.pt"
    for content, reason in [
        ({"ema": {}}, "ema is no state dict"),
        ({"model": {"a": torch.zeros(1)}}, "no ema weights, only model: give weights"),
        ({"state": {"a": torch.zeros(1)}, "epoch": 3}, "state, epoch are no tensors"),
        (torch.zeros(2), "ndarray, not of named tensors"),
        ({"a": torch.zeros(1), "module.a": torch.zeros(1)}, "there twice"),
    ]:
        torch.save(content, path)
        with pytest.raises(UserError, match=reason):
            torch_files.state_dict(torch_files.read(path))


def test_truncated_files(torch, tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"a": torch.zeros(1000)}, path)
    content = path.read_bytes()
    for part in (content[: len(content) // 2], b""):
        path.write_bytes(part)
        with pytest.raises(UserError, match="corrupt or truncated") as error:
            torch_files.read(path)
        assert "\n" not in str(error.value)
    tree = {"layer": {"kernel": np.ones((3, 4), np.float32)}}
    folder.write_parameters(tmp_path, tree)
    found = folder.read_parameters(tmp_path, tree)
    np.testing.assert_array_equal(found["layer"]["kernel"], tree["layer"]["kernel"])
    wrong = {"layer": {"kernel": np.ones((4, 3), np.float32), "bias": np.ones(3)}}
    with pytest.raises(UserError, match="missing: layer/bias; misshapen: layer/kernel"):
        folder.read_parameters(tmp_path, wrong)
    path = tmp_path / folder.FILE
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match="corrupt or truncated"):
        folder.read_parameters(tmp_path, tree)


def test_without_torch_the_error_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError, match=r"pip install ddae_jax\[torch\]"):
        torch_files.read(tmp_path / "weights.pth")


def test_plain_pickles_refuse_the_builders_of_others():
    content = b"ccollections\nOrderedDict\n(tR."
    with pytest.raises(UserError, match=r"refused.*collections\.OrderedDict"):
        safe_pickle.safe_unpickle(content, "file")


def test_numbers_of_numpy_are_data():
    # NVlabs' networks hold skip_scale=np.sqrt(0.5).
    for protocol in range(2, 6):
        content = pickle.dumps({"scale": np.sqrt(0.5), "count": np.int64(3)}, protocol)
        found = safe_pickle.safe_unpickle(content, "numbers.pkl")
        values = {
            str(key, "ascii") if isinstance(key, bytes) else key: value
            for key, value in found.items()
        }
        assert values == {"scale": np.sqrt(0.5), "count": 3}
    bad = content.replace(np.float64(np.sqrt(0.5)).tobytes(), b"")
    with pytest.raises(UserError):
        safe_pickle.safe_unpickle(bad, "numbers.pkl")
