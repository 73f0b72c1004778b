"""Feature networks of users: against torch, through their files, and bad files."""

import json
import re

import jax
import numpy as np
import pytest
from einops import rearrange

from ddae_jax.errors import UserError
from ddae_jax.models import layer_chain
from ddae_jax.models.layer_chain import Layer, LayerChain
from ddae_jax.weights import layer_chain as chain_files
from tests.tools import fid as fid_tools
from tests.tools import runs as run_tools


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


def torch_network(torch):
    nn = torch.nn

    class Residual(nn.Module):
        def __init__(self, branch, shortcut):
            super().__init__()
            self.branch, self.shortcut = branch, shortcut

        def forward(self, x):
            return self.branch(x) + self.shortcut(x)

    torch.manual_seed(0)
    branch = nn.Sequential(nn.Conv2d(6, 8, 3, 2, 1), nn.SiLU(), nn.Conv2d(8, 8, 1))
    return nn.Sequential(
        nn.Conv2d(3, 6, 5, padding=2, bias=False),
        nn.BatchNorm2d(6),
        nn.GELU(),
        nn.MaxPool2d(3, 2, 1),
        Residual(branch, nn.Conv2d(6, 8, 1, 2)),
        nn.AvgPool2d(2, 1),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(8 * 2 * 1, 7),
    ).eval()


LAYERS = [
    {"kind": "conv", "name": "first"},
    {"kind": "scale", "name": "norm"},
    {"kind": "gelu"},
    {"kind": "max_pool", "size": 3, "stride": 2},
    {
        "kind": "residual",
        "layers": [
            {"kind": "conv", "name": "a", "stride": 2},
            {"kind": "silu"},
            {"kind": "conv", "name": "b"},
        ],
        "shortcut": [{"kind": "conv", "name": "c", "stride": 2}],
    },
    {"kind": "average_pool", "size": 2, "stride": 1, "padding": "valid"},
    {"kind": "tanh"},
    {"kind": "flatten"},
    {"kind": "dense", "name": "last"},
]


def tensors_of(network) -> dict[str, np.ndarray]:
    first, norm, _, _, residual, *_, last = network
    named = {"first": first, "a": residual.branch[0], "b": residual.branch[2]}
    named |= {"c": residual.shortcut}
    tensors = {}
    for name, layer in named.items():
        kernel = layer.weight.detach().numpy()
        tensors[f"{name}/kernel"] = kernel.transpose(2, 3, 1, 0)
        if layer.bias is not None:
            tensors[f"{name}/bias"] = layer.bias.detach().numpy()
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    scale = 1 / np.sqrt(norm.running_var.numpy() + norm.eps)
    tensors["norm/scale"] = scale
    tensors["norm/bias"] = -norm.running_mean.numpy() * scale
    # torch flattens channels first.
    kernel = last.weight.detach().numpy().reshape(7, 8, 2, 1)
    tensors["last/kernel"] = kernel.transpose(2, 3, 1, 0).reshape(16, 7)
    tensors["last/bias"] = last.bias.detach().numpy()
    return tensors


@pytest.mark.slow
def test_a_chain_is_the_same_network_in_torch(tmp_path, torch):
    network = torch_network(torch)
    tensors = tensors_of(network)
    chain = LayerChain(layer_chain.parse(LAYERS), (10, 8, 3), 100.0, 50.0)
    chain_files.write(tmp_path / "net", chain, tensors, "a net", {"made": "here"})
    found = chain_files.read(tmp_path / "net")
    assert found.chain == chain and found.width == 7
    assert (found.name, found.about) == ("a net", {"made": "here"})
    pixels = fid_tools.images(3, 1, (10, 8, 3))
    ours = jax.jit(found.chain)(found.tensors, pixels)
    with torch.no_grad():
        inputs = torch.from_numpy((pixels.astype("f") - 100) / 50)
        theirs = network(inputs.permute(0, 3, 1, 2)).numpy()
    np.testing.assert_allclose(ours, theirs, atol=2e-5)


