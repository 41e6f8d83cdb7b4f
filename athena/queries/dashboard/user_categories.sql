-- User Category Distribution (bar): by the quantity of the trade, not by all trades of the user.
SELECT user_category, count(*) AS trades
FROM crypto.live_trades
GROUP BY 1
ORDER BY 1;
