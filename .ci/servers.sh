# shellcheck shell=bash
# Independent servers and readers for the conformance suites. `run` sources this file and sets `ci`, `cache` and `work`.
#
# Each is installed once for its version; the file `complete`, written last, tells a whole installation from a broken
# one. They listen on free ports, log to $work and are stopped by process id.

kinesis_local=0.6.2
dynamodb_local=3.1.0
ministack=1.5.33
cbor2=6.2.1
kcl=3.5.1
# The last line with three tables.
kcl_34=3.4.2
# DynamoDB Streams adapter for the library, over 3.1: three tables.
adapter=2.0.1

# The other implementation of the KPL's aggregates.
aws_kinesis_agg=1.2.3
protobuf=7.36.2
six=1.17.0

# A broker of Kafka, and a client that is not ours.
kafka=4.4.0
confluent_kafka=2.16.1

# Readers of the lake.
pyspark=3.5.4
duckdb=2.0.1
pyarrow=26.0.1
polars=2.1.0
pandas=3.1.1

server_pids=()

install_servers() {
  install_once "kinesis-local-$kinesis_local" \
    timeout 300 npm install --no-save --no-audit --no-fund --ignore-scripts --loglevel=error \
    --prefix . "kinesis-local@$kinesis_local"
  install_once "dynamodb-local-$dynamodb_local" \
    timeout 600 mvn --quiet --batch-mode --file "$ci/dynamodb-local.xml" -Ddynamodb-local="$dynamodb_local" \
    dependency:copy-dependencies -DoutputDirectory="$cache/dynamodb-local-$dynamodb_local"
  # With cbor2 it speaks the CloudWatch protocol of the SDK for Rust.
  install_once "ministack-$ministack-cbor2-$cbor2" install_ministack
  install_once "aws-kinesis-agg-$aws_kinesis_agg-$protobuf-$six" install_aws_kinesis_agg
  install_kafka
}

# Sets `kafka_jars` and `kafka_python`: the jars of a broker, and a Python with librdkafka. The tests start brokers
# themselves.
install_kafka() {
  install_once "kafka-$kafka-$confluent_kafka" install_broker_and_client
  kafka_jars=$cache/kafka-$kafka-$confluent_kafka/jars
  kafka_python=$cache/kafka-$kafka-$confluent_kafka/venv/bin/python
}

install_broker_and_client() {
  timeout 600 mvn --quiet --batch-mode --file "$ci/kafka/pom.xml" -Dkafka="$kafka" \
    dependency:copy-dependencies -DoutputDirectory="$PWD/jars" &&
    timeout 120 python3 -m venv venv &&
    timeout 300 venv/bin/pip install --quiet --disable-pip-version-check "confluent-kafka==$confluent_kafka"
}

install_aws_kinesis_agg() {
  timeout 120 python3 -m venv venv &&
    timeout 300 venv/bin/pip install --quiet --disable-pip-version-check --no-deps \
      "aws-kinesis-agg==$aws_kinesis_agg" "protobuf==$protobuf" "six==$six"
}

# Sets `java_adapter`: where the consumer on the DynamoDB Streams adapter for the library is.
install_java_adapter() {
  local digest
  digest=$(find "$ci/../tests/interop/adapter" -type f -print0 | sort -z | xargs -0 cat | sha256sum | head -c 12)
  java_adapter=$cache/java-adapter-$adapter-$digest
  [[ -e $java_adapter/complete ]] || rm -rf "$cache/java-adapter-"*
  install_once "$(basename "$java_adapter")" timeout 600 mvn --quiet --batch-mode \
    --file "$ci/../tests/interop/adapter/pom.xml" package -Dadapter="$adapter" -Dout="$java_adapter"
}

# Consumers on the Kinesis Client Library for Java, by version and source, and where they are.
install_java_consumers() {
  local digest
  digest=$(find "$ci/../tests/interop/java" -type f -print0 | sort -z | xargs -0 cat | sha256sum | head -c 12)
  java_kcl=$cache/java-consumer-$kcl-$digest
  java_kcl_34=$cache/java-consumer-$kcl_34-$digest
  install_java_consumer "$kcl" "$java_kcl"
  install_java_consumer "$kcl_34" "$java_kcl_34"
  install_java_adapter
}

