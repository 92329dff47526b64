"""The command line: `covey ...`.

Here: thin commands over recipes and run folders. Not here: anything that runs a federation.
Importing this room imports nothing heavier than typer; each command imports what it needs when
it is called, so that `covey --help` answers at once.
"""
