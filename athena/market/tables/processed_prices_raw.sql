-- Prices as the poller of CoinGecko writes them, every column as text. The hourly load reads it.
CREATE EXTERNAL TABLE crypto_data.processed_prices_raw (
  `id` string,
  `symbol` string,
  `name` string,
  `current_price` string,
  `market_cap` string,
  `market_cap_rank` string,
  `volume_24h` string,
  `price_change_pct_1h` string,
  `price_change_pct_24h` string,
  `price_change_pct_7d` string,
  `timestamp` string,
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
