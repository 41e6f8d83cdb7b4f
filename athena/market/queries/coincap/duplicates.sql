-- Assets that are there more than once: a job that appended the same snapshot twice. Parameters: year, month.
SELECT id, event_time, count(*) AS copies
FROM crypto_data.coincap_assets
WHERE year = ? AND month = ?
GROUP BY 1, 2
HAVING count(*) > 1
ORDER BY 1, 2;
