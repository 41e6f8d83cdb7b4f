"""The DAG of examples/airflow: Airflow parses it, its tasks do what they say, and mistakes in it are seen.

AWS is a client that checks each request against the model of the API and answers from a script.
"""

import contextlib
import datetime
import io
import os
import re
import shutil
import sys
import tempfile
import types
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "examples/airflow"
HOME = tempfile.mkdtemp()
os.environ |= {
    "AIRFLOW_HOME": HOME, "AIRFLOW__CORE__LOAD_EXAMPLES": "False", "AIRFLOW__LOGGING__LOGGING_LEVEL": "CRITICAL",
    "AIRFLOW_CONN_AWS_DEFAULT": "aws://test:test@/?region_name=us-east-1", "AWS_EC2_METADATA_DISABLED": "true",
}  # fmt: skip

import boto3
from airflow.dag_processing.dagbag import BundleDagBag
from airflow.sdk.definitions.context import Context
from airflow.sdk.exceptions import AirflowFailException
from botocore.stub import ANY, Stubber

NOW = datetime.datetime(2026, 1, 15, 3, 7, 30, tzinfo=datetime.UTC)
DOWNSTREAM = {
    "etl": {"quality", "freshness", "once_a_day"},
    "quality": set(),
    "freshness": set(),
    "once_a_day": {"compaction"},
    "compaction": set(),
}
# A run with all its figures.
GOOD = {"Objects": 3, "Records": 100, "Rows": 99, "DeadLetters": 1, "QuarantinedLines": 0, "QuarantinedObjects": 0}


def parsed(folder):
    """The DAGs of a folder and its import errors."""
    # Each time from the beginning.
    sys.modules.pop("lake_quality", None)
    sys.path[:] = [path for path in sys.path if not path.startswith((str(FOLDER), HOME))]
    with contextlib.redirect_stdout(io.StringIO()):
        bag = BundleDagBag(dag_folder=str(folder), bundle_path=folder)
    return bag.dags, bag.import_errors


