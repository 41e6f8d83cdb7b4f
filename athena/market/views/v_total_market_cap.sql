-- What all coins of the newest snapshot are worth together.
CREATE OR REPLACE VIEW crypto_data.v_total_market_cap AS
SELECT
  sum(CAST(market_cap AS decimal(38, 0))) AS total_market_cap,
  count(market_cap) AS coins,
  max(snapshot_time) AS snapshot_time
FROM crypto_data.v_latest_snapshot;
