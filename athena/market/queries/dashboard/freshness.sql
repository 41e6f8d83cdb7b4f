-- The newest hour that has prices.
SELECT *
FROM crypto_data.v_latest_partition;
