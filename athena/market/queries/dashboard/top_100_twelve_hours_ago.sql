-- The first hundred by rank as they were twelve hours before the newest price: the last snapshot up to then.
SELECT market_cap_rank, id, name, current_price, market_cap, snapshot_time
FROM (
  SELECT *, max("timestamp") OVER () AS chosen
  FROM (
    SELECT *, max("timestamp") OVER () AS newest
    FROM crypto_data.recent_prices
  )
  WHERE "timestamp" <= newest - 12 * 3600
)
WHERE "timestamp" = chosen AND market_cap_rank <= 100
ORDER BY 1, 2;
