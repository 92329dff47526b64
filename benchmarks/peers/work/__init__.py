"""The work that every system is given: models, samples, training, and how it is told.

Here: what must be the same for all, in torch and NumPy alone, because it is imported in the virtual
environments of the peers, which know nothing of covey. Not here: how a system is driven.
"""
