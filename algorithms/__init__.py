"""The mathematics of federated learning: tensors in, tensors out.

Here: the aggregation seam and the rules on it, model selection, stopping, partitions, seeds, and
`tensors/`. Not here: anything that waits, sends or knows who takes part. Imports nothing of covey
and, when imported, neither torch nor safetensors.
"""
