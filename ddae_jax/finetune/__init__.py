"""A denoiser up to a tap, pooled, under a linear head: trained whole."""
