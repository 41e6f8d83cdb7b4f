-- The same prices with types. A value that does not fit its column makes a query fail: processed_prices_raw has it as text.
CREATE EXTERNAL TABLE crypto_data.processed_prices (
  `id` string,
  `symbol` string,
  `name` string,
  `current_price` double,
  `market_cap` double,
  `market_cap_rank` double,
  `volume_24h` double,
  `price_change_pct_1h` double,
  `price_change_pct_24h` double,
  `price_change_pct_7d` double,
  `timestamp` bigint,
  `unusable` string
)
PARTITIONED BY (year int, month int, day int, hour int)
ROW FORMAT SERDE 'org.apache.hive.hcatalog.data.JsonSerDe'
LOCATION 's3://BUCKET/market/coingecko/processed/'
TBLPROPERTIES (
  'classification'='json', 'compressionType'='gzip', 'projection.enabled'='true',
  'projection.year.type'='integer', 'projection.year.range'='2024,2035', 'projection.year.digits'='4',
  'projection.month.type'='integer', 'projection.month.range'='1,12', 'projection.month.digits'='2',
  'projection.day.type'='integer', 'projection.day.range'='1,31', 'projection.day.digits'='2',
  'projection.hour.type'='integer', 'projection.hour.range'='0,23', 'projection.hour.digits'='2',
  'storage.location.template'='s3://BUCKET/market/coingecko/processed/year=${year}/month=${month}/day=${day}/hour=${hour}/'
);
