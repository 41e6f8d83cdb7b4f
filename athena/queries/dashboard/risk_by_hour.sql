-- Risk by Hour (stacked bars).
SELECT hour_bucket, risk_flag, count(*) AS trades
FROM crypto.live_trades
GROUP BY 1, 2
ORDER BY 1, 2;
