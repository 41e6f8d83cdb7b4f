-- Lowest, highest and last price of each asset and day. Parameters: year, month.
SELECT
  id,
  year,
  month,
  day,
  count(*) AS snapshots,
  min(price_usd) AS low,
  max(price_usd) AS high,
  max_by(price_usd, event_time) AS last_price
FROM crypto_data.coincap_assets
WHERE year = ? AND month = ?
GROUP BY 1, 2, 3, 4
ORDER BY 1, 2, 3, 4;
