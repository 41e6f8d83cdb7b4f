-- User Activity by Hour (bars and a line).
SELECT
  hour_bucket,
  count(*) AS trades,
  count(DISTINCT user_id) AS users,
  CAST(count(*) AS double) / nullif(count(DISTINCT user_id), 0) AS trades_per_user
FROM crypto.live_trades
GROUP BY 1
ORDER BY 1;
