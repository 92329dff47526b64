"""What covey claims, measured against the raw limit in the same run.

Here: the harness (`commands.py`, `memory.py`), one module per benchmark with a `run()`, the job
files they run (`jobs/`), and the results (`RESULTS.md`, `RESULTS.json`). Not here: assertions;
tests hold behaviour, never speed.
"""
