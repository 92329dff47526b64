"""An unfinished run of another configuration: why the same name does not resume it.

Here: what is told of the latest run of a name where it was cut off and is not the one that is
begun. Not here: finding the run that is resumed (`folder.py`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from covey.actors.jobs.manifest import JobManifest

from .folder import SUMMARY, folders, is_running, short

#: Differences that are named; one changed argument is the usual case.
_MOST_NAMED: Final = 3
#: A value that is longer is not shown.
_MOST_CHARACTERS: Final = 40


def leftover(workspace: Path, manifest: JobManifest, seed: int | None) -> str:
    """What to tell of the latest run of this name, if it was cut off and is another; else "".

    Args:
        workspace: Where runs are.
        manifest: Of the run that is begun.
        seed: The seed that was asked for, None for any.
    """
    path, config = next(folders(workspace / manifest.name), (workspace, None))
    if config is None or (path / SUMMARY).exists() or is_running(path):
        return ""
    found = list(_differences(config, _plain(manifest.as_dict()), seed))
    if not found:
        return ""
    more = f" and {len(found) - _MOST_NAMED} more" if len(found) > _MOST_NAMED else ""
    why = ", ".join(found[:_MOST_NAMED]) + more
    return f"starting anew: the unfinished run in {short(path)} is of another configuration ({why})"


def _differences(
    config: Mapping[str, Any], manifest: Mapping[str, Any], seed: int | None
) -> Iterator[str]:
    """What differs between a run's `config.json` and what is begun now."""
    then: Mapping[str, Any] = config.get("manifest") or {}
    yield from _changed([("recipe", then.get("recipe"), manifest["recipe"])])
    yield from _settings(then.get("settings") or {}, manifest["settings"])
    yield from _sites(then.get("sites") or [], manifest["sites"])
    if then.get("model") != manifest["model"]:
        yield "initial_model has changed"
    code: Mapping[str, Any] = then.get("code") or {}
    for name in sorted({*code, *manifest["code"]}):
        if code.get(name) != manifest["code"].get(name):
            yield f"{name} has changed"
    if seed is not None:
        yield from _changed([("seed", config.get("seed"), seed)])


def _settings(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    names = sorted({*then, *now})
    return _changed((name, then.get(name), now.get(name)) for name in names)


def _sites(then: list[Any], now: list[Any]) -> Iterator[str]:
    if len(then) != len(now):
        yield f"{len(then)} clients there, {len(now)} here"
    elif then != now:
        yield "clients have other names"


def _changed(values: Iterable[tuple[str, Any, Any]]) -> Iterator[str]:
    for name, then, now in values:
        if then != now:
            told = f"{name} {then} there, {now} here"
            yield told if len(told) <= _MOST_CHARACTERS + len(name) else f"{name} differs"


def _plain(manifest: Mapping[str, Any]) -> Mapping[str, Any]:
    """As it would be read back."""
    plain: Mapping[str, Any] = json.loads(json.dumps(manifest, default=str))
    return plain
