-- Risk Distribution (donut).
SELECT risk_flag, count(*) AS trades
FROM crypto.live_trades
GROUP BY 1
ORDER BY 1;
