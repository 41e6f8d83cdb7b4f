-- Rows of landing in fewer, larger objects, line by line the same: what the compaction job writes. Made by `kinetide schema`;
-- do not edit.
CREATE EXTERNAL TABLE crypto.landing_compacted (
  `event_id` string,
  `event_name` string,
  `event_timestamp` string,
  `cdc_ts_us` bigint,
  `ordering_key` string,
  `source` string,
  `table_name` string,
  `shard_id` string,
  `sequence_number` string,
  `is_deleted` boolean,
  `delete_reason` string,
  `transaction_id` string,
  `timestamp` string,
  `exchange` string,
  `trading_pair` string,
  `order_type` string,
  `price` decimal(38,18),
  `quantity` decimal(38,18),
  `trade_fee` decimal(38,18),
  `trade_status` string,
  `user_id` string,
  `wallet_address` string,
  `order_source` string,
  `trade_value` decimal(21,8),
  `risk_flag` string,
  `normalized_price` decimal(10,2),
  `adjusted_trade_fee` decimal(12,6),
  `user_category` string,
  `hour_bucket` string,
  `ingestion_time` string,
  `is_valid` boolean,
  `invalid_reason` string
)
PARTITIONED BY (year int, month int, day int, hour int)
ROW FORMAT SERDE 'org.apache.hive.hcatalog.data.JsonSerDe'
LOCATION 's3://ANALYTICS/compacted/transactions/'
TBLPROPERTIES (
  'classification'='json', 'compressionType'='gzip', 'projection.enabled'='true',
  'projection.year.type'='integer', 'projection.year.range'='2024,2035', 'projection.year.digits'='4',
  'projection.month.type'='integer', 'projection.month.range'='1,12', 'projection.month.digits'='2',
  'projection.day.type'='integer', 'projection.day.range'='1,31', 'projection.day.digits'='2',
  'projection.hour.type'='integer', 'projection.hour.range'='0,23', 'projection.hour.digits'='2',
  'storage.location.template'='s3://ANALYTICS/compacted/transactions/year=${year}/month=${month}/day=${day}/hour=${hour}/'
);
