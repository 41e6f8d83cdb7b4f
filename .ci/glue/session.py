"""A Spark session as that of Glue 5.0, and the job in it.

session.py run JAR ARGUMENT...   one run of the job in a process of its own
"""

import contextlib
import io
import json
import os
import sys
from pathlib import Path

# hudi-defaults.conf
os.environ["HUDI_CONF_DIR"] = str(Path(__file__).resolve().parent)
ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "glue"))

import awsglue.context
import awsglue.job
import awsglue.utils
from pyspark.sql import SparkSession

SETTINGS = {
    # As glue/job.yaml has them; chain.py compares.
    "spark.serializer": "org.apache.spark.serializer.KryoSerializer",
    "spark.kryo.registrator": "org.apache.spark.HoodieSparkKryoRegistrar",
    "spark.sql.extensions": "org.apache.spark.sql.hudi.HoodieSparkSessionExtension",
    "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.hudi.catalog.HoodieCatalog",
    "spark.sql.hive.convertMetastoreParquet": "false",
    # As it is in Glue.
    "spark.sql.session.timeZone": "UTC",
    # A catalog in memory in the place of Glue's.
    "spark.sql.catalogImplementation": "hive",
    "spark.hadoop.javax.jdo.option.ConnectionURL": "jdbc:derby:memory:catalog;create=true",
    "spark.hadoop.datanucleus.schema.autoCreateAll": "true",
    "spark.hadoop.hive.metastore.schema.verification": "false",
    # One small machine.
    "spark.driver.memory": "1500m",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.host": "127.0.0.1",
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    "spark.sql.shuffle.partitions": "2",
    "spark.default.parallelism": "2",
    # Planning and compiling take longer than small objects do.
    "spark.driver.extraJavaOptions": " ".join(
        [
            "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
            "-Djol.skipDynamicAttach=true -Djol.skipHotspotSAAttach=true",
            "-Dderby.stream.error.file=/dev/null",
        ]
    ),
    "spark.sql.adaptive.enabled": "false",
    "spark.sql.codegen.wholeStage": "false",
    "spark.sql.codegen.factoryMode": "NO_CODEGEN",
    "spark.sql.files.openCostInBytes": "65536",
}


def spark_session(jar):
    builder = SparkSession.builder.master("local[2]").config("spark.jars", jar)
    # As --extra-py-files does.
    builder = builder.config("spark.submit.pyFiles", ",".join(map(str, sorted((ROOT / "glue").glob("*.py")))))
    for name, value in SETTINGS.items():
        builder = builder.config(name, value)
    session = builder.getOrCreate()
    session.sparkContext.setLogLevel("OFF")
    return session


class GlueContext:
    """Glue's own needs the classes of Glue."""

    def __init__(self, context):
        self.spark_session = SparkSession(context)


class Job:
    """What Glue is told of a run."""

    told = []

    def __init__(self, _):
        pass

    def init(self, name, arguments):
        self.told.append(("init", name))

    def commit(self):
        self.told.append(("commit",))


awsglue.context.GlueContext, awsglue.job.Job = GlueContext, Job

import job


def run(arguments):
    """One run of the job; gives what its line of JSON says."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        job.main(["job.py", *arguments])
    return json.loads(out.getvalue())


if __name__ == "__main__":
    _, _, jar, *arguments = sys.argv
    spark_session(jar)
    print(json.dumps(run(arguments)))
