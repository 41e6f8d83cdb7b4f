-- Rows and dead letters by hour of arrival. Each record of the stream is one of the two, so `records` is what the stream's
-- metric IncomingRecords counts, but for replays. Parameters: year and month of the folders of rows, year and month of
-- the folders of dead letters. A row lies in the hour of its change: late ones may be in an earlier month.
SELECT arrival_hour, sum(landed) AS landed, sum(dead_letters) AS dead_letters, sum(landed) + sum(dead_letters) AS records
FROM (
  SELECT substr(ingestion_time, 1, 13) AS arrival_hour, count(*) AS landed, 0 AS dead_letters
  FROM crypto.landing_transactions
  WHERE year = ? AND month = ?
  GROUP BY 1
  UNION ALL
  SELECT date_format(from_unixtime(arrivaltimestamp / 1000), '%Y-%m-%dT%H') AS arrival_hour, 0 AS landed, count(*) AS dead_letters
  FROM crypto.dead_letters
  WHERE year = ? AND month = ?
  GROUP BY 1
)
GROUP BY 1
ORDER BY 1;
