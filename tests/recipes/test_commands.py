"""`python job.py` as users run it: exit codes, Ctrl-C, kill -9 and resuming, full disks."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.recipes.conftest import GUARD_S, digest_of, lab_in, summary_of

if TYPE_CHECKING:
    from tests.recipes.conftest import Lab

STOPS = """
    if site == "site-2":
        reach(f"round-{round}")
"""


@pytest.fixture(scope="module")
def undisturbed_digest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Digest of the final model of the very job that the tests disturb."""
    with lab_in(tmp_path_factory.mktemp("undisturbed")) as lab:
        lab.client(STOPS)
        lab.job()
        done = lab.run()
        assert done.returncode == 0, done.stderr
        (folder,) = runs(lab)
        yield digest_of(folder)


@pytest.fixture
def undisturbed(lab: Lab, undisturbed_digest: str) -> str:
    """The same, in a lab that has this job."""
    lab.client(STOPS)
    lab.job()
    return undisturbed_digest


def runs(lab: Lab) -> list[Path]:
    return sorted((lab.folder / "covey_runs" / "job").iterdir())


# Exit codes --------------------------------------------------------------------


def test_a_completed_run_exits_with_0_and_never_imported_torch(lab: Lab) -> None:
    lab.client('assert "torch" not in __import__("sys").modules')
    lab.job()
    done = lab.run()
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("False completed ")
    summary = summary_of(runs(lab)[0])
    assert (summary["status"], summary["rounds"], summary["seed"]) == ("completed", 3, 5)
    lab.check_no_process_left()


def test_a_failed_run_exits_with_1_and_the_users_line_is_last(lab: Lab) -> None:
    lab.client("if (site, round) == ('site-2', 2): raise ValueError('no such batch')")
    lab.job("[('min_clients', 3)]")
    done = lab.run()
    assert done.returncode == 1
    *_, file, source = done.stderr.splitlines()
    assert file.strip().startswith(f'File "{lab.folder / "client.py"}", line ')
    assert "raise ValueError('no such batch')" in source
    summary = summary_of(runs(lab)[0])
    assert (summary["status"], summary["site"], summary["rounds"]) == ("failed", "site-2", 2)
    lab.check_no_process_left()


# Devices --------------------------------------------------------------------------


def test_each_client_sees_its_device_and_the_placement_is_printed(lab: Lab) -> None:
    lab.client("(FOLDER / f'{site}.device').write_text(os.environ['CUDA_VISIBLE_DEVICES'])")
    lab.job(env="gpus_per_client=1")
    done = lab.run(CUDA_VISIBLE_DEVICES="0,1")
    assert done.returncode == 0, done.stderr
    devices = {path.stem: path.read_text() for path in lab.folder.glob("*.device")}
    assert devices == {"site-1": "0", "site-2": "1", "site-3": "0"}
    for site, device in devices.items():
        assert f"{site} sees device {device}" in done.stdout.splitlines()


def test_more_devices_than_are_visible_are_refused(lab: Lab) -> None:
    lab.client()
    lab.job(env="gpus_per_client=3")
    done = lab.run(CUDA_VISIBLE_DEVICES="0,1")
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.endswith("ConfigError: gpus_per_client: 3, but 2 devices are visible")
    assert not lab.folders()


# Killed, and run again ----------------------------------------------------------


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_run_killed_in_any_round_goes_on_to_the_same_model(
    lab: Lab, undisturbed: str, number: int
) -> None:
    lab.kill_at(f"round-{number}")
    lab.check_no_process_left()
    done = lab.run()
    assert done.returncode == 0, done.stderr
    assert f"resuming an unfinished run at round {number}" in done.stdout.splitlines()[0]
    (folder,) = runs(lab)
    assert digest_of(folder) == undisturbed
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    trained = [(row["round"], row["site"]) for row in rows if row["task"] == "train"]
    assert len(set(trained)) == len(trained) == 3 * 4
    assert summary_of(folder)["best_round"] == 2
    assert not (folder / "checkpoint").exists()


