-- Order Type Distribution (donut).
SELECT order_type, count(*) AS trades
FROM crypto.live_trades
GROUP BY 1
ORDER BY 1;
