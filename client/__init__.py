"""The Client API: what a training script imports.

Here: the functions and classes that a script uses (`import covey.client as flare`), and beside
them the messages between a script and its trainer. Not here: starting scripts
(`covey.actors.jobs.launchers`). Importing this package touches nothing of the process and
imports neither torch, NumPy nor asyncio.
"""

from __future__ import annotations

from .api import (
    clear,
    get_config,
    get_job_id,
    get_site_name,
    get_task_name,
    init,
    is_evaluate,
    is_running,
    is_submit_model,
    is_train,
    log,
    receive,
    send,
    shutdown,
    system_info,
)
from .decorators import evaluate, train
from .errors import BadMetric, BadModel, ClientError, NotInRun, RunEnded, WrongCall
from .model import FLModel, ParamsType
from .proximal import proximal_gradient, proximal_term
from .scaffold import Scaffold
from .tracking import SummaryWriter

__all__ = [
    "BadMetric",
    "BadModel",
    "ClientError",
    "FLModel",
    "NotInRun",
    "ParamsType",
    "RunEnded",
    "Scaffold",
    "SummaryWriter",
    "WrongCall",
    "clear",
    "evaluate",
    "get_config",
    "get_job_id",
    "get_site_name",
    "get_task_name",
    "init",
    "is_evaluate",
    "is_running",
    "is_submit_model",
    "is_train",
    "log",
    "proximal_gradient",
    "proximal_term",
    "receive",
    "send",
    "shutdown",
    "system_info",
    "train",
]
