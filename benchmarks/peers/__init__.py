"""covey beside its peers: the same work on each, in alternation, in the same run.

Here: the peers' virtual environments (`environments.py`), how each system is driven (`systems.py`)
within bounds (`bounded.py`), one module per table, the work (`work/`), a folder of programs for
each system, and the page. Not here: assertions. Programs of peers run in the peers' environments
and are not type-checked, as those packages are not installed here.
"""
