"""`covey report`: the pictures of a run, made anew from its folder.

Here: finding the run that is meant, and telling where its page is. Not here: the page
(`covey.actors.observe.report`).
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from .errors import CommandError, ExitCode

#: Of the runs that an unclear name may mean, so many are named.
_MOST_NAMED = 5


def make_report(run: str | None, workspace: Path | None, show: bool) -> None:
    """Write `report.html` of a run and print its path; open it in a browser if `show`.

    Args:
        run: A run's folder, its id, how its id begins, or the name of runs, of which the latest is
            meant; None is the latest run of all.
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
    """The run whose id was given, the latest of that name, or the only one whose id begins so."""
    folders = list(_folders(workspace))
    exact = [path for path in folders if path.name == run]
    if len(exact) == 1:
        return exact[0]
    if not exact and run in {path.parent.name for path in folders}:
        return _latest_of([workspace / run], workspace)
    found = exact or [path for path in folders if path.name.startswith(run)]
    if len(found) == 1:
        return found[0]
    if not found:
        raise CommandError(_no_run(run, workspace, folders))
    names = ", ".join(f"{path.parent.name}/{path.name}" for path in found[:_MOST_NAMED])
    more = f" and {len(found) - _MOST_NAMED} more" if len(found) > _MOST_NAMED else ""
    raise CommandError(f"{run!r} may be any of {len(found)} runs: {names}{more}; give more of it")


def _no_run(run: str, workspace: Path, folders: Sequence[Path]) -> str:
    """That nothing has this name, and what has one like it."""
    from covey.recipes.errors import did_you_mean

    names = list(dict.fromkeys(path.parent.name for path in folders))
    near = [name for name in names if run and name.startswith(run)]
    hint = did_you_mean(run, near or names)
    if near:
        hint = f"; did you mean {' or '.join(map(repr, near[:_MOST_NAMED]))}?"
    there = ", ".join(names[:_MOST_NAMED]) + (", ..." if len(names) > _MOST_NAMED else "")
    known = f" (there are runs of {there})" if names else ""
    return (
        f"there is no run {run} in {workspace}, no runs of that name, and no run's folder"
        f"{known}{hint}; covey runs lists all runs"
    )


def _folders(workspace: Path) -> Iterator[Path]:
    from covey.recipes.folder import CONFIG

    for name in sorted(workspace.iterdir()) if workspace.is_dir() else []:
        for path in sorted(name.iterdir()) if name.is_dir() else []:
            if (path / CONFIG).is_file():
                yield path


def _latest(workspace: Path) -> Path:
    return _latest_of(workspace.iterdir() if workspace.is_dir() else (), workspace)


def _latest_of(names: Iterable[Path], workspace: Path) -> Path:
    from covey.recipes.folder import folders

    firsts = [found for name in names if (found := next(folders(name), None)) is not None]
    if not firsts:
        raise CommandError(f"no runs in {workspace}")
    path, _ = max(firsts, key=lambda found: (str(found[1].get("created")), found[0].name))
    return path
