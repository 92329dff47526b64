"""The `covey` command: its options and help.

Here: the commands as the user types them. Not here: what they do; each imports that when called,
so that help and completion answer without loading anything else.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from .errors import CommandError, ExitCode

_EXIT_CODES = "Exit codes: 0 completed, 1 failed, 2 wrong usage or configuration, 130 interrupted."

app = typer.Typer(
    name="covey",
    help="covey: federated learning, from one laptop to many sites.",
    epilog="\b\nExample:\n  covey new demo\n  cd demo\n  covey run\n\n" + _EXIT_CODES,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,  # plain help: no import of rich, the same text in a pipe
    pretty_exceptions_enable=False,
)


class Template(StrEnum):
    """Templates of `covey new`."""

    torch = "torch"
    numpy = "numpy"
    sklearn = "sklearn"


class Isolation(StrEnum):
    """How client scripts run."""

    process = "process"
    inline = "inline"


#: The option of every command that makes runs or looks for them.
Workspace: TypeAlias = Annotated[
    Path | None,
    typer.Option(help="Where run folders are.", show_default="COVEY_WORKSPACE, else ./covey_runs"),
]


def _show_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"covey {version('covey')}")
        raise typer.Exit


@app.callback()
def covey(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """covey: federated learning, from one laptop to many sites."""


@app.command(epilog="\b\nExample:\n  covey new demo --template numpy\n\n" + _EXIT_CODES)
def new(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder to make.", show_default=False)
    ],
    template: Annotated[
        Template, typer.Option("--template", "-t", help="What the job trains with.")
    ] = Template.torch,
) -> None:
    """Make a folder with a small job that runs."""
    from .new import make

    _run(lambda: make(folder, template.value))


@app.command(epilog="\b\nExample:\n  covey run job.py --clients 8 --rounds 10\n\n" + _EXIT_CODES)
def run(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="Python file with a `recipe`, and maybe an `env`."),
    ] = Path("job.py"),
    clients: Annotated[
        int | None, typer.Option(min=1, help="Number of clients.", show_default=False)
    ] = None,
    rounds: Annotated[
        int | None, typer.Option(min=1, help="Number of rounds.", show_default=False)
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of everything random in the run.", show_default=False)
    ] = None,
    workspace: Workspace = None,
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="Clients that train at once.", show_default="usable CPUs"),
    ] = None,
    isolation: Annotated[
        Isolation | None,
        typer.Option(
            help="A process for each client, or all in this one, for a debugger.",
            show_default="process",
        ),
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Start over instead of resuming an unfinished run.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show each answer and what scripts print.")
    ] = False,
    live: Annotated[
        bool, typer.Option("--live", help="Show what each client does, on a terminal.")
    ] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print only the outcome, as one JSON object.")
    ] = False,
) -> None:
    """Run the recipe of a Python file in the simulator; again after an interruption, to resume."""
    from .run import RunOptions, run_file

    options = RunOptions(
        file=file,
        clients=clients,
        rounds=rounds,
        seed=seed,
        workspace=workspace,
        threads=threads,
        isolation=None if isolation is None else isolation.value,
        fresh=fresh,
        verbose=verbose,
        live=live,
        json=json,
    )
    _run(lambda: run_file(options))


@app.command(epilog="\b\nExample:\n  covey runs --json\n\n" + _EXIT_CODES)
def runs(
    workspace: Workspace = None,
    last: Annotated[int, typer.Option(min=1, help="How many, the latest first.")] = 20,
    json: Annotated[bool, typer.Option("--json", help="Print a JSON array.")] = False,
) -> None:
    """List runs: their status, best model and folder."""
    from .runs import list_runs

    _run(lambda: list_runs(workspace, last, json))


@app.command(epilog="\b\nExample:\n  covey report --open\n\n" + _EXIT_CODES)
def report(
    run: Annotated[
        str | None,
        typer.Argument(
            metavar="[RUN]",
            help="A run's name (its latest run), its id, how it begins, or its folder.",
            show_default="the latest run",
        ),
    ] = None,
    workspace: Workspace = None,
    show: Annotated[bool, typer.Option("--open", help="Open it in a browser.")] = False,
) -> None:
    """Make report.html of a run, with its curves and timings, and print its path."""
    from .report import make_report

    _run(lambda: make_report(run, workspace, show))


def _run(command: Callable[[], object]) -> None:
    """Run a command; what it cannot do is told in a few lines, without a traceback."""
    try:
        command()
    except CommandError as error:
        sys.stdout.flush()
        prefix = "" if error.code is ExitCode.INTERRUPTED else "error: "
        typer.echo(f"{prefix}{error}", err=True)
        raise typer.Exit(error.code) from None


def main() -> None:
    """Run the command line."""
    app()
