-- Bitcoin in the 24 hours before its newest price.
SELECT snapshot_time, current_price, volume_24h, price_change_pct_24h
FROM (
  SELECT *, max("timestamp") OVER () AS newest
  FROM crypto_data.recent_prices
  WHERE id = 'bitcoin'
)
WHERE "timestamp" > newest - 86400
ORDER BY 1;
