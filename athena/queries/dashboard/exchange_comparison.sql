-- Exchange Comparison (table).
SELECT "exchange", sum(quantity) AS quantity, sum(trade_fee) AS trade_fee
FROM crypto.live_trades
GROUP BY 1
ORDER BY 1;
