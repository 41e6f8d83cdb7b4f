-- What users paid against the price of the market: by hour and pair the mean price of trades, weighted by quantity, and the
-- last price of CoinGecko in that hour. Parameters: year and month of the hours.
SELECT
  trades.trade_hour,
  trades.trading_pair,
  trades.trades,
  trades.mean_price,
  market.current_price AS market_price,
  100 * (trades.mean_price / nullif(market.current_price, 0) - 1) AS pct_above_market
FROM (
  SELECT
    date_trunc('hour', trade_time) AS trade_hour,
    trading_pair,
    coins.id,
    count(*) AS trades,
    CAST(sum(trade_value) AS double) / nullif(CAST(sum(quantity) AS double), 0) AS mean_price
  FROM crypto.live_trades
  INNER JOIN (
    VALUES
    ('BTC/USD', 'bitcoin'),
    ('ETH/USDT', 'ethereum'),
    ('SOL/USD', 'solana'),
    ('ADA/USDT', 'cardano'),
    ('XRP/USD', 'ripple')
  ) AS coins (pair, id) ON trading_pair = coins.pair
  GROUP BY 1, 2, 3
) AS trades
INNER JOIN (
  SELECT
    id,
    date_trunc('hour', CAST(from_unixtime("timestamp") AT TIME ZONE 'UTC' AS timestamp)) AS price_hour,
    max_by(current_price, "timestamp") AS current_price
  FROM crypto_data.analytics_prices
  WHERE year = ? AND month = ? AND current_price IS NOT NULL
  GROUP BY 1, 2
) AS market ON trades.id = market.id AND trades.trade_hour = market.price_hour
ORDER BY 1, 2;
