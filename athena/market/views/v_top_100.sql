-- The first hundred by the rank that CoinGecko gives; coins of equal rank are all here.
CREATE OR REPLACE VIEW crypto_data.v_top_100 AS
SELECT
  market_cap_rank,
  id,
  name,
  current_price,
  price_change_pct_1h,
  price_change_pct_24h,
  price_change_pct_7d,
  volume_24h,
  snapshot_time
FROM crypto_data.v_latest_snapshot
WHERE market_cap_rank <= 100;
