"""What a run must not forget or keep to itself: sites that are out, weights, last words."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from covey.actors.roles import site
from covey.recipes import EventKind, JobFailed, RunStatus
from tests.recipes.conftest import CLIENT, digest_of

if TYPE_CHECKING:
    from tests.recipes.conftest import Lab


def test_weights_with_an_infinite_sum_fail_the_run_and_say_so(lab: Lab) -> None:
    lab.client("meta['NUM_STEPS_CURRENT_ROUND'] = 1.7e308")
    with pytest.raises(JobFailed, match="the sum of their weights is infinite"):
        lab.recipe().execute(lab.env())
    lab.check_no_process_left()


OUT = """
    if (site, round) == ("site-3", 1):
        raise ValueError("no more data")
    if site == "site-2":
        reach(f"round-{round}")
"""


def test_a_resumed_run_remembers_which_sites_are_out(lab: Lab) -> None:
    lab.client(OUT)
    lab.job("[('min_clients', 2), ('num_rounds', 5)]")
    done = lab.run(COVEY_WORKSPACE=str(lab.folder / "undisturbed"))
    assert done.returncode == 0, done.stderr
    (undisturbed,) = (lab.folder / "undisturbed" / "job").iterdir()
    lab.kill_at("round-3")
    lab.check_no_process_left()
    done = lab.run()
    assert done.returncode == 0, done.stderr
    assert "resuming an unfinished run at round 3" in done.stdout
    assert "site-3 stays out: it failed before with ValueError: no more data" in done.stdout
    (folder,) = (lab.folder / "covey_runs" / "job").iterdir()
    assert digest_of(folder) == digest_of(undisturbed)
    assert len((lab.folder / "site-3.pids").read_text().splitlines()) == 2


def notices(lab: Lab) -> list[str]:
    """Run to completion; the texts of what was noticed."""
    run = lab.recipe(num_rounds=2).execute(lab.env())
    assert run.get_status() is RunStatus.COMPLETED
    lab.check_no_process_left()

    async def collect() -> list[str]:
        return [e.data["text"] async for e in run.events() if e.kind is EventKind.NOTICE and e.site]

    return asyncio.run(collect())


def test_a_script_that_raises_after_its_last_task_is_told(lab: Lab) -> None:
    path = lab.client(
        text=CLIENT.replace("BODY", "    pass")
        + "if site == 'site-2': raise ValueError('no such file')\n"
    )
    line = len(path.read_text().splitlines())
    (text,) = notices(lab)
    assert text == (
        "site-2's script raised after its last task: "
        f"ValueError: no such file ({path}, line {line})"
    )


def test_a_script_that_does_not_end_is_ended_and_told(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site, "LAST_LINES_S", 0.3)
    lab.client(text=CLIENT.replace("BODY", "    pass") + "while site == 'site-2': signal.pause()\n")
    (text,) = notices(lab)
    assert text.startswith("site-2's script was ended after 0.3 s")
