-- One hour of prices into analytics_prices, each coin of a snapshot once. What is there already is left out, so a load can be
-- repeated. A number that is none becomes null. Parameters: year, month, day, hour, and the same again.
INSERT INTO crypto_data.analytics_prices
SELECT
  found.id,
  found.symbol,
  found.name,
  found.current_price,
  found.market_cap,
  found.market_cap_rank,
  found.volume_24h,
  found.price_change_pct_1h,
  found.price_change_pct_24h,
  found.price_change_pct_7d,
  found."timestamp",
  found.year,
  found.month,
  found.day,
  found.hour
FROM (
  SELECT
    *,
    row_number() OVER (
      PARTITION BY id, "timestamp"
      ORDER BY market_cap_rank, current_price, market_cap, volume_24h,
        price_change_pct_1h, price_change_pct_24h, price_change_pct_7d, symbol, name
    ) AS copy
  FROM (
    SELECT
      id,
      symbol,
      name,
      TRY_CAST(current_price AS double) AS current_price,
      TRY_CAST(round(TRY_CAST(market_cap AS double)) AS bigint) AS market_cap,
      TRY_CAST(round(TRY_CAST(market_cap_rank AS double)) AS integer) AS market_cap_rank,
      TRY_CAST(round(TRY_CAST(volume_24h AS double)) AS bigint) AS volume_24h,
      TRY_CAST(price_change_pct_1h AS double) AS price_change_pct_1h,
      TRY_CAST(price_change_pct_24h AS double) AS price_change_pct_24h,
      TRY_CAST(price_change_pct_7d AS double) AS price_change_pct_7d,
      TRY_CAST("timestamp" AS bigint) AS "timestamp",
      year,
      month,
      day,
      hour
    FROM crypto_data.processed_prices_raw
    WHERE year = ? AND month = ? AND day = ? AND hour = ?
  )
  WHERE id <> '' AND "timestamp" IS NOT NULL
) AS found
LEFT JOIN (
  SELECT id, "timestamp"
  FROM crypto_data.analytics_prices
  WHERE year = ? AND month = ? AND day = ? AND hour = ?
) AS loaded ON found.id = loaded.id AND found."timestamp" = loaded."timestamp"
WHERE found.copy = 1 AND loaded.id IS NULL;
