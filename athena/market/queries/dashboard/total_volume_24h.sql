-- What was traded of all coins together in 24 hours.
SELECT sum(CAST(volume_24h AS decimal(38, 0))) AS total_volume_24h
FROM crypto_data.v_latest_snapshot;
