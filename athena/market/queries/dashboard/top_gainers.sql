-- Greatest change in 24 hours.
SELECT *
FROM crypto_data.v_top_gainers
ORDER BY place;
