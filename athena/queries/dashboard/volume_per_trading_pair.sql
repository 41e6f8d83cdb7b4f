-- Trading Volume per Trading Pair (bar).
SELECT trading_pair, sum(quantity) AS quantity
FROM crypto.live_trades
GROUP BY 1
ORDER BY 2 DESC;
