-- The newest state of each transaction, deleted and invalid ones too, straight from landing: for a lake without the Glue
-- job. It reads the whole of landing, so keep the projected years narrow.
CREATE OR REPLACE VIEW crypto.landing_latest AS
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
  is_deleted,
  delete_reason,
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
  is_valid,
  invalid_reason
FROM (
  SELECT
    *,
    row_number() OVER (PARTITION BY transaction_id ORDER BY ordering_key DESC) AS newest
  FROM crypto.landing_transactions
  WHERE transaction_id <> ''
)
WHERE newest = 1;
