-- Greatest change in 7 days.
SELECT *
FROM crypto_data.v_trending
ORDER BY place;
