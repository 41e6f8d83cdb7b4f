-- Trades of each hour by exchange and pair, as the Glue job wrote them. Parameters: year, month.
SELECT *
FROM crypto.hourly_trades
WHERE year = ? AND month = ?
ORDER BY hour_bucket, "exchange", trading_pair;
