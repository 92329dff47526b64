"""Every run that is over leaves a report, and no run fails for want of one."""

from __future__ import annotations

import json
import re
import threading
from pathlib import Path
from typing import Any

import pytest

from covey.actors.observe import report
from covey.recipes import ConfigError, JobAborted, JobFailed
from tests.recipes.conftest import GUARD_S, Lab, summary_of


def train(params: dict[str, Any], ctx: Any) -> object:
    return params, {"accuracy": float("nan") if ctx.round == 1 else ctx.round / 10}


def fail(params: dict[str, Any], ctx: Any) -> object:
    if ctx.round == 1:
        raise ValueError("<b>as planned</b>")
    return params, {"accuracy": 0.5}


def text_of(folder: Path) -> str:
    return (folder / "report.html").read_text(encoding="utf-8")


def test_a_run_that_completed_leaves_a_report_with_its_metrics(lab: Lab) -> None:
    run = lab.recipe(train=train).execute(lab.env(2))
    text = text_of(run.get_result())
    (rows,) = re.findall(r'id="metrics"[^>]*>(.*?)</script>', text, re.DOTALL)
    assert json.loads(rows) == run.metrics
    assert [row["metrics"]["accuracy"] for row in run.metrics if row["site"] == "global"] == [
        *(0.0, None, 0.2)
    ]
    assert '"status completed"' in text


def test_a_run_that_failed_leaves_a_report_with_the_users_own_line(lab: Lab) -> None:
    with pytest.raises(JobFailed) as caught:
        lab.recipe(train=fail).execute(lab.env(2))
    text = text_of(caught.value.run.get_result())
    assert '"status failed"' in text
    assert f"File &quot;{__file__}&quot;, line " in text
    assert "raise ValueError(&quot;&lt;b&gt;as planned&lt;/b&gt;&quot;)" in text


def test_a_run_that_was_aborted_leaves_a_report(lab: Lab) -> None:
    at_work = threading.Event()

    def begin(params: dict[str, Any], ctx: Any) -> object:
        at_work.set()
        return params

    run = lab.recipe(train=begin, num_rounds=1_000_000).submit(lab.env(1))
    assert at_work.wait(GUARD_S)
    run.abort()
    run.join()
    with pytest.raises(JobAborted):
        run.check()
    assert '"status aborted"' in text_of(run.get_result())


def test_a_report_that_cannot_be_made_is_a_notice(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(folder: Path) -> None:
        raise OSError(28, "No space left on device", str(folder / "report.html"))

    monkeypatch.setattr(report, "write_report", refuse)
    folder = lab.recipe(train=train).execute(lab.env(2)).get_result()
    assert not (folder / "report.html").exists()
    assert summary_of(folder)["status"] == "completed"
    log = (folder / "logs" / "server.jsonl").read_text().splitlines()
    kind, *_, data = json.loads(log[-1])
    assert kind == "notice"
    assert data["text"].startswith("no report.html: OSError: [Errno 28] No space left on device")


def test_a_run_is_plotted_whole_or_by_metric(lab: Lab) -> None:
    run = lab.recipe(train=train).execute(lab.env(2))
    whole, one = run.plot()._repr_html_(), run.plot("accuracy")._repr_html_()
    assert whole.count("<svg") == 3
    assert one.count("<svg") == 1
    with pytest.raises(ConfigError, match=r"'acuracy' has not been measured, .*'accuracy'"):
        run.plot("acuracy")
