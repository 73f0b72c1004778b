"""What the command line does, from Python: `ddae_jax.pretrain`, `load`, `run`."""
