-- Prices, coins and snapshots of each loaded hour: 12 snapshots where none is missing. Parameters: year, month.
SELECT
  year,
  month,
  day,
  hour,
  count(*) AS prices,
  count(DISTINCT id) AS coins,
  count(DISTINCT "timestamp") AS snapshots
FROM crypto_data.analytics_prices
WHERE year = ? AND month = ?
GROUP BY 1, 2, 3, 4
ORDER BY 1, 2, 3, 4;
