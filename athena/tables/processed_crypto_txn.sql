-- The newest state of each transaction, deleted and invalid ones too: a Hudi table, copy on write. The Glue job
-- adds its partitions, and columns of new attributes. In a catalog that the job may not write to, new partitions need
-- ALTER TABLE crypto.processed_crypto_txn ADD PARTITION (exchange_part = 'X') LOCATION '…/exchange_part=X'.
CREATE EXTERNAL TABLE crypto.processed_crypto_txn (
  `_hoodie_commit_time` string,
  `_hoodie_commit_seqno` string,
  `_hoodie_record_key` string,
  `_hoodie_partition_path` string,
  `_hoodie_file_name` string,
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
PARTITIONED BY (exchange_part string)
ROW FORMAT SERDE 'org.apache.hadoop.hive.ql.io.parquet.serde.ParquetHiveSerDe'
STORED AS INPUTFORMAT 'org.apache.hudi.hadoop.HoodieParquetInputFormat'
OUTPUTFORMAT 'org.apache.hadoop.hive.ql.io.parquet.MapredParquetOutputFormat'
LOCATION 's3://ANALYTICS/lake/processed_crypto_txn/'
TBLPROPERTIES ('athena_enable_native_hudi_connector_implementation'='true');
