"""From the settings of a script to what its process is told and given.

Here: the `Welcome` message and environments. Not here: sending it (`process.py`), obeying it
(`child.py`, `surroundings.py`).
"""

from __future__ import annotations

import os

from covey.client.messages import Welcome

from .script import ScriptSettings


def welcome_of(settings: ScriptSettings) -> Welcome:
    """The settings as the message that the script's process gets."""
    return Welcome(
        site=settings.site,
        job_id=settings.job_id,
        script=os.path.abspath(settings.script),
        args=tuple(settings.args),
        cwd=os.path.abspath(settings.cwd),
        env=script_environment(settings),
        path=tuple(str(folder) for folder in settings.path),
        seed=settings.seed,
        kind=settings.kind,
        torch_threads=settings.torch_threads,
        exclude=settings.exclude,
        config=dict(settings.config),
        state=os.path.abspath(settings.state) if settings.state is not None else "",
    )


def script_environment(settings: ScriptSettings) -> dict[str, str]:
    """The script's environment, with its devices; what is no text is left out."""
    env = {name: value for name, value in settings.env.items() if _is_text(name + value)}
    if settings.gpus:
        env["CUDA_VISIBLE_DEVICES"] = ",".join(str(gpu) for gpu in settings.gpus)
    return env


def numeric_environment(env: dict[str, str]) -> dict[str, str]:
    """An environment in which a numeric library starts no threads by itself.

    Hashing is fixed too, so that the order of sets does not differ from run to run.
    """
    threads = {f"{name}_NUM_THREADS": "1" for name in ("OPENBLAS", "OMP", "MKL")}
    return {"PYTHONHASHSEED": "0", **env, **threads}


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:  # bytes that are no UTF-8, kept by Python as surrogates
        return False
    return True
