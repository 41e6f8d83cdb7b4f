-- Four coins by hour, with the last price of each hour, for the seven days before the newest price. By id, as symbols are not
-- unique.
CREATE OR REPLACE VIEW crypto_data.v_trendline_core AS
SELECT
  date_trunc('hour', snapshot_time) AS price_hour,
  id,
  symbol,
  name,
  current_price,
  market_cap,
  volume_24h
FROM (
  SELECT
    *,
    row_number() OVER (PARTITION BY id, year, month, day, hour ORDER BY "timestamp" DESC) AS place,
    max("timestamp") OVER () AS newest
  FROM crypto_data.recent_prices
  WHERE id IN ('bitcoin', 'ethereum', 'tether', 'solana')
)
WHERE place = 1 AND "timestamp" > newest - 7 * 86400;