def client(service):
    return boto3.client(service, region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x")


def check_shape(dag):
    found = {task.task_id: task.downstream_task_ids for task in dag.tasks}
    assert found == DOWNSTREAM, found
    assert (dag.max_active_runs, dag.catchup, dag.schedule) == (1, False, "*/15 * * * *")
    for task_id, path, name in (("etl", "glue/job.yaml", "Default: {}\n"), ("compaction", "glue/COMPACTION.md", "--name {} ")):
        task = dag.get_task(task_id)
        assert task.wait_for_completion and name.format(task.job_name) in (ROOT / path).read_text(), task.job_name
    assert dag.get_task("once_a_day").trigger_rule == "all_done"
    # Airflow gives the functions what they name.
    for task_id in ("quality", "freshness", "once_a_day"):
        code = dag.get_task(task_id).python_callable.__code__
        assert set(code.co_varnames[: code.co_argcount]) <= Context.__annotations__.keys(), task_id


def check_names(quality):
    """The metrics are those that the job and the service send."""
    job = set(re.findall(r"^\| `(\w+)` \|", (ROOT / "glue/README.md").read_text(), re.MULTILINE))
    assert {*quality.COUNTED, "Latency"} <= job, {*quality.COUNTED, "Latency"} - job
    service = (ROOT / "docs/OPERATING.md").read_text()
    assert re.search(r"^\| `DeliveredAge` \| Seconds \| –, Stream \|", service, re.MULTILINE), "DeliveredAge has other dimensions"


def run(task, figures):
    """Runs a check over these figures; answers what it says."""
    names = list(figures)

    def scripted(namespace, dimensions, asked, statistic, since, until):
        with Stubber(cloudwatch := client("cloudwatch")) as stub:
            results = [{"Id": f"m{at}", "Values": figures[name]} for at, name in enumerate(asked) if name in names]
            stub.add_response("get_metric_data", {"MetricDataResults": results}, {"MetricDataQueries": ANY, "StartTime": ANY, "EndTime": ANY})
            return whole(namespace, dimensions, asked, statistic, since, until, cloudwatch)

    scope = task.python_callable.__globals__
    whole, scope["figures"] = scope["figures"], scripted
    out = io.StringIO()
    try:
        with contextlib.redirect_stdout(out):
            task.python_callable(params=task.dag.params.dump(), dag_run=types.SimpleNamespace(start_date=NOW))
        return out.getvalue()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    finally:
        scope["figures"] = whole


def check_tasks(dag):
    quality, freshness = dag.get_task("quality"), dag.get_task("freshness")
    failed, unknown = AirflowFailException.__name__, "Unknown"

    def given(**more):
        return {name: [value] for name, value in (GOOD | more).items() if value is not None}

    cases = [
        (quality, given(), "100 records: 99 rows"),
        # Two minutes of one run are added.
        (quality, given() | {"Records": [40, 60]}, "100 records: 99 rows"),
        (quality, {"Objects": [0], "RunTime": [1]}, "no new objects"),
        (quality, {}, unknown),
        (quality, given(Rows=None), unknown),
        (quality, given(Rows=98), failed),
        (quality, given(Rows=98, QuarantinedLines=1), failed),
        (quality, given(QuarantinedObjects=1), failed),
        (quality, given(Rows=98, DeadLetters=2), failed),
        (freshness, {"DeliveredAge": [3, 899], "Latency": [900]}, "899 s in the stream"),
        (freshness, {"DeliveredAge": [1]}, "1 s in the stream"),
        (freshness, {"DeliveredAge": [901, 1]}, failed),
        (freshness, {"DeliveredAge": [1], "Latency": [901]}, failed),
        (freshness, {"Latency": [1]}, unknown),
        (freshness, {}, unknown),
    ]
    for task, figures, expected in cases:
        said = run(task, figures)
        assert said.startswith(expected), f"{task.task_id}, {figures}: {said}"
    daily = dag.get_task("once_a_day").python_callable
    at = lambda hour, minute, run_type="scheduled": daily(
        types.SimpleNamespace(logical_date=NOW.replace(hour=hour, minute=minute), run_type=run_type)
    )
    assert sum(at(hour, minute) for hour in range(24) for minute in (0, 15, 30, 45)) == 1 and at(3, 0)
    assert daily(types.SimpleNamespace(logical_date=None, run_type="manual"))
    return len(cases)


def check_jobs(dag):
    """The operators start the jobs, wait for them, and fail with them."""
    for task_id in ("etl", "compaction"):
        for state in ("SUCCEEDED", "FAILED"):
            task = dag.get_task(task_id)
            glue = client("glue")
            task.hook.__dict__["conn"] = glue
            task.job_poll_interval = task.hook.job_poll_interval = 0
            with Stubber(glue) as stub:
                stub.add_response("get_job", {"Job": {"Name": task.job_name}}, {"JobName": task.job_name})
                stub.add_response("start_job_run", {"JobRunId": "jr_1"}, {"JobName": task.job_name, "Arguments": ANY})
                for at in ("RUNNING", state):
                    answer = {"JobRun": {"Id": "jr_1", "JobRunState": at, "ErrorMessage": "a reason"}}
                    stub.add_response("get_job_run", answer, {"JobName": task.job_name, "RunId": "jr_1", "PredecessorsIncluded": True})
                try:
                    task.execute({"ti": mock.MagicMock(stats_tags={})})
                    ended = "SUCCEEDED"
                except Exception as error:
                    ended = "FAILED" if "FAILED" in str(error) else repr(error)
                stub.assert_no_pending_responses()
                assert ended == state, f"{task_id} that ends as {state}: {ended}"


# Mistakes that Airflow finds when it parses.
MISTAKES = {
    "a module that is not there": ("import lake_quality", "import lake_qualities"),
    "an argument that no operator has": ("job_poll_interval=15", "poll=15"),
    "a cycle": ("etl >> once_a_day() >> compaction", "etl >> once_a_day() >> compaction >> etl"),
    "one name for two tasks": ('task_id="compaction"', 'task_id="etl"'),
    "a schedule that is none": ('schedule="*/15 * * * *"', 'schedule="*/15 * *"'),
    "a setting of the wrong type": ('Param(900, type="integer"', 'Param("900", type="integer"'),
}


def check_mistakes():
    text = (FOLDER / "kinetide_lake.py").read_text()
    for what, (right, wrong) in MISTAKES.items():
        folder = Path(HOME) / what.replace(" ", "-")
        shutil.copytree(FOLDER, folder)
        assert right in text, right
        (folder / "kinetide_lake.py").write_text(text.replace(right, wrong))
        assert parsed(folder)[1], f"not noticed: {what}"
    return len(MISTAKES)


def main():
    mistakes = check_mistakes()
    dags, errors = parsed(FOLDER)
    assert not errors and list(dags) == ["kinetide_lake"], (errors, dags)
    dag = dags["kinetide_lake"]
    check_shape(dag)
    check_names(sys.modules["lake_quality"])
    cases = check_tasks(dag)
    check_jobs(dag)
    print(f"Airflow parses the DAG, {len(dag.tasks)} tasks; its checks are right about {cases} runs; {mistakes} mistakes are found")


if __name__ == "__main__":
    try:
        main()
    finally:
        shutil.rmtree(HOME)
