-- The newest hour that has prices, and how fresh it is.
CREATE OR REPLACE VIEW crypto_data.v_latest_partition AS
SELECT
  year,
  month,
  day,
  hour,
  count(*) AS prices,
  count(DISTINCT id) AS coins,
  count(DISTINCT "timestamp") AS snapshots,
  max(snapshot_time) AS newest_snapshot
FROM crypto_data.recent_prices
GROUP BY 1, 2, 3, 4
ORDER BY 1 DESC, 2 DESC, 3 DESC, 4 DESC
LIMIT 1;
