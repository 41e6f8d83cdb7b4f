-- What the table hourly_trades should hold, computed from live trades: to check the job, or to do without it.
CREATE OR REPLACE VIEW crypto.hourly_trades_computed AS
SELECT
  hour_bucket,
  "exchange",
  trading_pair,
  count(*) AS trades,
  sum(quantity) AS quantity,
  sum(trade_value) AS trade_value,
  CAST(sum(trade_value) AS double) / CAST(sum(quantity) AS double) AS vwap,
  min(price) AS min_price,
  max(price) AS max_price,
  CAST(avg(CAST(normalized_price AS decimal(14, 6))) AS decimal(14, 6)) AS avg_normalized_price,
  stddev(CAST(price AS double)) AS stddev_price,
  sum(trade_fee) AS fees,
  sum(adjusted_trade_fee) AS adjusted_fees,
  count_if(order_type = 'BUY') AS buys,
  count_if(order_type = 'SELL') AS sells,
  count_if(risk_flag = 'LOW_RISK') AS low_risk,
  count_if(risk_flag = 'MEDIUM_RISK') AS medium_risk,
  count_if(risk_flag = 'HIGH_RISK') AS high_risk,
  count_if(trade_status = 'SUCCESS') AS success,
  count_if(trade_status = 'PENDING') AS pending,
  count(DISTINCT user_id) AS users
FROM crypto.live_trades
GROUP BY 1, 2, 3;
