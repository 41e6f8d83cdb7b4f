-- Rows that reached the stream more than 15 minutes after their change, by hour of the change. Parameters: year, month.
SELECT
  substr(event_timestamp, 1, 13) AS change_hour,
  count(*) AS landed,
  count_if(delay > 900) AS late,
  max(delay) AS longest_delay_seconds
FROM (
  SELECT event_timestamp, to_unixtime(from_iso8601_timestamp(ingestion_time)) - cdc_ts_us / 1e6 AS delay
  FROM crypto.landing_transactions
  WHERE year = ? AND month = ?
)
GROUP BY 1
ORDER BY 1;
