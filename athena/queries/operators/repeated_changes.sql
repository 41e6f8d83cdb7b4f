-- Changes that DynamoDB sent more than once, each a record of its own: normal, and the newest state does not see them.
-- Parameters: year, month.
SELECT table_name, transaction_id, cdc_ts_us, event_name, count(*) AS copies
FROM crypto.landing_transactions
WHERE year = ? AND month = ? AND transaction_id <> ''
GROUP BY 1, 2, 3, 4
HAVING count(*) > 1
ORDER BY 2, 3;
