-- Volatility and liquidity of each pair, by quarter of an hour of the trade.
CREATE OR REPLACE VIEW crypto.trends_15_minutes AS
SELECT
  trading_pair,
  date_add('minute', -(minute(trade_time) % 15), date_trunc('minute', trade_time)) AS quarter_hour,
  avg(CAST(normalized_price AS double)) AS avg_normalized_price,
  stddev(CAST(price AS double)) AS stddev_price,
  sum(trade_value) AS trade_value,
  count(*) AS trades
FROM crypto.live_trades
GROUP BY 1, 2;
