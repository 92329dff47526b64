"""Security: who is who, and what a signature is worth.

Ground floor: the standard library and `cryptography`, nothing of covey. Here: names in
certificates, TLS contexts, signed tokens. Not here: connections (`covey.transport`), which are
handed the verdicts.
"""
