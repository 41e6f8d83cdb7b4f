# shellcheck shell=bash
# What people need to operate the service: alert rules, dashboards, templates. `run` sources this file after servers.sh
# and sets `ci`, `cache` and `work`; `sqlglot` comes from lake.sh.

pyyaml=6.0.3
cfn_lint=1.58.0
cfn_guard=0.3.3
boto3=1.44.8
jsonschema=4.26.0
keda=2.20.2
grafana_schema=13.2.3
typescript=5.9.3
playwright=1.65.2
axe_core=4.14.1

# Sets `operations` to a Python with the tools of these checks, `grafana` to a folder with Grafana's types, `prometheus` and
# `promtool`; for the console `console` to a Python with Playwright, `axe` to axe, `chromium` and the folders of its libraries.
install_operations() {
  local name=operations-$pyyaml-$cfn_lint-$cfn_guard-$boto3-$jsonschema-$sqlglot
  install_once "$name" install_operations_tools
  operations=$cache/$name/venv/bin/python
  name=grafana-schema-$grafana_schema-$typescript
  install_once "$name" timeout 300 npm install --no-save --no-audit --no-fund --ignore-scripts --loglevel=error \
    --prefix . "@grafana/schema@$grafana_schema" "typescript@$typescript"
  grafana=$cache/$name
  if command -v go >/dev/null; then install_once "keda-$keda" install_keda; fi
  if command -v prometheus promtool >/dev/null; then
    prometheus=$(command -v prometheus) promtool=$(command -v promtool)
  else
    install_once prometheus-debian install_prometheus
    prometheus=$cache/prometheus-debian/usr/bin/prometheus promtool=$cache/prometheus-debian/usr/bin/promtool
  fi
  install_once "playwright-$playwright" install_playwright
  console=$cache/playwright-$playwright/venv/bin/python
  name=axe-core-$axe_core
  install_once "$name" timeout 300 npm install --no-save --no-audit --no-fund --ignore-scripts --loglevel=error \
    --prefix . "axe-core@$axe_core"
  axe=$cache/$name/node_modules/axe-core/axe.min.js
  if command -v chromium >/dev/null; then
    chromium=$(command -v chromium) chromium_libraries=
  else
    install_once chromium-debian install_chromium
    local root=$cache/chromium-debian/usr/lib
    chromium=$root/chromium/chromium-headless-shell
    chromium_libraries=$(find "$root" -name '*.so*' -not -path '*/chromium/*' -printf '%h\n' | sort --unique | paste --serial --delimiters=:)
  fi
}

install_operations_tools() {
  timeout 120 python3 -m venv venv &&
    timeout 900 venv/bin/pip install --quiet --disable-pip-version-check \
      "pyyaml==$pyyaml" "cfn-lint==$cfn_lint" "cfn-guard-rs==$cfn_guard" "boto3==$boto3" "jsonschema==$jsonschema" \
      "sqlglot==$sqlglot"
}

# Downloaded only, nothing is built; go compares the checksum with the public one.
install_keda() {
  timeout 300 env GOFLAGS=-modcacherw GOMODCACHE="$PWD/modules" go mod download "github.com/kedacore/keda/v2@v$keda"
}

# Debian's package, unpacked only: installed it would start a service.
install_prometheus() {
  timeout 300 apt-get --quiet --quiet update || true
  timeout 300 apt-get --quiet --quiet download prometheus && dpkg-deb --extract prometheus_*.deb . && rm prometheus_*.deb
}

install_playwright() {
  timeout 120 python3 -m venv venv &&
    timeout 600 venv/bin/pip install --quiet --disable-pip-version-check "playwright==$playwright"
}

