-- Volatility and liquidity by pair and quarter of an hour.
SELECT trading_pair, quarter_hour, avg_normalized_price, stddev_price, trade_value, trades
FROM crypto.trends_15_minutes
ORDER BY 1, 2;
