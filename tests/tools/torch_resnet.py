"""ResNet in PyTorch, written from its description, under torchvision's names.

    python -m tests.tools.torch_resnet

writes tests/golden/resnet_small.*, which tests read where torch is missing.
"""

import json

import numpy as np
import torch
from torch import nn

from tests.tools import golden_values
from tests.tools.inception_state import inception_state

BLOCKS, WIDTH, SEED = (2, 1, 1, 1), 8, 12
IMAGES = (3, 3, 64, 48)


def _norm_after(in_channels, out_channels, size, stride=1):
    conv = nn.Conv2d(
        in_channels, out_channels, size, stride, padding=size // 2, bias=False
    )
    return conv, nn.BatchNorm2d(out_channels)


class Residual(nn.Module):
    """Three convolutions, the second with the stride, beside a shortcut."""

    def __init__(self, inputs, middle, stride, project):
        super().__init__()
        self.conv1, self.bn1 = _norm_after(inputs, middle, 1)
        self.conv2, self.bn2 = _norm_after(middle, middle, 3, stride)
        self.conv3, self.bn3 = _norm_after(middle, 4 * middle, 1)
        if project:
            self.downsample = nn.Sequential(*_norm_after(inputs, 4 * middle, 1, stride))

    def forward(self, x):
        hidden = torch.relu(self.bn1(self.conv1(x)))
        hidden = torch.relu(self.bn2(self.conv2(hidden)))
        hidden = self.bn3(self.conv3(hidden))
        shortcut = self.downsample(x) if hasattr(self, "downsample") else x
        return torch.relu(hidden + shortcut)


class TorchResNet(nn.Module):
    """Images (B, 3, H, W) -> the last map."""

    def __init__(self, blocks, width, last_stride=2, classes=10):
        super().__init__()
        self.conv1, self.bn1 = _norm_after(3, width, 7, 2)
        channels, self.stages = width, len(blocks)
        for stage, count in enumerate(blocks):
            stride = (1, 2, 2, last_stride)[stage]
            layers = []
            for number in range(count):
                layers.append(
                    Residual(
                        channels,
                        width * 2**stage,
                        stride if number == 0 else 1,
                        number == 0,
                    )
                )
                channels = 4 * width * 2**stage
            setattr(self, f"layer{stage + 1}", nn.Sequential(*layers))
        self.fc = nn.Linear(channels, classes)

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.max_pool2d(x, 3, 2, 1)
        for stage in range(self.stages):
            x = getattr(self, f"layer{stage + 1}")(x)
        return x


def spec() -> dict[str, list[int]]:
    """Name -> shape of the tensors of the small network."""
    state = TorchResNet(BLOCKS, WIDTH).state_dict()
    return {
        name: list(tensor.shape)
        for name, tensor in state.items()
        if not name.endswith("num_batches_tracked")
    }


def arrays() -> dict[str, np.ndarray]:
    """Maps of one batch in both modes, and the statistics after a step of training."""
    meta = {"spec": spec(), "seed": SEED}
    images = np.random.default_rng(SEED).standard_normal(IMAGES, np.float32)
    found = {"in/images": images}
    for last_stride in (1, 2):
        network = TorchResNet(BLOCKS, WIDTH, last_stride)
        tensors = {
            name: torch.tensor(array) for name, array in inception_state(meta).items()
        }
        network.load_state_dict(tensors, strict=False)  # no counters of steps
        with torch.no_grad():
            batch = torch.tensor(images)
            found[f"out/eval_{last_stride}"] = network.eval()(batch).numpy()
            found[f"out/train_{last_stride}"] = network.train()(batch).numpy()
    for name, tensor in network.state_dict().items():
        if "running" in name:
            found[f"stats/{name}"] = tensor.numpy()
    return found


def main() -> None:
    """Writes the golden file."""
    meta = {"blocks": BLOCKS, "width": WIDTH, "seed": SEED, "spec": spec()}
    target = golden_values.FOLDER / "resnet_small"
    target.with_suffix(".json").write_text(json.dumps(meta, indent=1) + "\n")
    np.savez_compressed(target.with_suffix(".npz"), **arrays())


if __name__ == "__main__":
    main()
