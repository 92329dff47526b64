"""`covey report`: the pictures of a run, made anew from its folder.

Here: finding the run that is meant, and telling where its page is. Not here: the page
(`covey.actors.observe.report`).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from .errors import CommandError, ExitCode

#: Of the runs that an unclear name may mean, so many are named.
_MOST_NAMED = 5


def make_report(run: str | None, workspace: Path | None, show: bool) -> None:
    """Write `report.html` of a run and print its path; open it in a browser if `show`.

    Args:
        run: A run's folder, its id, or how its id begins; None is the latest run.
        workspace: Where runs are looked for.
        show: Whether to open it.

    Raises:
        CommandError: If there is no such run or more than one, if a file cannot be read or
            written, or if no browser opens.
    """
    from covey.actors.observe.report import write_report
    from covey.recipes.folder import is_running, short

    folder = _find(run, workspace)
    try:
        page = write_report(folder, "running" if is_running(folder) else "unfinished")
    except OSError as error:
        raise CommandError(f"{error.filename or folder}: {error.strerror}") from error
    sys.stdout.write(f"{short(page)}\n")
    if show:
        sys.stdout.flush()
        _open(page)


def _open(page: Path) -> None:
    import webbrowser

    if not webbrowser.open(page.resolve().as_uri()):
        raise CommandError(f"no browser can be started here; open {page}", ExitCode.FAILED)


def _find(run: str | None, workspace: Path | None) -> Path:
    from covey.recipes.folder import CONFIG, workspace_of

    if run is not None and (Path(run) / CONFIG).is_file():
        return Path(run)
    where = workspace_of(workspace)
    if workspace is not None and not where.is_dir():
        raise CommandError(f"there is no folder {workspace}")
    return _latest(where) if run is None else _named(run, where)


def _named(run: str, workspace: Path) -> Path:
    """The only run whose id is, or begins with, what was given."""
    found = [path for path in _folders(workspace) if path.name.startswith(run)]
    exact = [path for path in found if path.name == run]
    if len(found) == 1 or len(exact) == 1:
        return (exact or found)[0]
    if not found:
        raise CommandError(
            f"there is no run {run} in {workspace}, and no run's folder of that name; "
            "covey runs lists all runs"
        )
    names = ", ".join(f"{path.parent.name}/{path.name}" for path in found[:_MOST_NAMED])
    more = f" and {len(found) - _MOST_NAMED} more" if len(found) > _MOST_NAMED else ""
    raise CommandError(f"{run!r} may be any of {len(found)} runs: {names}{more}; give more of it")


def _folders(workspace: Path) -> Iterator[Path]:
    from covey.recipes.folder import CONFIG

    for name in sorted(workspace.iterdir()) if workspace.is_dir() else []:
        for path in sorted(name.iterdir()) if name.is_dir() else []:
            if (path / CONFIG).is_file():
                yield path


def _latest(workspace: Path) -> Path:
    from covey.recipes.folder import folders

    names = workspace.iterdir() if workspace.is_dir() else iter(())
    firsts = [found for name in names if (found := next(folders(name), None)) is not None]
    if not firsts:
        raise CommandError(f"no runs in {workspace}")
    path, _ = max(firsts, key=lambda found: (str(found[1].get("created")), found[0].name))
    return path
