"""Ways to run a training script: forked, spawned, inline. Empty, so that each imports alone."""
