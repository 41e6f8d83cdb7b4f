-- Rows that are no valid trade, by reason. Parameters: year, month.
SELECT invalid_reason, count(*) AS landed
FROM crypto.landing_transactions
WHERE year = ? AND month = ? AND NOT is_valid
GROUP BY 1
ORDER BY 1;
