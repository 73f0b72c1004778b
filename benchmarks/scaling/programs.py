"""Compiles training steps for devices that are not there. No weight is ever made."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.networks import NAMED
from benchmarks.scaling import collectives
from ddae_jax.data.form import IMAGES
from ddae_jax.denoiser import Denoiser
from ddae_jax.experiment.memory import training_bytes
from ddae_jax.models.remat import KEEP_ALL
from ddae_jax.runtime import parallel
from ddae_jax.train import optimizers
from ddae_jax.train import state as train_state
from ddae_jax.train.feed import Steps, each
from ddae_jax.train.step import Keys, TrainStep

# The program is never run: LLVM need not make it fast, and what is counted is decided
# before LLVM. A large step compiles in minutes instead of a quarter of an hour.
_UNOPTIMISED = {
    "xla_backend_optimization_level": "0",
    "xla_cpu_parallel_codegen_split_count": "1",
    "xla_cpu_use_fusion_emitters": "False",
    "xla_disable_hlo_passes": "constant_folding",
    "xla_llvm_disable_expensive_passes": "True",
}


@dataclasses.dataclass(frozen=True)
class Case:
    """A training step to compile.

    Attributes:
      network: a key of NAMED.
      batch: images of a step, over all devices.
      fsdp: devices that share the parameters; the others repeat them.
      remat: a policy of models/remat.py.
      dtype: of the computation.
      depth: blocks of a transformer; None: as published.
    """

    network: str
    batch: int
    fsdp: int = 1
    remat: str = KEEP_ALL
    dtype: str = "bfloat16"
    depth: int | None = None

    def denoiser(self) -> Denoiser:
        """The network under its process."""
        named = NAMED[self.network]
        changed = {} if self.depth is None else {"depth": self.depth}
        network = named.network.clone(
            dtype=jnp.dtype(self.dtype), remat=self.remat, **changed
        )
        return Denoiser(network, named.denoiser().process)


@dataclasses.dataclass(frozen=True)
class Facts:
    """What a compiled step shows.

    Attributes:
      devices: that it is compiled for.
      parameters: of the network.
      state_bytes: of parameters, optimiser and EMA, on one device.
      argument_bytes: of these and the images, as `memory_analysis` has them.
      temporary_bytes: that the step takes beside them, on one device.
      image_bytes: that each image keeps between the forward and the backward pass, in
        the differentiated program before it is compiled.
      flops: of the step on all devices, in the program before it is compiled.
      collectives: of one device.
    """

    devices: int
    parameters: int
    state_bytes: int
    argument_bytes: int
    temporary_bytes: int
    image_bytes: int
    flops: float
    collectives: tuple[collectives.Collective, ...]


def compiled(case: Case) -> Facts:
    """Compiles a step for all devices of this process, as `Pretraining` makes it."""
    mesh = parallel.make_mesh(case.fsdp)
    recipe = TrainStep(case.denoiser(), optimizers.Adam(1e-4))
    state = _state(case, recipe, mesh)
    rules = recipe.denoiser.network.partition_rules

    def step(state, steps, keys):
        def body(state, batch):
            return recipe(state, batch, keys)

        return each(body, state, steps, rules)

    lowered = jax.jit(step, donate_argnums=0).lower(
        state, _steps(case, mesh), Keys.of(0)
    )
    program = lowered.compile(compiler_options=_UNOPTIMISED)
    memory = program.memory_analysis()
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    return Facts(
        devices=mesh.size,
        parameters=sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        state_bytes=parallel.bytes_per_device(state, shardings)[0],
        argument_bytes=memory.argument_size_in_bytes,
        temporary_bytes=memory.temp_size_in_bytes,
        image_bytes=image_bytes(case),
        flops=lowered.cost_analysis()["flops"],
        collectives=collectives.count(program.as_text(), mesh.size),
    )


def image_bytes(case: Case) -> int:
    """Bytes that each image keeps for the gradient; nothing is compiled.

    Those of weights, which do not grow with the batch, are left out.
    """
    denoiser, shape = case.denoiser(), NAMED[case.network].image_shape
    two, four = (training_bytes(denoiser, shape, batch)[1] for batch in (2, 4))
    return (four - two) // 2


def _state(case: Case, recipe: TrainStep, mesh: jax.sharding.Mesh) -> Any:
    shapes = recipe.denoiser.parameter_shapes(NAMED[case.network].image_shape)
    rules = recipe.denoiser.network.partition_rules

    def first(params):
        return train_state.first_state(params, recipe.optimizer)

    return train_state.abstract(first, mesh, shapes, rules=rules)


def _steps(case: Case, mesh: jax.sharding.Mesh) -> Steps:
    """One step of a set that streams."""
    split = parallel.batch_sharding(mesh, axis=1)

    def shape(dtype, *rest):
        return jax.ShapeDtypeStruct((1, case.batch, *rest), dtype, sharding=split)

    images = shape(jnp.uint8, *NAMED[case.network].image_shape)
    number = shape(jnp.int32)
    return Steps(images, number, number, number, {}, False, False, mesh, IMAGES)
