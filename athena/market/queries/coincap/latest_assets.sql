-- Assets of the newest snapshot of a month, by rank. Parameters: year, month.
SELECT rank, id, symbol, name, price_usd, change_percent_24hr, market_cap_usd, volume_usd_24hr, event_time
FROM (
  SELECT *, max(event_time) OVER () AS newest
  FROM crypto_data.coincap_assets
  WHERE year = ? AND month = ?
)
WHERE event_time = newest
ORDER BY rank, id;
