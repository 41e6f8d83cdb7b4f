-- Normalised Price by Exchange (lines), by hour of the trade.
SELECT hour_bucket, "exchange", avg(CAST(normalized_price AS double)) AS avg_normalized_price
FROM crypto.live_trades
GROUP BY 1, 2
ORDER BY 1, 2;
