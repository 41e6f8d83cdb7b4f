-- Volume of 24 hours by coin, and the sum of all.
SELECT *
FROM crypto_data.v_volume_24h
ORDER BY place;