def test_average_pool_leaves_the_padding_out():
    chain = LayerChain(
        (Layer("average_pool", size=3, stride=2), Layer("flatten")), (6, 6, 2), 0, 1
    )
    pixels = fid_tools.images(2, 0, (6, 6, 2))
    ours = rearrange(chain({}, pixels), "b (h w c) -> b h w c", h=3, w=3)
    for row in range(3):
        for column in range(3):
            top, left = max(2 * row - 1, 0), max(2 * column - 1, 0)
            window = pixels[:, top : 2 * row + 2, left : 2 * column + 2]
            np.testing.assert_allclose(
                ours[:, row, column], window.mean((1, 2)), rtol=1e-6
            )


@pytest.mark.slow
def test_the_example_of_the_documentation_runs(tmp_path, monkeypatch, torch):
    text = (run_tools.ROOT / "docs" / "feature_networks.md").read_text()
    (program,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    scope = {}
    exec(program, scope)
    found = chain_files.read(tmp_path / "features")
    pixels = fid_tools.images(3, 1, (28, 28, 1))
    with torch.no_grad():
        inputs = torch.from_numpy(pixels.astype("f") / 127.5 - 1).permute(0, 3, 1, 2)
        theirs = scope["net"](inputs).mean((2, 3)).numpy()
    np.testing.assert_allclose(found.chain(found.tensors, pixels), theirs, atol=1e-5)
    (described,) = re.findall(r"```json\n(.*?)```", text, re.DOTALL)
    layers = json.loads(described)["layers"]
    assert layer_chain.parse(layers)[3].layers == (Layer("conv", "a"),)
    for kind in layer_chain.KINDS:
        assert kind in text


@pytest.mark.parametrize(
    "change, message",
    [
        ({"format": "2"}, "format is not"),
        ({"image_shape": [8, 8]}, r"image_shape must be \[height, width, channels\]"),
        ({"standard_deviation": 0}, "deviation a positive one"),
        ({"layers": "conv"}, "a list of layers"),
        ({"layers": [{"kind": "lstm"}]}, "unknown kind 'lstm'; known: conv, dense"),
        ({"layers": [{"kind": "relu", "slope": 1}]}, "no field 'slope'"),
        ({"layers": [{"kind": "conv", "stride": 2}]}, "needs the name"),
        ({"layers": [{"kind": "conv", "name": "conv", "stride": 0}]}, "1 or more"),
        ({"layers": [{"kind": "max_pool", "padding": "full"}]}, "same or valid"),
        (
            {"layers": [{"kind": "relu"}]},
            r"gives \(8, 8, 1\) per image, not one vector",
        ),
        ({"layers": [{"kind": "dense", "name": "x"}]}, "no tensor x/kernel"),
        ({"layers": [{"kind": "dense", "name": "last"}]}, "do not fit"),
    ],
)
def test_bad_descriptions_are_named(tmp_path, change, message):
    fid_tools.write_network(tmp_path)
    path = tmp_path / chain_files.DESCRIPTION
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=message) as raised:
        chain_files.read(tmp_path)
    assert "\n" not in str(raised.value) and str(path) in str(raised.value)


def test_bad_files_are_named(tmp_path):
    with pytest.raises(UserError, match="no feature network"):
        chain_files.read(tmp_path)
    fid_tools.write_network(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(UserError, match="corrupt or truncated"):
        chain_files.read(tmp_path)
    broken = fid_tools.tensors() | {"conv/bias": np.full(4, np.nan, "f")}
    chain = LayerChain((Layer("flatten"),), (8, 8, 1))
    chain_files.write(tmp_path, chain, broken, "broken", {})
    with pytest.raises(UserError, match="conv/bias has values not finite"):
        chain_files.read(tmp_path)