def test_a_run_may_be_killed_twice(lab: Lab, undisturbed: str) -> None:
    lab.kill_at("round-0")
    lab.kill_at("round-2")
    done = lab.run()
    assert "resuming an unfinished run at round 2" in done.stdout
    (folder,) = runs(lab)
    assert digest_of(folder) == undisturbed


def test_a_finished_run_is_never_resumed(lab: Lab) -> None:
    lab.client()
    lab.job()
    for _ in range(2):
        assert "resuming" not in lab.run().stdout
    assert len(runs(lab)) == 2


WHAT_DIFFERS = {
    "code": "client.py has changed",
    "model": "initial_model has changed",
    "seed": "seed 5 there, 6 here",
    "rounds": "num_rounds 3 there, 2 here",
}


@pytest.mark.parametrize("how", ["variable", "argument", *WHAT_DIFFERS])
def test_an_unfinished_run_is_left_alone_where_another_is_wanted(lab: Lab, how: str) -> None:
    lab.client(STOPS)
    lab.job()
    lab.kill_at("round-1")
    match how:
        case "argument":
            lab.job(env="resume=False")
        case "code":
            lab.client(STOPS + "    pass\n")
        case "model":
            lab.job("[('initial_model', {'w': np.zeros(5, np.float32)})]")
        case "rounds":
            lab.job("[('num_rounds', 2)]")
        case "seed":
            job = lab.folder / "job.py"
            job.write_text(job.read_text().replace("seed=5", "seed=6"))
        case _:
            pass
    done = lab.run(**({"COVEY_FRESH": "1"} if how == "variable" else {}))
    assert done.returncode == 0, done.stderr
    assert "resuming" not in done.stdout
    unfinished, finished = sorted(runs(lab), key=lambda path: (path / "summary.json").exists())
    first = done.stdout.splitlines()[0]
    if how in WHAT_DIFFERS:
        where = f"the unfinished run in covey_runs/job/{unfinished.name}"
        why = f"is of another configuration ({WHAT_DIFFERS[how]})"
        assert first == f"starting anew: {where} {why}"
    else:
        assert first == "job: 3 sites, 3 rounds, seed 5", "that it starts over was asked for"
    assert not (unfinished / "summary.json").exists()
    assert summary_of(finished)["status"] == "completed"


def test_a_run_of_a_live_process_is_not_taken(lab: Lab) -> None:
    lab.client(STOPS)
    lab.job()
    fd = lab.fifo("round-1")
    first = lab.start()
    lab.reached(fd, "round-1")
    done = lab.run()
    assert done.returncode == 0, done.stderr
    assert "resuming" not in done.stdout
    assert len(runs(lab)) == 2
    assert first.poll() is None
    first.kill()


# Ctrl-C --------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 3])
def test_ctrl_c_ends_everything_and_can_be_resumed(
    lab: Lab, undisturbed: str, threads: int
) -> None:
    # With one thread other clients are idle and still in their loops.
    lab.job(env=f"num_threads={threads}")
    fd = lab.fifo("round-1")
    process = lab.start()
    lab.reached(fd, "round-1")
    os.killpg(process.pid, signal.SIGINT)  # what a terminal does: the whole foreground group
    out, err = process.communicate(timeout=GUARD_S)
    assert process.returncode == -signal.SIGINT
    assert "run the same command again to resume" in err.splitlines()[-1]
    assert "status: interrupted" in out
    assert "failed" not in out
    lab.check_no_process_left()
    (folder,) = runs(lab)
    assert not (folder / "summary.json").exists()
    done = lab.run()
    assert "resuming an unfinished run at round 1" in done.stdout
    assert digest_of(folder) == undisturbed


def test_ctrl_c_keeps_a_partial_round_out_of_the_model(lab: Lab, undisturbed: str) -> None:
    # min_clients=1: the sites that answered would be enough, were the killed ones failures.
    lab.job("[('min_clients', 1)]", "num_threads=3")
    reference = lab.run(COVEY_WORKSPACE=str(lab.folder / "again"))
    assert reference.returncode == 0
    fd = lab.fifo("round-1")
    process = lab.start()
    lab.reached(fd, "round-1")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=GUARD_S)
    assert "resuming an unfinished run at round 1" in lab.run().stdout
    (folder,) = runs(lab)
    assert digest_of(folder) == undisturbed


