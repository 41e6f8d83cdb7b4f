-- Prices for dashboards, loaded once an hour (load/insert_last_hour.sql). Numbers in folders have no zeros in front: so Athena
-- itself writes them.
CREATE EXTERNAL TABLE crypto_data.analytics_prices (
  `id` string,
  `symbol` string,
  `name` string,
  `current_price` double,
  `market_cap` bigint,
  `market_cap_rank` int,
  `volume_24h` bigint,
  `price_change_pct_1h` double,
  `price_change_pct_24h` double,
  `price_change_pct_7d` double,
  `timestamp` bigint
)
PARTITIONED BY (year int, month int, day int, hour int)
STORED AS PARQUET
LOCATION 's3://ANALYTICS/analytics/market_prices/'
TBLPROPERTIES (
  'classification'='parquet', 'projection.enabled'='true',
  'projection.year.type'='integer', 'projection.year.range'='2024,2035',
  'projection.month.type'='integer', 'projection.month.range'='1,12',
  'projection.day.type'='integer', 'projection.day.range'='1,31',
  'projection.hour.type'='integer', 'projection.hour.range'='0,23',
  'storage.location.template'='s3://ANALYTICS/analytics/market_prices/year=${year}/month=${month}/day=${day}/hour=${hour}/'
);
