-- Coins by their change in 24 hours, the greatest first.
CREATE OR REPLACE VIEW crypto_data.v_top_gainers AS
SELECT
  row_number() OVER (ORDER BY price_change_pct_24h DESC NULLS LAST, id) AS place,
  id,
  symbol,
  name,
  price_change_pct_24h,
  current_price,
  snapshot_time
FROM crypto_data.v_latest_snapshot;
