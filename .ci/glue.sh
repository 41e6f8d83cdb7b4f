# shellcheck shell=bash
# The Glue job, with Spark, Hudi and the argument parser of Glue 5.0. `run` sources this file after operations.sh and sets
# `ci` and `cache`; `install_readers` comes first.

hudi_bundle=0.15.0
# A reader of Hudi tables without Spark.
hudi=0.5.0
# AWS's own `awsglue`, for tests only: its licence (Amazon Software License) is not ours.
awsglue=5.0.0

# Sets `hudi_jar`, and `glue_packages` to a folder of Python packages beside those of the readers.
install_glue() {
  local name=hudi-spark3.5-bundle-$hudi_bundle
  install_once "$name" \
    timeout 300 mvn --quiet --batch-mode org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy \
    -Dartifact="org.apache.hudi:hudi-spark3.5-bundle_2.12:$hudi_bundle" -DoutputDirectory="$cache/$name"
  hudi_jar=$cache/$name/hudi-spark3.5-bundle_2.12-$hudi_bundle.jar
  name=glue-$hudi-$awsglue-$boto3
  install_once "$name" install_glue_packages
  glue_packages=$cache/$name
}

# Without what they depend on: the readers have it.
install_glue_packages() {
  timeout 300 "$readers" -m pip install --quiet --disable-pip-version-check --target . "boto3==$boto3" &&
    timeout 300 "$readers" -m pip install --quiet --disable-pip-version-check --target . --no-deps \
      "hudi==$hudi" "awsgluedataplanepython==$awsglue"
}

# Readers, job and trades in one Spark session. Athena's statements run on what the job made (lake.sh).
check_glue() (
  export PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=$glue_packages
  local kinetide=$PWD/target/release/kinetide
  # Everything is fetched by now: the rest reaches nothing but loopback.
  local offline=(python3 "$ci/glue/offline.py")
  timeout 60 "${offline[@]}"
  timeout 60 "${offline[@]}" "$readers" "$ci/glue/parity.py" "$kinetide"
  timeout 300 "${offline[@]}" "$readers" "$ci/glue/compacting.py" steps "$cache/ministack-$ministack-cbor2-$cbor2/venv/bin/ministack"
  timeout 1200 "${offline[@]}" "$readers" "$ci/glue/spark.py" "$kinetide" "$hudi_jar" "$work"
)

# The end of the chain for real trades: the page over their lake, in a browser.
check_report() {
  local kinetide=$PWD/target/release/kinetide
  if [[ ! -e $work/trades ]]; then
    echo 'SKIPPED: there are no trade files'
    return
  fi
  export PYTHONDONTWRITEBYTECODE=1
  timeout 180 python3 "$ci/glue/report.py" "$kinetide" "$work/sample" "$work/trades/lake"
  timeout 300 "$console" "$ci/operations/insights.py" "$kinetide" "$chromium" "$chromium_libraries" "$axe" --lake "$work/trades/lake"
}
