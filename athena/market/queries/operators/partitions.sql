-- The hours that have prices. Parameters: year, month.
SELECT DISTINCT year, month, day, hour
FROM crypto_data.analytics_prices
WHERE year = ? AND month = ?
ORDER BY 1, 2, 3, 4;
