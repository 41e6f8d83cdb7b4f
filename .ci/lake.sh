# shellcheck shell=bash
# The lake: statements for Athena, run on what the service lands. `run` sources this file after servers.sh and sets `ci`,
# `cache` and `work`; `readers` and its pins come from there.

sqlfluff=4.5.0
sqlglot=30.30.0
# Athena comes from Trino, and its engine 3 is nearest to the versions around 411: that one reads every statement. What runs
# them is 483 where there is a Java 25, for its reader of Hudi tables; elsewhere 411, the last one on Java 17 that can be had.
trino_old=411
trino_new=483

# Sets `lake_python` to a Python with the tools of these checks, `trino_parser` to a folder of jars, and `trino` to a folder with
# `java`, `jars` and the compiled Lake.java.
install_lake() {
  local name=lake-$sqlfluff-$sqlglot-$duckdb-$pyarrow-$hudi java version=$trino_old profiles=engine
  install_once "$name" install_lake_tools
  lake_python=$cache/$name/venv/bin/python
  trino_parser=$cache/trino-parser-$trino_old
  install_once "trino-parser-$trino_old" install_jars parser "$trino_old"
  if java=$(java_25); then
    version=$trino_new profiles=engine,hudi
  else
    java=$(command -v java)
  fi
  install_once "trino-$version" install_jars "$profiles" "$version"
  name=lake-trino-$version-$({ readlink -f "$java" && cat "$ci/lake/trino/Lake.java"; } | sha256sum | head -c 12)
  install_once "$name" compile_lake "$java" "$cache/trino-$version"
  trino=$cache/$name
}

# compile_lake JAVA JARS
compile_lake() {
  java=$(readlink -f "$1")
  "${java}c" -proc:none -cp "$2/*" -d . "$ci/lake/trino/Lake.java"
  ln -s "$java" java
  ln -s "$2" jars
}

install_lake_tools() {
  timeout 120 python3 -m venv venv &&
    timeout 900 venv/bin/pip install --quiet --disable-pip-version-check \
      "sqlfluff==$sqlfluff" "sqlglot==$sqlglot" "duckdb==$duckdb" "pyarrow==$pyarrow" &&
    timeout 300 venv/bin/pip install --quiet --disable-pip-version-check --no-deps "hudi==$hudi"
}

# install_jars PROFILES VERSION, of trino/pom.xml.
install_jars() {
  timeout 900 mvn --quiet --batch-mode --file "$ci/lake/trino/pom.xml" --activate-profiles "$1" -Dtrino="$2" \
    dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$PWD"
}

java_25() {
  local home
  for home in "${JAVA_HOME_25:-}" "${JAVA_HOME_25_X64:-}" "${JAVA_HOME:-}" /usr/lib/jvm/*25*; do
    if [[ -x $home/bin/javac && $("$home/bin/java" -version 2>&1) == *'version "25'* ]]; then
      echo "$home/bin/java"
      return
    fi
  done
  return 1
}

# Makes the lake of these checks; the job that compacts needs the packages of Glue. The other job runs on it in glue.sh.
make_lake() {
  export PYTHONDONTWRITEBYTECODE=1
  local offline=(python3 "$ci/glue/offline.py")
  timeout 120 "${offline[@]}" "$lake_python" "$ci/lake/make.py" "$PWD/target/release/kinetide" "$work/lake"
  PYTHONPATH=$glue_packages timeout 120 "${offline[@]}" "$readers" "$ci/glue/compacting.py" lake "$work/lake/lake"
}

# Columns, grammar, folders, results, and what Quick Sight shows of it. Hive's parser is in the jars of Spark.
check_athena() {
  local kinetide=$PWD/target/release/kinetide made=$work/lake spark
  spark=$("$readers" -c 'import pathlib, pyspark; print(pathlib.Path(pyspark.__file__).parent / "jars")')
  export PYTHONDONTWRITEBYTECODE=1
  # Everything is fetched by now: the rest reaches nothing but loopback.
  local offline=(python3 "$ci/glue/offline.py")
  timeout 60 "${offline[@]}" "$lake_python" "$ci/lake/tables.py" "$kinetide"
  timeout 60 "${offline[@]}" "$lake_python" "$ci/lake/market_rows.py" "$kinetide"
  timeout 60 "${offline[@]}" "$lake_python" "$ci/lake/bound.py"
  timeout 60 "${offline[@]}" "$lake_python" "$ci/lake/insights.py" "$kinetide" "$made"
  timeout 60 "${offline[@]}" "$lake_python" "$ci/lake/market_insights.py" "$kinetide"
  timeout 300 "${offline[@]}" "$lake_python" "$ci/lake/market_program.py" "$kinetide" "$kafka_jars"
  timeout 60 "${offline[@]}" "$lake_python" "$ci/lake/projection.py" "$made/lake"
  timeout 300 "${offline[@]}" "$lake_python" "$ci/lake/grammar.py" "$trino_parser" "$spark"
  timeout 120 "${offline[@]}" "$lake_python" "$ci/lake/visuals.py" "$made"
  timeout 120 "${offline[@]}" "$lake_python" "$ci/lake/market_visuals.py"
  timeout 120 "${offline[@]}" "$lake_python" "$ci/lake/anomalies.py"
  local command=("$lake_python" "$ci/lake/results.py")
  if [[ -e $work/trades ]]; then
    command=("$lake_python" "$ci/glue/views.py" "$work/sample" "$work/trades/lake" "$work/trades/tables")
  fi
  timeout 900 "${offline[@]}" "${command[@]}" "$made" "$trino"
}
