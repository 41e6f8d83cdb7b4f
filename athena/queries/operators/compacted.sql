-- By folder of the hour: rows in landing, compacted rows, and rows in one or both. What is in landing only waits for the next
-- run of the compaction, or was refused by it; what is compacted only has expired from landing. Parameters: year and month,
-- three times.
SELECT
  CAST(year AS varchar) || '-' || lpad(CAST(month AS varchar), 2, '0') || '-' || lpad(CAST(day AS varchar), 2, '0')
  || 'T' || lpad(CAST(hour AS varchar), 2, '0') AS folder,
  sum(landed) AS landed,
  sum(compacted) AS compacted,
  sum(found) AS found
FROM (
  SELECT year, month, day, hour, 1 AS landed, 0 AS compacted, 0 AS found
  FROM crypto.landing_transactions
  WHERE year = ? AND month = ?
  UNION ALL
  SELECT year, month, day, hour, 0 AS landed, 1 AS compacted, 0 AS found
  FROM crypto.landing_compacted
  WHERE year = ? AND month = ?
  UNION ALL
  SELECT year, month, day, hour, 0 AS landed, 0 AS compacted, 1 AS found
  FROM crypto.landing_all
  WHERE year = ? AND month = ?
)
GROUP BY 1
ORDER BY 1;
