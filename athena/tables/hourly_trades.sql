-- Trades of an hour by exchange and pair, from live trades. The Glue job overwrites whole hours.
CREATE EXTERNAL TABLE crypto.hourly_trades (
  `hour_bucket` string,
  `exchange` string,
  `trading_pair` string,
  `trades` bigint,
  `quantity` decimal(38,18),
  `trade_value` decimal(38,8),
  `vwap` double,
  `min_price` decimal(38,18),
  `max_price` decimal(38,18),
  `avg_normalized_price` decimal(14,6),
  `stddev_price` double,
  `fees` decimal(38,18),
  `adjusted_fees` decimal(38,6),
  `buys` bigint,
  `sells` bigint,
  `low_risk` bigint,
  `medium_risk` bigint,
  `high_risk` bigint,
  `success` bigint,
  `pending` bigint,
  `users` bigint
)
PARTITIONED BY (year int, month int, day int, hour int)
STORED AS PARQUET
LOCATION 's3://ANALYTICS/analytics/hourly_trades/'
TBLPROPERTIES (
  'classification'='parquet', 'projection.enabled'='true',
  'projection.year.type'='integer', 'projection.year.range'='2024,2035', 'projection.year.digits'='4',
  'projection.month.type'='integer', 'projection.month.range'='1,12', 'projection.month.digits'='2',
  'projection.day.type'='integer', 'projection.day.range'='1,31', 'projection.day.digits'='2',
  'projection.hour.type'='integer', 'projection.hour.range'='0,23', 'projection.hour.digits'='2',
  'storage.location.template'='s3://ANALYTICS/analytics/hourly_trades/year=${year}/month=${month}/day=${day}/hour=${hour}/'
);
