-- The value of all coins now, against 00:00 UTC and 24 hours ago: each time the first snapshot from then on. Where coins are
-- more or fewer than now the sums do not compare.
SELECT
  max_by(total, "timestamp") AS total_now,
  max_by(coins, "timestamp") AS coins_now,
  max(snapshot_time) AS snapshot_now,
  min_by(total, "timestamp") FILTER (WHERE "timestamp" >= newest - newest % 86400) AS total_midnight,
  min_by(coins, "timestamp") FILTER (WHERE "timestamp" >= newest - newest % 86400) AS coins_midnight,
  min(snapshot_time) FILTER (WHERE "timestamp" >= newest - newest % 86400) AS snapshot_midnight,
  min_by(total, "timestamp") FILTER (WHERE "timestamp" >= newest - 86400) AS total_day_ago,
  min_by(coins, "timestamp") FILTER (WHERE "timestamp" >= newest - 86400) AS coins_day_ago,
  min(snapshot_time) FILTER (WHERE "timestamp" >= newest - 86400) AS snapshot_day_ago,
  CAST(
    max_by(total, "timestamp") - min_by(total, "timestamp") FILTER (WHERE "timestamp" >= newest - newest % 86400) AS double
  ) * 100 / nullif(
    CAST(min_by(total, "timestamp") FILTER (WHERE "timestamp" >= newest - newest % 86400) AS double), 0
  ) AS pct_since_midnight,
  CAST(
    max_by(total, "timestamp") - min_by(total, "timestamp") FILTER (WHERE "timestamp" >= newest - 86400) AS double
  ) * 100 / nullif(
    CAST(min_by(total, "timestamp") FILTER (WHERE "timestamp" >= newest - 86400) AS double), 0
  ) AS pct_since_day_ago
FROM (
  SELECT *, max("timestamp") OVER () AS newest
  FROM (
    SELECT
      "timestamp",
      snapshot_time,
      sum(CAST(market_cap AS decimal(38, 0))) AS total,
      count(market_cap) AS coins
    FROM crypto_data.recent_prices
    GROUP BY 1, 2
  )
);
