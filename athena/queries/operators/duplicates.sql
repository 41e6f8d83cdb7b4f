-- Rows that are in the lake twice: the same position in the stream. There are none, unless somebody copied objects.
-- Records that the KPL packed share a sequence number: add sub_sequence_number to the table and here. Parameters: year, month.
SELECT shard_id, sequence_number, count(*) AS copies
FROM crypto.landing_transactions
WHERE year = ? AND month = ?
GROUP BY 1, 2
HAVING count(*) > 1
ORDER BY 1, 2;
