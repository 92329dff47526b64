"""How each system is driven: by the best documented way that it has."""

from __future__ import annotations

import os
import socket
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from benchmarks.commands import environment
from benchmarks.startup import COVEY

from .bounded import Call
from .environments import REQUIREMENTS, ROOT
from .work.settings import Work

HERE: Final = Path(__file__).parent
SCRIPT: Final = "covey, script"
FUNCTION: Final = "covey, function"
#: Peers are set beside both.
OWN: Final = (SCRIPT, FUNCTION)
ALL: Final = (*OWN, *REQUIREMENTS)
BATCHED: Final = "covey, batched"
LOOP: Final = "plain loop"
WARM: Final = "flwr, superlink up"

#: As told on the page.
WAYS: Final = {
    SCRIPT: "`covey run job.py`, a process for each client; a big model by `python job.py`",
    FUNCTION: "`python function.py`, clients by function in one process",
    BATCHED: "`python batched.py`, clients by a batched function, up to 256 of them in a call",
    "nvflare": "`FedAvgRecipe` and `SimEnv` with their defaults, a process for each client",
    "flwr": "`flwr run` with its local simulation on Ray and the default resources of a client",
    WARM: "the same a second time, with the superlink that the first time has left",
    "pfl": "`FederatedAveraging` and `SimulatedBackend`, one process",
    LOOP: "client tasks alone, without any system",
}


def call(system: str, python: Path, work: Work) -> Call:
    """The command that has a system do the work, in the Python that the system is installed in."""
    folder = HERE / system.partition(",")[0]
    variables = _variables(python, work)
    if system == LOOP:
        return Call([str(python), "loop.py"], HERE / "work", variables)
    if system in (FUNCTION, BATCHED):
        program = "function.py" if system == FUNCTION else "batched.py"
        return Call([str(python), program], folder, variables)
    if system == SCRIPT and work.task != "big":
        return Call([*COVEY, "run", "job.py"], folder, variables)
    if system in ("flwr", WARM):
        words = flwr_command(python, folder, work)
        if system == WARM:
            words = [str(python), str(folder / "twice.py"), *words]
        return Call(words, Path(work.folder), variables | _flwr(work))
    return Call([str(python), "job.py"], folder, variables)


def flwr_command(python: Path, app: Path, work: Work) -> list[str]:
    """`flwr run`, with as many simulated nodes as there are clients."""
    federation = f"num-supernodes={work.clients}"
    flwr = str(python.parent / "flwr")
    return [flwr, "run", str(app), "--stream", "--federation-config", federation]


def _variables(python: Path, work: Work) -> dict[str, str]:
    """Every system is given the work, and its own programs first on the path."""
    path = f"{python.parent}{os.pathsep}{os.environ.get('PATH', '')}"
    own = {"PYTHONPATH": str(ROOT), "PATH": path, **work.to_environment()}
    return environment(Path(work.folder, "runs")) | own


def _flwr(work: Work) -> dict[str, str]:
    """A superlink of its own for each run, and nothing that waits for the internet."""
    http, control = free_ports(2)
    return {
        "FLWR_HOME": str(Path(work.folder, "home")),
        "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": str(http),
        "FLWR_LOCAL_CONTROL_API_PORT": str(control),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_TMPDIR": work.folder,
    }


def free_ports(number: int) -> list[int]:
    """Ports that nobody listens on, all different."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def own_python() -> Path:
    """The Python that covey is installed in."""
    return Path(sys.executable)
