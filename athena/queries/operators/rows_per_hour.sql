-- Rows and dead letters by hour of arrival. `records` is what the stream's metric IncomingRecords counts; a dead letter that was
-- replayed is one record. Parameters: year and month of the folders of rows, year and month of those of dead letters. A row
-- lies in the hour of its change: late ones may be in an earlier month.
SELECT
  arrival_hour,
  sum(landed) AS landed,
  sum(dead_letters) AS dead_letters,
  count(DISTINCT position) AS records
FROM (
  SELECT
    substr(ingestion_time, 1, 13) AS arrival_hour,
    shard_id || '/' || sequence_number AS position,
    1 AS landed,
    0 AS dead_letters
  FROM crypto.landing_transactions
  WHERE year = ? AND month = ?
  UNION ALL
  SELECT
    date_format(from_unixtime(arrivaltimestamp / 1000), '%Y-%m-%dT%H') AS arrival_hour,
    shardid || '/' || sequencenumber AS position,
    0 AS landed,
    1 AS dead_letters
  FROM crypto.dead_letters
  WHERE year = ? AND month = ?
)
GROUP BY 1
ORDER BY 1;
