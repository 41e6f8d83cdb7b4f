-- Prices that are there more than once: none. Parameters: year, month.
SELECT id, "timestamp", count(*) AS copies
FROM crypto_data.analytics_prices
WHERE year = ? AND month = ?
GROUP BY 1, 2
HAVING count(*) > 1
ORDER BY 1, 2;