def test_ctrl_c_reaches_an_inline_script(lab: Lab) -> None:
    lab.client(STOPS)
    lab.job(env='isolation="inline"')
    fd = lab.fifo("round-1")
    process = lab.start()
    lab.reached(fd, "round-1")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=GUARD_S)
    assert process.returncode == -signal.SIGINT
    assert "run the same command again to resume" in err.splitlines()[-1]
    assert "resuming an unfinished run at round 1" in lab.run().stdout


@pytest.mark.parametrize("end", ["run.join()", "", "__import__('signal').pause()"])
def test_ctrl_c_ends_a_submitted_run_wherever_the_main_thread_is(
    lab: Lab, undisturbed: str, end: str
) -> None:
    lab.job()
    job = lab.folder / "job.py"
    whole = job.read_text()
    head, _, _ = whole.replace("recipe.execute", "recipe.submit").partition("print(")
    job.write_text(head + end)
    fd = lab.fifo("round-1")
    process = lab.start()
    lab.reached(fd, "round-1")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=GUARD_S)
    assert process.returncode == -signal.SIGINT, err
    assert "run the same command again to resume" in err.splitlines()[-1]
    lab.check_no_process_left()
    (folder,) = runs(lab)
    assert not (folder / "summary.json").exists()
    job.write_text(whole)
    assert "resuming an unfinished run at round 1" in lab.run().stdout
    assert digest_of(folder) == undisturbed


def test_a_program_that_ends_waits_for_its_submitted_run(lab: Lab) -> None:
    lab.client()
    lab.job()
    job = lab.folder / "job.py"
    job.write_text(job.read_text().replace("recipe.execute", "recipe.submit"))
    done = lab.run()
    assert (done.returncode, done.stderr) == (0, "")
    assert summary_of(runs(lab)[0])["status"] == "completed"


# A full disk ---------------------------------------------------------------------


def test_a_disk_that_is_full_from_the_start_is_told(lab: Lab) -> None:
    lab.client()
    lab.job("[('initial_model', {'w': np.zeros(100_000, np.float32)})]")
    text = (lab.folder / "job.py").read_text()
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))\n"
    (lab.folder / "job.py").write_text(limit + text)
    done = lab.run()
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert "ConfigError: workspace: cannot write" in last
    assert "File too large" in last
    lab.check_no_process_left()


def test_a_disk_that_fills_up_fails_the_run(lab: Lab) -> None:
    # 400 kB a version on 1 MB: the best one, the current one, and no room for the next.
    small = lab.folder / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(small)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("needs the right to mount")
    try:
        lab.client("metrics['accuracy'] = -float(round)")
        lab.job("[('initial_model', {'w': np.zeros(100_000, np.float32)})]")
        done = lab.run(COVEY_WORKSPACE=str(small))
        assert done.returncode == 1, done.stdout
        last = done.stderr.splitlines()[-1]
        assert "JobFailed" in last
        assert "cannot write" in last
        assert "No space left on device" in last
        (folder,) = (small / "job").iterdir()
        assert summary_of(folder)["status"] == "failed"
        assert summary_of(folder)["rounds"] >= 1
        assert (folder / "model.safetensors").stat().st_size > 400_000
        lab.check_no_process_left()
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_metrics_that_cannot_be_written_fail_the_run(lab: Lab) -> None:
    # Only metrics.jsonl grows: its limit is that of a file.
    lab.client("metrics |= {f'metric_{i}': float(i) for i in range(1000)}")
    lab.job("[('num_rounds', 20)]")
    limit = 100 * resource.getpagesize()
    text = (lab.folder / "job.py").read_text()
    line = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
    (lab.folder / "job.py").write_text(line + text)
    done = lab.run()
    assert done.returncode == 1
    assert "metrics.jsonl: File too large" in done.stderr.splitlines()[-1]
    assert summary_of(runs(lab)[0])["status"] == "failed"
    lab.check_no_process_left()