install_java_consumer() {
  [[ -e $2/complete ]] || rm -rf "$cache/java-consumer-$1-"*
  install_once "$(basename "$2")" \
    timeout 600 mvn --quiet --batch-mode --file "$ci/../tests/interop/java/pom.xml" package -Dkcl="$1" -Dout="$2"
}

# install_once NAME COMMAND...: runs the command in $cache/NAME unless that is complete.
install_once() {
  local name=$1 dir="$cache/$1"
  shift
  if [[ -e $dir/complete ]]; then
    echo "$name: in the cache"
    return
  fi
  echo "$name: installing"
  rm -rf "$dir"
  mkdir -p "$dir"
  (cd "$dir" && "$@")
  touch "$dir/complete"
}

install_ministack() {
  timeout 120 python3 -m venv venv &&
    timeout 600 venv/bin/pip install --quiet --disable-pip-version-check \
      "ministack[full]==$ministack" "cbor2==$cbor2"
}

# Sets `readers` to a Python that has all readers.
install_readers() {
  local name=readers-$pyspark-$duckdb-$pyarrow-$polars-$pandas
  install_once "$name" install_python_readers
  readers=$cache/$name/venv/bin/python
}

install_python_readers() {
  timeout 120 python3 -m venv venv &&
    timeout 900 venv/bin/pip install --quiet --disable-pip-version-check \
      "pyspark==$pyspark" "duckdb==$duckdb" "pyarrow==$pyarrow" "polars==$polars" "pandas==$pandas"
}

# Starts all and sets their URLs.
start_servers() {
  local kinesis tls dynamodb aws dir
  read -r kinesis tls dynamodb aws < <(free_ports 4)

  # Its certificate lies in its folder. It cannot be bound to one interface, nor can DynamoDB Local.
  start kinesis-local "$kinesis" "$cache/kinesis-local-$kinesis_local/node_modules/kinesis-local" \
    env KINESIS_MOCK_PLAIN_PORT="$kinesis" KINESIS_MOCK_TLS_PORT="$tls" SHARD_LIMIT=200 node main.js

  dir="$cache/dynamodb-local-$dynamodb_local"
  start dynamodb-local "$dynamodb" "$work" \
    java -Dsqlite4java.library.path="$dir" -cp "$dir/*" software.amazon.dynamodb.services.local.main.ServerRunner \
    -inMemory -disableTelemetry -port "$dynamodb"

  start ministack "$aws" "$work" \
    env GATEWAY_PORT="$aws" BIND_HOST=127.0.0.1 SFTP_ENABLED=0 IOT_MTLS_ENABLED=0 \
    "$cache/ministack-$ministack-cbor2-$cbor2/venv/bin/ministack"

  kinesis_local_url=http://127.0.0.1:$kinesis
  dynamodb_local_url=http://127.0.0.1:$dynamodb
  ministack_url=http://127.0.0.1:$aws
}

# start NAME PORT FOLDER COMMAND...: starts a server and waits until it answers HTTP.
start() {
  local name=$1 port=$2 dir=$3 pid
  shift 3
  (cd "$dir" && exec "$@") >"$work/$name.log" 2>&1 </dev/null &
  pid=$!
  server_pids+=("$pid")
  for _ in {1..120}; do
    if answers "$port"; then
      echo "$name: answers on port $port"
      return
    fi
    kill -0 "$pid" 2>/dev/null || break
    sleep 0.5
  done
  echo "$name: does not answer on port $port"
  return 1
}

answers() {
  timeout 5 python3 - "$1" 2>/dev/null <<'PYTHON'
import http.client, sys
connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]), timeout=3)
connection.request("GET", "/")
connection.getresponse()
PYTHON
}

# Prints as many free ports of the loopback interface.
free_ports() {
  python3 - "$1" <<'PYTHON'
import socket, sys
sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(int(sys.argv[1]))]
print(*(each.getsockname()[1] for each in sockets))
PYTHON
}

show_server_logs() {
  local log
  for log in "$work"/{kinesis-local,dynamodb-local,ministack}.log; do
    if [[ -s $log ]]; then
      echo "-- last lines of $(basename "$log"):"
      tail -n 40 "$log"
    fi
  done
}

stop_servers() {
  local pid
  for pid in "${server_pids[@]}"; do
    kill "$pid" 2>/dev/null || true
  done
  for pid in "${server_pids[@]}"; do
    for _ in {1..20}; do
      kill -0 "$pid" 2>/dev/null || break
      sleep 0.25
    done
    kill -KILL "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
  done
  server_pids=()
}
