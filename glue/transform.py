"""From lines of the landing zone to rows of the Hudi table, and from its state to the hourly aggregate.

DataFrame in, DataFrame out: nothing here reads or writes.
"""

from pyspark.sql import functions as F
from pyspark.sql import types as T

import checks

CHECKED = T.StructType(
    [
        T.StructField("reason", T.StringType()),
        T.StructField("detail", T.StringType()),
        T.StructField("ordering_key", T.StringType()),
        T.StructField("kinds", T.MapType(T.StringType(), T.StringType())),
        T.StructField("nested", T.MapType(T.StringType(), T.StringType())),
    ]
)

# Where the value of the partition comes from.
PARTITIONS = {
    "exchange": F.col,
    "trading_pair": F.col,
    # The trade time is in UTC here, whatever zone it was written in.
    "trade_date": lambda _: F.substring("hour_bucket", 1, 10),
}


def checked(lines):
    """(object, line) with what is wrong with each line."""
    check = F.udf(checks.line_checked, CHECKED)
    return lines.withColumn("checked", check("line")).select("object", "line", "checked.*")


def kinds_seen(lines):
    """(name, kind) of attributes without a column of their own so far; the oldest change decides."""
    good = lines.where("reason IS NULL").select("ordering_key", F.explode("kinds").alias("name", "kind"))
    return good.groupBy("name").agg(F.min_by("kind", F.struct("ordering_key", "kind")).alias("kind"))


def with_changed_types(lines, kinds):
    """Refuses lines whose attributes are not of the kinds of their columns."""
    if not kinds:
        return lines
    known = F.create_map(*(F.lit(part) for pair in sorted(kinds.items()) for part in pair))
    changed = F.map_keys(F.map_filter("kinds", lambda name, kind: F.element_at(known, name) != kind))
    return refusing(lines, F.size(changed) > 0, "changed_type", F.array_join(F.array_sort(changed), ", "))


def parsed(lines, kinds):
    """Lines with their `row`. Every column of `kinds` is in it, null where a line does not have it."""
    # Maps and lists are taken as the service wrote them: Spark's own text of them has other digits.
    others = {name: checks.KINDS[kind] for name, kind in sorted(kinds.items()) if kind != "json"}
    columns = checks.COLUMNS | others | {"_corrupt_record": "STRING"}
    ddl = ", ".join(f"`{name}` {column_type}" for name, column_type in columns.items())
    options = {"mode": "PERMISSIVE", "columnNameOfCorruptRecord": "_corrupt_record"}
    found = lines.withColumn("row", F.from_json("line", ddl, options))
    # What Python takes and Spark does not: a line less, not a job that fails for ever.
    return refusing(found, F.col("row._corrupt_record").isNotNull(), "not_json", F.lit(None).cast("string"))


def refusing(lines, condition, reason, detail):
    refused = F.col("reason").isNull() & condition
    return lines.withColumns(
        {
            "reason": F.when(refused, F.lit(reason)).otherwise(F.col("reason")),
            "detail": F.when(refused, detail).otherwise(F.col("detail")),
        }
    )


def counted(lines):
    """How many parsed lines there are for each reason, and when the first record of them arrived in the stream."""
    return lines.groupBy("reason").agg(F.count("*").alias("lines"), F.min("row.ingestion_time").alias("oldest"))


def rows(lines, kinds, partition):
    """The rows of the table, of parsed lines."""
    columns = [
        F.element_at("nested", name).alias(name) if kinds.get(name) == "json" else F.col(f"row.`{name}`")
        for name in [*checks.COLUMNS, *sorted(kinds)]
    ]
    found = lines.where("reason IS NULL").select(*columns)
    return found.withColumn(f"{partition}_part", cleaned(PARTITIONS[partition](partition)))


def cleaned(value):
    """A folder name: never null, no slash, nothing that Hive takes for null, not endless."""
    name = F.regexp_replace(F.regexp_replace(value, "[^A-Za-z0-9-]", "_"), "^_+", "")
    return F.coalesce(F.nullif(F.substring(name, 1, 64), F.lit("")), F.lit("unknown"))


def quarantined(lines, objects, noticed_at):
    """What is set aside: lines with a reason, and objects of which no line was taken."""
    of_lines = lines.where("reason IS NOT NULL").select("object", "reason", "detail", "line")
    nothing = F.lit(None).cast("string")
    of_objects = objects.select("object", "reason", nothing.alias("detail"), nothing.alias("line"))
    # The folder of an object: what is set aside again replaces what was.
    return of_lines.union(of_objects).withColumns(
        {"noticed_at": F.lit(noticed_at), "object_part": F.sha1("object").substr(1, 16)}
    )


def hours_touched(changes, before):
    """The hours whose trades change: those of new rows, and those that the same trades were in before."""
    earlier = before.join(changes.select("transaction_id").distinct(), "transaction_id").select("hour_bucket")
    return changes.select("hour_bucket").union(earlier).where("hour_bucket IS NOT NULL").distinct()


def live(state):
    """What people mean by the table: trades that are there and valid."""
    return state.where("NOT is_deleted AND is_valid")


def hourly(state, hours):
    """One row for each hour, exchange and pair of the latest state. `hours` has the column `hour_bucket`."""

    def count(condition):
        return F.count_if(F.expr(condition))

    trades = live(state).join(F.broadcast(hours), "hour_bucket")
    figures = trades.groupBy("hour_bucket", "exchange", "trading_pair").agg(
        F.count("*").alias("trades"),
        F.sum("quantity").cast("decimal(38,18)").alias("quantity"),
        F.sum("trade_value").cast("decimal(38,8)").alias("trade_value"),
        (F.sum("trade_value").cast("double") / F.sum("quantity").cast("double")).alias("vwap"),
        F.min("price").alias("min_price"),
        F.max("price").alias("max_price"),
        F.avg("normalized_price").cast("decimal(14,6)").alias("avg_normalized_price"),
        F.stddev_samp(F.col("price").cast("double")).alias("stddev_price"),
        F.sum("trade_fee").cast("decimal(38,18)").alias("fees"),
        F.sum("adjusted_trade_fee").cast("decimal(38,6)").alias("adjusted_fees"),
        count("order_type = 'BUY'").alias("buys"),
        count("order_type = 'SELL'").alias("sells"),
        count("risk_flag = 'LOW_RISK'").alias("low_risk"),
        count("risk_flag = 'MEDIUM_RISK'").alias("medium_risk"),
        count("risk_flag = 'HIGH_RISK'").alias("high_risk"),
        count("trade_status = 'SUCCESS'").alias("success"),
        count("trade_status = 'PENDING'").alias("pending"),
        F.countDistinct("user_id").alias("users"),
    )
    parts = {"year": (1, 4), "month": (6, 2), "day": (9, 2), "hour": (12, 2)}
    return figures.withColumns({name: F.substring("hour_bucket", *place) for name, place in parts.items()})
