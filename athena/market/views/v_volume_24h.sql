-- Coins by what was traded in 24 hours, the largest first, and the sum of all.
CREATE OR REPLACE VIEW crypto_data.v_volume_24h AS
SELECT
  row_number() OVER (ORDER BY volume_24h DESC NULLS LAST, id) AS place,
  id,
  symbol,
  name,
  volume_24h,
  sum(CAST(volume_24h AS decimal(38, 0))) OVER () AS total_volume_24h,
  snapshot_time
FROM crypto_data.v_latest_snapshot;
