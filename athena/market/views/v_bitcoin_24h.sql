-- Bitcoin in the 24 hours before its newest price.
CREATE OR REPLACE VIEW crypto_data.v_bitcoin_24h AS
SELECT
  snapshot_time,
  id,
  current_price,
  volume_24h,
  price_change_pct_24h
FROM (
  SELECT
    *,
    max("timestamp") OVER () AS newest
  FROM crypto_data.recent_prices
  WHERE id = 'bitcoin'
)
WHERE "timestamp" > newest - 86400;
