-- The newest price of each coin in the newest hour.
CREATE OR REPLACE VIEW crypto_data.v_latest_snapshot AS
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
  snapshot_time
FROM (
  SELECT
    recent.*,
    row_number() OVER (PARTITION BY recent.id ORDER BY recent."timestamp" DESC) AS place
  FROM crypto_data.recent_prices AS recent
  INNER JOIN crypto_data.v_latest_partition AS latest
    ON
      recent.year = latest.year
      AND recent.month = latest.month
      AND recent.day = latest.day
      AND recent.hour = latest.hour
)
WHERE place = 1;
