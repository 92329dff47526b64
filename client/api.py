"""The Client API: the functions a training script calls.

Here: names, defaults and documentation; each function hands on to the current session. Not
here: what a session does (`running.py`), metrics writers (`tracking.py`).

The loop of a script::

    import covey.client as flare

    flare.init()
    while flare.is_running():
        model = flare.receive()
        net.load_state_dict(model.params)
        ...                                   # train
        flare.send(flare.FLModel(params=net.state_dict(), metrics={"loss": loss}))

The API is synchronous and belongs to the script's main thread; `log` may be called from any.
"""

from __future__ import annotations

from .model import FLModel
from .session import current


def init(rank: int | str | None = None, config_file: str | None = None) -> None:
    """Connect to the run that started this script. Call it once, before anything else.

    Args:
        rank: Accepted for scripts that pass it; a run has one process per site.
        config_file: Accepted for scripts that pass it; settings come from the recipe.

    Raises:
        NotInRun: If the script was not started by a recipe.
    """
    del rank, config_file
    current("covey.client.init()").init()


def is_running() -> bool:
    """Wait for the next task; False when there are no more.

    True at once while a task is waiting to be received or answered.

    Raises:
        WrongCall: Before `init`.
    """
    return current("covey.client.is_running()").is_running()


def receive(timeout: float | None = None) -> FLModel | None:
    """Wait for the next task and return the global model.

    The parameters are of the kind the recipe's initial model has, torch tensors or NumPy arrays.
    They may be changed in place: memory that is not written to is shared with other clients.
    Called again before `send`, it returns the same model. The random state of Python, NumPy and
    torch is set from the run's seed, the site and the round when a task arrives.

    Args:
        timeout: Longest wait in seconds, None for as long as it takes.

    Returns:
        The model, without parameters for the task "submit_model"; None after the last task
        or when the time is over.

    Raises:
        WrongCall: Before `init`, or if the model is received over and over without an answer.
    """
    return current("covey.client.receive()").receive(timeout)


def send(model: FLModel, clear_cache: bool = True) -> None:
    """Answer the current task; returns when the answer is on its way.

    Args:
        model: The answer. Its parameters need the names and shapes of the model received;
            floats of another width are converted.
        clear_cache: Drop the parameters of `model` and of the model received when they are
            sent (`params` becomes None), so that their memory is free before the next round.

    Raises:
        BadModel: If parameters, metrics or meta cannot be sent; the task stays open.
        WrongCall: If no model has been received since the last answer.
    """
    current("covey.client.send()").send(model, clear_cache)


def get_task_name() -> str:
    """Name of the current task: "train", "evaluate" or "submit_model".

    Raises:
        WrongCall: If no task is open.
    """
    return current("covey.client.get_task_name()").task_name


def is_train() -> bool:
    """Whether the current task is to train.

    Raises:
        WrongCall: If no task is open.
    """
    return current("covey.client.is_train()").asked_for("train")


def is_evaluate() -> bool:
    """Whether the current task is to evaluate the model and send metrics alone.

    Raises:
        WrongCall: If no task is open.
    """
    return current("covey.client.is_evaluate()").asked_for("evaluate")


def is_submit_model() -> bool:
    """Whether the current task is to send the site's own best model.

    Raises:
        WrongCall: If no task is open.
    """
    return current("covey.client.is_submit_model()").asked_for("submit_model")


def system_info() -> dict[str, str]:
    """Who this script is: `{"job_id": ..., "site_name": ...}`."""
    session = current("covey.client.system_info()")
    return {"job_id": session.job_id, "site_name": session.site}


def get_job_id() -> str:
    """Id of the job."""
    return current("covey.client.get_job_id()").job_id


def get_site_name() -> str:
    """Name of the site that this script trains for."""
    return current("covey.client.get_site_name()").site


def get_config() -> dict[str, object]:
    """The settings that the recipe has for its scripts; a copy."""
    return current("covey.client.get_config()").config


def log(key: str, value: object, data_type: object = "SCALAR", **options: object) -> None:
    """Stream a metric to the run's tracking. Never waits for an answer.

    Args:
        key: Name of the curve.
        value: A number; a string for TEXT, PARAMETER and TAG; a dict of numbers for SCALARS,
            METRICS, PARAMETERS and TAGS, whose entries become `key/name`, or `name` if `key`
            is empty.
        data_type: One of those names, or an enum member of that name.
        **options: `global_step` or `step`: the script's own step.

    Raises:
        BadMetric: If the value does not fit its type.
    """
    from .tracking import stream

    stream(current("covey.client.log()"), key, value, data_type, options)


def clear() -> None:
    """Drop the references that are kept to the model received."""
    current("covey.client.clear()").clear()


def shutdown() -> None:
    """Take no more tasks: `is_running` is False from now on."""
    current("covey.client.shutdown()").shutdown()
