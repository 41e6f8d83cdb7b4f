-- Number of Trades by Status (donut): failed trades are not live.
SELECT trade_status, count(*) AS trades
FROM crypto.live_trades
GROUP BY 1
ORDER BY 1;
