-- Hours of which prices are not loaded, or not all. The hour that still runs is among them. Parameters: year, month, and the
-- same again.
SELECT polled.year, polled.month, polled.day, polled.hour, polled.prices, coalesce(loaded.prices, 0) AS loaded
FROM (
  SELECT year, month, day, hour, count(DISTINCT id || '/' || "timestamp") AS prices
  FROM crypto_data.processed_prices_raw
  WHERE year = ? AND month = ? AND id <> '' AND TRY_CAST("timestamp" AS bigint) IS NOT NULL
  GROUP BY 1, 2, 3, 4
) AS polled
LEFT JOIN (
  SELECT year, month, day, hour, count(*) AS prices
  FROM crypto_data.analytics_prices
  WHERE year = ? AND month = ?
  GROUP BY 1, 2, 3, 4
) AS loaded
  ON
    polled.year = loaded.year
    AND polled.month = loaded.month
    AND polled.day = loaded.day
    AND polled.hour = loaded.hour
WHERE polled.prices > coalesce(loaded.prices, 0)
ORDER BY 1, 2, 3, 4;
