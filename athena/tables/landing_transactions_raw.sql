-- The same rows with every column as text, for values that do not fit their column: use TRY_CAST. Do not edit.
CREATE EXTERNAL TABLE crypto.landing_transactions_raw (
  `event_id` string,
  `event_name` string,
  `event_timestamp` string,
  `cdc_ts_us` string,
  `ordering_key` string,
  `source` string,
  `table_name` string,
  `shard_id` string,
  `sequence_number` string,
  `is_deleted` string,
  `delete_reason` string,
  `transaction_id` string,
  `timestamp` string,
  `exchange` string,
  `trading_pair` string,
  `order_type` string,
  `price` string,
  `quantity` string,
  `trade_fee` string,
  `trade_status` string,
  `user_id` string,
  `wallet_address` string,
  `order_source` string,
  `trade_value` string,
  `risk_flag` string,
  `normalized_price` string,
  `adjusted_trade_fee` string,
  `user_category` string,
  `hour_bucket` string,
  `ingestion_time` string,
  `is_valid` string,
  `invalid_reason` string
)
PARTITIONED BY (year int, month int, day int, hour int)
ROW FORMAT SERDE 'org.apache.hive.hcatalog.data.JsonSerDe'
LOCATION 's3://BUCKET/landing/transactions/'
TBLPROPERTIES (
  'classification'='json', 'compressionType'='gzip', 'projection.enabled'='true',
  'projection.year.type'='integer', 'projection.year.range'='2024,2035', 'projection.year.digits'='4',
  'projection.month.type'='integer', 'projection.month.range'='1,12', 'projection.month.digits'='2',
  'projection.day.type'='integer', 'projection.day.range'='1,31', 'projection.day.digits'='2',
  'projection.hour.type'='integer', 'projection.hour.range'='0,23', 'projection.hour.digits'='2',
  'storage.location.template'='s3://BUCKET/landing/transactions/year=${year}/month=${month}/day=${day}/hour=${hour}/'
);
