# shellcheck shell=bash
# The lake: statements for Athena, run on what the service lands. `run` sources this file after servers.sh and sets `ci`,
# `cache` and `work`; `readers` and its pins come from there.

sqlfluff=4.5.0
sqlglot=30.30.0
# Athena comes from Trino. 411 runs on Java 17; 435, the last line that does, cannot be resolved from Maven Central.
trino=411

# Sets `lake_python` to a Python with the tools of these checks and `trino_jars` to a folder.
install_lake() {
  local name=lake-$sqlfluff-$sqlglot-$duckdb-$pyarrow
  install_once "$name" install_lake_tools
  lake_python=$cache/$name/venv/bin/python
  name=trino-$trino
  install_once "$name" timeout 900 mvn --quiet --batch-mode --file "$ci/lake/trino/pom.xml" -Dtrino="$trino" \
    dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$cache/$name"
  trino_jars=$cache/$name
}

install_lake_tools() {
  timeout 120 python3 -m venv venv &&
    timeout 900 venv/bin/pip install --quiet --disable-pip-version-check \
      "sqlfluff==$sqlfluff" "sqlglot==$sqlglot" "duckdb==$duckdb" "pyarrow==$pyarrow"
}

# Columns, grammar, folders, results, and what Quick Sight shows of it. Hive's parser is in the jars of Spark; the job that
# compacts needs the packages of Glue.
check_athena() {
  local kinetide=$PWD/target/release/kinetide made=$work/lake spark
  spark=$("$readers" -c 'import pathlib, pyspark; print(pathlib.Path(pyspark.__file__).parent / "jars")')
  export PYTHONDONTWRITEBYTECODE=1
  timeout 60 "$lake_python" "$ci/lake/tables.py" "$kinetide"
  timeout 60 "$lake_python" "$ci/lake/bound.py"
  timeout 120 "$lake_python" "$ci/lake/make.py" "$kinetide" "$made"
  PYTHONPATH=$glue_packages timeout 120 "$readers" "$ci/glue/compacting.py" lake "$made/lake"
  timeout 60 "$lake_python" "$ci/lake/projection.py" "$made/lake"
  timeout 300 "$lake_python" "$ci/lake/grammar.py" "$spark"
  timeout 120 "$lake_python" "$ci/lake/visuals.py" "$made"
  timeout 120 "$lake_python" "$ci/lake/anomalies.py"
  timeout 600 "$lake_python" "$ci/lake/results.py" "$made" "$trino_jars"
}
