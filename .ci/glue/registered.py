"""The table in the catalog: made by the statement for Athena, taken over by the job."""

import re

from session import ROOT

import job

NAME = job.OPTIONAL["table"]
STATEMENT = ROOT / "athena" / "tables" / f"{NAME}.sql"


def made(chain, ddl):
    """Makes the table as athena/catalog.yaml does; gives the metastore."""
    spark, hive = chain.spark, chain.spark._jvm.org.apache.hadoop.hive
    spark.sql(ddl.replace("s3://ANALYTICS/", f"file://{chain.root}/").rstrip().removesuffix(";"))
    of = spark._jvm.java.lang.Class.forName("org.apache.hadoop.hive.conf.HiveConf")
    metastore = hive.metastore.HiveMetaStoreClient(hive.conf.HiveConf(spark._jsc.hadoopConfiguration(), of))
    # Spark notes a schema of its own there, and CloudFormation does not.
    table = metastore.getTable("crypto", NAME)
    for name in [name for name in table.getParameters() if name.startswith("spark.sql.")]:
        table.getParameters().remove(name)
    metastore.alter_table("crypto", NAME, table)
    return metastore


def catalog(chain):
    """The job adds the attributes behind the columns of the statement, and its partitions; what Athena needs to know stays."""
    ddl = STATEMENT.read_text()
    assert f"LOCATION 's3://ANALYTICS/{chain.hudi.relative_to(chain.root)}/'" in ddl
    chain.spark.sql(f"CREATE DATABASE crypto LOCATION '{chain.folder}/warehouse'")
    metastore = made(chain, ddl)
    chain.scene.put("registered")
    chain.scene.landed()
    chain.run(database="crypto")
    table = metastore.getTable("crypto", NAME)
    found = {column.getName(): column.getType() for column in table.getSd().getCols()}
    shipped = dict(re.findall(r"^  `(\w+)` ([a-z0-9(),]+?),?$", ddl, re.MULTILINE))
    assert {name: found.get(name) for name in shipped} == shipped, found
    assert {found[name] for name in ("note", "score", "vip", "more")} == {"string", "decimal(38,18)", "boolean"}
    assert table.getParameters()["athena_enable_native_hudi_connector_implementation"] == "true"
    partitions = {row[0] for row in chain.spark.sql(f"SHOW PARTITIONS crypto.{NAME}").collect()}
    assert partitions == {path.name for path in chain.hudi.glob("exchange_part=*")}, partitions
    print(f"the catalog has {len(found)} columns, {len(shipped)} of them as athena/ declares, and {len(partitions)} partitions")