# Debian's packages, with the libraries that are not here, unpacked only.
install_chromium() {
  local packages package
  timeout 300 apt-get --quiet --quiet update || true
  packages=$(apt-get install --simulate --no-install-recommends chromium-headless-shell | awk '/^Inst/ { print $2 }') || return
  # shellcheck disable=SC2086 # One word for each package.
  timeout 600 apt-get --quiet --quiet download $packages || return
  for package in *.deb; do dpkg-deb --extract "$package" . || return; done
  rm ./*.deb
}

# Rules and their tests, then every expression on what running workers say.
check_alerts() {
  timeout 300 "$operations" "$ci/operations/rules.py" "$promtool"
}

check_dashboards() {
  timeout 300 "$operations" "$ci/operations/dashboards.py" "$grafana"
}

# The resource definitions come as a Go module: where Go is, the example is checked.
check_keda() {
  if ! command -v go >/dev/null; then
    echo 'SKIPPED: there is no go here'
    return
  fi
  timeout 60 "$operations" "$ci/operations/keda.py" "$cache/keda-$keda/modules/github.com/kedacore/keda/v2@v$keda"
}

check_scrape() {
  timeout 300 "$operations" "$ci/operations/scrape.py" "$PWD/target/release/kinetide" "$prometheus"
}

# Definitions of Quick Sight; what they show of a lake is looked at where the lake is.
check_quicksight() {
  timeout 300 "$operations" "$ci/operations/quicksight.py"
}

# The templates, then what they deploy on an emulator, with a worker that runs with the settings of the task.
check_templates() {
  timeout 60 "$operations" "$ci/operations/catalog.py"
  timeout 300 "$operations" "$ci/operations/templates.py"
  timeout 60 "$operations" "$ci/operations/alarms.py"
  timeout 60 "$operations" "$ci/operations/loader.py"
}

check_deploy() {
  timeout 420 "$operations" "$ci/operations/deploy.py" "$PWD/target/release/kinetide" \
    "$cache/ministack-$ministack-cbor2-$cbor2/venv/bin/ministack"
}

# The commands of the runbooks, against running workers.
check_runbooks() {
  timeout 600 "$operations" "$ci/operations/runbooks.py" "$PWD/target/release/kinetide"
}

# What the console says, then how it looks and works in a browser; the pages of the dashboard there too.
check_console() {
  timeout 60 node --test "$ci/operations/console_model.test.mjs" >"$work/console-model.log" 2>&1 ||
    { cat "$work/console-model.log"; return 1; }
  timeout 600 "$console" "$ci/operations/console.py" "$PWD/target/release/kinetide" "$chromium" "$chromium_libraries" "$axe"
  timeout 300 "$console" "$ci/operations/insights.py" "$PWD/target/release/kinetide" "$chromium" "$chromium_libraries" "$axe"
}

# Terraform and its provider come from no package registry: where they are, the module is checked.
check_terraform() {
  local plugins
  "$operations" "$ci/operations/terraform.py"
  plugins=$(find /opt /usr/share/terraform "$HOME/.terraform.d" -maxdepth 6 -type d -path '*/registry.terraform.io/hashicorp/aws' 2>/dev/null |
    head -n 1 || true)
  if ! command -v terraform >/dev/null || [[ -z $plugins ]]; then
    echo 'SKIPPED: there is no terraform with the AWS provider here'
    return
  fi
  cp -r "$PWD/ecs" "$PWD/athena" "$PWD/glue" "$PWD/quicksight" "$work"
  cd "$work/ecs/terraform"
  export CHECKPOINT_DISABLE=1 TF_CLI_CONFIG_FILE=/dev/null
  terraform fmt -check -diff .
  timeout 120 terraform init -no-color -input=false -plugin-dir="${plugins%/registry.terraform.io/*}" >init.log || { cat init.log; return 1; }
  timeout 120 terraform validate -no-color
}

# The parts wait more than they compute, so they run side by side.
check_operations() {
  local part failed=0 pids=()
  export PYTHONDONTWRITEBYTECODE=1
  for part in alerts dashboards keda templates quicksight deploy scrape runbooks console terraform; do
    "check_$part" >"$work/operations-$part.log" 2>&1 &
    pids+=("$!:$part")
  done
  for part in "${pids[@]}"; do
    wait "${part%%:*}" || failed=1
    printf '%s: ' "${part##*:}"
    cat "$work/operations-${part##*:}.log"
  done
  ((failed == 0))
}
