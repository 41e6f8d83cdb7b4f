-- Trades that are there and valid: what dashboards count. `trade_time` is "timestamp" in UTC, whatever its spelling.
CREATE OR REPLACE VIEW crypto.live_trades AS
SELECT
  event_id,
  event_name,
  event_timestamp,
  cdc_ts_us,
  ordering_key,
  source,
  table_name,
  shard_id,
  sequence_number,
  transaction_id,
  "timestamp",
  "exchange",
  trading_pair,
  order_type,
  price,
  quantity,
  trade_fee,
  trade_status,
  user_id,
  wallet_address,
  order_source,
  trade_value,
  risk_flag,
  normalized_price,
  adjusted_trade_fee,
  user_category,
  hour_bucket,
  ingestion_time,
  CAST(from_iso8601_timestamp(
    replace(upper("timestamp"), ' ', 'T')
    || if(regexp_like("timestamp", '([Zz]|[+-][0-9]{2}(:?[0-9]{2})?)$'), '', 'Z')
  ) AT TIME ZONE 'UTC' AS timestamp) AS trade_time
FROM crypto.processed_crypto_txn
WHERE is_valid AND NOT is_deleted;
