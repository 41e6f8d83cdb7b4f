-- Dead letters by reason, with the place of one of them. Parameters: year, month.
SELECT
  reason,
  count(*) AS dead_letters,
  min(shardid || '/' || sequencenumber) AS example,
  date_format(from_unixtime(max(arrivaltimestamp) / 1000), '%Y-%m-%dT%H') AS last_hour
FROM crypto.dead_letters
WHERE year = ? AND month = ?
GROUP BY 1
ORDER BY 1;
