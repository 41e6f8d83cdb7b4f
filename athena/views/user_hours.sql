-- Trades of an hour by user and pair, from live trades.
CREATE OR REPLACE VIEW crypto.user_hours AS
SELECT
  user_id,
  trading_pair,
  hour_bucket,
  count(*) AS trades,
  sum(trade_value) AS trade_value,
  max(trade_value) AS largest_trade
FROM crypto.live_trades
WHERE user_id <> '' AND trading_pair <> '' AND trade_value > 0
GROUP BY 1, 2, 3;
