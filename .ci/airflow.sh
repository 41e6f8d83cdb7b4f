# shellcheck shell=bash
# The example for Airflow, parsed by Airflow. `run` sources this file after servers.sh and sets `ci` and `cache`.

# Sets `airflow` to a Python with Airflow. Every package is pinned, so nothing is resolved; a whole Airflow takes four times as
# long.
install_airflow() {
  local name
  name=airflow-$(sha256sum "$ci/airflow/requirements.txt" | head -c 12)
  install_once "$name" install_airflow_packages
  airflow=$cache/$name/venv/bin/python
}

install_airflow_packages() {
  timeout 120 python3 -m venv venv &&
    timeout 900 venv/bin/pip install --quiet --disable-pip-version-check --no-deps --no-compile \
      --requirement "$ci/airflow/requirements.txt"
}

check_airflow() {
  PYTHONDONTWRITEBYTECODE=1 timeout 400 python3 "$ci/glue/offline.py" "$airflow" "$ci/airflow/dag.py"
}
