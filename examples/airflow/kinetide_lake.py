"""The lake from Airflow: the Glue job every quarter of an hour, its counts and its freshness, compaction once a day.

For Airflow 3 with the Amazon provider. Put this file and lake_quality.py into the folder of DAGs, and deploy the two Glue jobs
(glue/README.md, glue/COMPACTION.md) without their schedules: of each job there may be one run at a time.
"""

import datetime

from airflow.providers.amazon.aws.hooks.base_aws import AwsGenericHook
from airflow.providers.amazon.aws.operators.glue import GlueJobOperator
from airflow.sdk import DAG, Param, task
from airflow.sdk.exceptions import AirflowFailException

import lake_quality

AWS = "aws_default"
COMPACTION_HOUR = 3


def figures(namespace, dimensions, names, statistic, since, until, cloudwatch=None):
    """Name to the values of each minute in a span. What CloudWatch does not have is left out."""
    cloudwatch = cloudwatch or AwsGenericHook(aws_conn_id=AWS, client_type="cloudwatch").conn
    listed = [{"Name": name, "Value": value} for name, value in dimensions.items()]
    queries = [
        {
            "Id": f"m{number}",
            "MetricStat": {
                "Metric": {"Namespace": namespace, "MetricName": name, "Dimensions": listed},
                "Period": 60,
                "Stat": statistic,
            },
        }
        for number, name in enumerate(names)
    ]
    # Of a minute all or nothing.
    start, end = since.replace(second=0, microsecond=0), until.replace(second=0, microsecond=0) + datetime.timedelta(minutes=1)
    answer = cloudwatch.get_metric_data(MetricDataQueries=queries, StartTime=start, EndTime=end)
    values = {one["Id"]: one["Values"] for one in answer["MetricDataResults"]}
    return {name: found for number, name in enumerate(names) if (found := values.get(f"m{number}"))}


def judged(found):
    """Prints what is right; what is wrong fails the task at once, what is unknown after its retries."""
    wrong, right = found
    if wrong:
        raise AirflowFailException("; ".join(wrong))
    print(right)


with DAG(
    "kinetide_lake",
    description="Landing to Hudi, checks, compaction",
    schedule="*/15 * * * *",
    start_date=datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
    catchup=False,
    max_active_runs=1,
    dagrun_timeout=datetime.timedelta(hours=2),
    default_args={"retries": 2, "retry_delay": datetime.timedelta(minutes=1)},
    params={
        "table": Param("processed_crypto_txn", type="string", description="dimension of the job's metrics"),
        "job_namespace": Param("kinetide-lake", type="string", description="--metrics_namespace of the job"),
        "service_namespace": Param("kinetide-trades", type="string", description="--application of the service"),
        "dead_letters_max": Param(0.01, type="number", minimum=0, maximum=1, description="share of the records"),
        "seconds_max": Param(900, type="integer", minimum=1, description="age of the oldest record"),
    },
    tags=["kinetide"],
) as dag:
    etl = GlueJobOperator(
        task_id="etl",
        job_name="crypto_nrt_etl_glue_job",
        aws_conn_id=AWS,
        wait_for_completion=True,
        job_poll_interval=15,
        stop_job_run_on_kill=True,
        # A repeated run does what is left; another one may still be running.
        retries=3,
    )

    # CloudWatch is a minute or two behind.
    @task(retries=5)
    def quality(params, dag_run):
        now = datetime.datetime.now(datetime.UTC)
        dimensions = {"Table": params["table"]}
        found = figures(params["job_namespace"], dimensions, lake_quality.COUNTED, "Sum", dag_run.start_date, now)
        judged(lake_quality.quality({name: sum(values) for name, values in found.items()}, params["dead_letters_max"]))

    @task(retries=5)
    def freshness(params, dag_run):
        now = datetime.datetime.now(datetime.UTC)
        lately = now - datetime.timedelta(minutes=5)
        found = figures(params["service_namespace"], {}, ["DeliveredAge"], "Maximum", lately, now)
        found |= figures(params["job_namespace"], {"Table": params["table"]}, ["Latency"], "Maximum", dag_run.start_date, now)
        judged(lake_quality.freshness({name: max(values) for name, values in found.items()}, params["seconds_max"]))

    # Whatever became of the job: landing objects expire, compacted or not.
    @task.short_circuit(trigger_rule="all_done")
    def once_a_day(dag_run):
        at = dag_run.logical_date
        # A run that somebody starts by hand compacts too.
        return dag_run.run_type != "scheduled" or (at.hour == COMPACTION_HOUR and at.minute < 15)

    compaction = GlueJobOperator(
        task_id="compaction",
        job_name="crypto_compaction_glue_job",
        aws_conn_id=AWS,
        wait_for_completion=True,
        job_poll_interval=30,
        stop_job_run_on_kill=True,
    )

    # The checks are last in their branches: a run with a failed check has failed.
    etl >> [quality(), freshness()]
    etl >> once_a_day() >> compaction
