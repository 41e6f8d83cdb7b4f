-- Prices with a value that is no number, which the load makes null, or without id or time, which it leaves out. `unusable` has
-- what the poller itself could not use. Parameters: year, month.
SELECT year, month, day, hour, id, "timestamp", current_price, market_cap, market_cap_rank, volume_24h, unusable
FROM crypto_data.processed_prices_raw
WHERE
  year = ? AND month = ?
  AND (
    unusable IS NOT NULL
    OR coalesce(id, '') = ''
    OR TRY_CAST("timestamp" AS bigint) IS NULL
    OR (current_price IS NOT NULL AND TRY_CAST(current_price AS double) IS NULL)
    OR (market_cap IS NOT NULL AND TRY_CAST(round(TRY_CAST(market_cap AS double)) AS bigint) IS NULL)
    OR (market_cap_rank IS NOT NULL AND TRY_CAST(round(TRY_CAST(market_cap_rank AS double)) AS integer) IS NULL)
    OR (volume_24h IS NOT NULL AND TRY_CAST(round(TRY_CAST(volume_24h AS double)) AS bigint) IS NULL)
  )
ORDER BY 1, 2, 3, 4, 5, 6;
