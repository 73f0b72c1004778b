"""Upper bounds that many fields share: beyond them a value is a mistake."""

BATCH = 1 << 20  # images in one batch
COUNT = 1 << 40  # images, or bytes
STEPS = 10**9  # optimiser steps, or epochs
WEIGHT = 1e6  # penalties, noise levels
RATE = 1e6  # learning rates
