-- Prices of the last eight days. The other views read this one: conditions on days that are known before the query begins
-- spare Athena a list of every projected hour.
CREATE OR REPLACE VIEW crypto_data.recent_prices AS
SELECT
  id,
  symbol,
  name,
  current_price,
  market_cap,
  market_cap_rank,
  volume_24h,
  price_change_pct_1h,
  price_change_pct_24h,
  price_change_pct_7d,
  "timestamp",
  CAST(from_unixtime("timestamp") AT TIME ZONE 'UTC' AS timestamp) AS snapshot_time,
  year,
  month,
  day,
  hour
FROM crypto_data.analytics_prices
WHERE
  year IN (year(current_date), year(current_date - INTERVAL '8' DAY))
  AND month IN (month(current_date), month(current_date - INTERVAL '8' DAY))
  AND day IN (
    day(current_date),
    day(current_date - INTERVAL '1' DAY),
    day(current_date - INTERVAL '2' DAY),
    day(current_date - INTERVAL '3' DAY),
    day(current_date - INTERVAL '4' DAY),
    day(current_date - INTERVAL '5' DAY),
    day(current_date - INTERVAL '6' DAY),
    day(current_date - INTERVAL '7' DAY),
    day(current_date - INTERVAL '8' DAY)
  )
  -- In January the conditions above see days of two years.
  AND "timestamp" >= to_unixtime(CAST(current_date AS timestamp)) - 8 * 86400;
