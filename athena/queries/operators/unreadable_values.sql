-- Rows with a number that does not fit its column: landing_transactions fails on them (HIVE_BAD_DATA), or shows null.
-- Parameters: year, month.
SELECT "$path" AS object, transaction_id, cdc_ts_us, price, quantity, trade_fee, trade_value
FROM crypto.landing_transactions_raw
WHERE
  year = ? AND month = ?
  AND (
    (cdc_ts_us IS NOT NULL AND TRY_CAST(cdc_ts_us AS bigint) IS NULL)
    OR (price IS NOT NULL AND TRY_CAST(price AS decimal(38, 18)) IS NULL)
    OR (quantity IS NOT NULL AND TRY_CAST(quantity AS decimal(38, 18)) IS NULL)
    OR (trade_fee IS NOT NULL AND TRY_CAST(trade_fee AS decimal(38, 18)) IS NULL)
    OR (trade_value IS NOT NULL AND TRY_CAST(trade_value AS decimal(21, 8)) IS NULL)
  )
ORDER BY 1, 2;
