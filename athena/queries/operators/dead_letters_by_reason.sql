-- Dead letters by reason, how many of them no replay has landed, and the place of one of them. Parameters: year and month of
-- the folders of dead letters, year and month of the folders of rows: those of the changes that were replayed.
SELECT
  reason,
  count(*) AS dead_letters,
  count(*) - count(landed.sequence_number) AS still_open,
  min(letters.shardid || '/' || letters.sequencenumber) AS example,
  date_format(from_unixtime(max(letters.arrivaltimestamp) / 1000), '%Y-%m-%dT%H') AS last_hour
FROM (
  SELECT * FROM crypto.dead_letters WHERE year = ? AND month = ?
) AS letters
LEFT JOIN (
  SELECT DISTINCT shard_id, sequence_number FROM crypto.landing_transactions WHERE year = ? AND month = ?
) AS landed ON landed.shard_id = letters.shardid AND landed.sequence_number = letters.sequencenumber
GROUP BY 1
ORDER BY 1;
