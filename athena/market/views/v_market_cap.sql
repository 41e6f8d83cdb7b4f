-- Coins by market capitalisation, the largest first.
CREATE OR REPLACE VIEW crypto_data.v_market_cap AS
SELECT
  row_number() OVER (ORDER BY market_cap DESC NULLS LAST, id) AS place,
  id,
  symbol,
  name,
  market_cap,
  current_price,
  snapshot_time
FROM crypto_data.v_latest_snapshot;
