-- The same with folders of hours, which the Glue job writes with PartitionBy=hour.
CREATE EXTERNAL TABLE crypto_data.coincap_assets_by_hour (
  `event_time` timestamp,
  `id` string,
  `symbol` string,
  `name` string,
  `rank` int,
  `price_usd` double,
  `change_percent_24hr` double,
  `volume_usd_24hr` double,
  `market_cap_usd` double,
  `supply` double,
  `logo` string,
  `max_supply` double,
  `vwap_usd_24hr` double
)
PARTITIONED BY (year int, month int, day int, hour int)
STORED AS PARQUET
LOCATION 's3://ANALYTICS/analytics/coincap_assets/'
TBLPROPERTIES (
  'classification'='parquet', 'projection.enabled'='true',
  'projection.year.type'='integer', 'projection.year.range'='2024,2035',
  'projection.month.type'='integer', 'projection.month.range'='1,12',
  'projection.day.type'='integer', 'projection.day.range'='1,31',
  'projection.hour.type'='integer', 'projection.hour.range'='0,23',
  'storage.location.template'='s3://ANALYTICS/analytics/coincap_assets/year=${year}/month=${month}/day=${day}/hour=${hour}/'
);
