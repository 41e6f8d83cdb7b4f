-- Coins by their change in 7 days, the greatest first.
CREATE OR REPLACE VIEW crypto_data.v_trending AS
SELECT
  row_number() OVER (ORDER BY price_change_pct_7d DESC NULLS LAST, id) AS place,
  id,
  symbol,
  name,
  price_change_pct_7d,
  current_price,
  snapshot_time
FROM crypto_data.v_latest_snapshot;
